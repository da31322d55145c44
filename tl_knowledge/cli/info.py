"""``tl-knowledge info``: what is installed and what can be loaded."""

from __future__ import annotations

from typing import Any

import tl_knowledge as tlk
from tl_knowledge.cli import options
from tl_knowledge.cli.printing import print_json, print_table

__all__ = ["info_command"]


def info_command(as_json: options.AsJson = False) -> None:
    """Say which versions, models and devices are here."""
    import torch

    from tl_knowledge.models.bundled import BUNDLED
    from tl_knowledge.models.loading import hooked_transformer_available
    from tl_knowledge.results.provenance import installed_versions

    devices = ["cpu", *(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count()))]
    backends = [*(["HookedTransformer"] if hooked_transformer_available() else []), "TransformerBridge"]
    facts = len(tlk.load_facts("factlm"))
    bundled = {name: {"directory": str(directory), "facts": facts} for name, directory in BUNDLED.items()}
    versions = installed_versions()
    if as_json:
        data: dict[str, Any] = {"versions": versions, "backends": backends, "devices": devices, "bundled_models": bundled}
        print_json(data)
        return
    rows = [*versions.items(), ("backends", ", ".join(backends)), ("devices", ", ".join(devices))]
    rows.append(("bundled models", f"{', '.join(BUNDLED)} ({facts} facts)"))
    print_table(tlk.drawing.Table((), rows), header=False)
