"""``tl-knowledge info``: what is installed and what can be loaded."""

from __future__ import annotations

import json
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from tl_knowledge.datasets import load_facts
from tl_knowledge.models.loading import FACTLM_DIRECTORY, hooked_transformer_available
from tl_knowledge.results.provenance import installed_versions

__all__ = ["info"]


def info(as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False) -> None:
    """Say which versions, models and devices are here."""
    devices = ["cpu", *(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count()))]
    backends = [*(["HookedTransformer"] if hooked_transformer_available() else []), "TransformerBridge"]
    bundled = {"factlm": {"directory": str(FACTLM_DIRECTORY), "facts": len(load_facts("factlm"))}}
    found: dict[str, Any] = {"versions": installed_versions(), "backends": backends, "devices": devices, "bundled_models": bundled}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table(show_header=False, box=None)
    for name, number in found["versions"].items():
        table.add_row(name, number)
    table.add_row("backends", ", ".join(backends))
    table.add_row("devices", ", ".join(devices))
    table.add_row("bundled model", f"factlm ({bundled['factlm']['facts']} facts)")
    Console().print(table)
