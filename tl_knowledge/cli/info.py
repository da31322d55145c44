"""``tl-knowledge info``: what is installed and what can be loaded."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.printing import print_json

__all__ = ["info_command"]


def info_command(as_json: options.AsJson = False) -> None:
    """Say which versions, models and devices are here."""
    import torch

    from tl_knowledge.models.loading import FACTLM_DIRECTORY, hooked_transformer_available
    from tl_knowledge.results.provenance import installed_versions

    devices = ["cpu", *(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count()))]
    backends = [*(["HookedTransformer"] if hooked_transformer_available() else []), "TransformerBridge"]
    bundled = {"factlm": {"directory": str(FACTLM_DIRECTORY), "facts": len(tlk.load_facts("factlm"))}}
    versions = installed_versions()
    if as_json:
        data: dict[str, Any] = {"versions": versions, "backends": backends, "devices": devices, "bundled_models": bundled}
        print_json(data)
        return
    table = Table(show_header=False, box=None)
    for name, number in versions.items():
        table.add_row(name, number)
    table.add_row("backends", ", ".join(backends))
    table.add_row("devices", ", ".join(devices))
    table.add_row("bundled model", f"factlm ({bundled['factlm']['facts']} facts)")
    Console().print(table)
