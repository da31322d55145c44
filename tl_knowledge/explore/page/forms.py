"""Forms follow the state: a link, an undo or a step back in the browser fills them in again."""

from __future__ import annotations

from typing import Any

from dash import set_props

from tl_knowledge.explore.state import ExplorerState

__all__ = ["fill_in"]


def fill_in(state: ExplorerState, before: ExplorerState) -> None:
    """Write what has changed into the forms; what somebody is typing elsewhere stays."""
    then = _values(before)
    for name, value in _values(state).items():
        if then.get(name) != value:
            set_props(name, {"value": value})


def _values(state: ExplorerState) -> dict[str, Any]:
    values: dict[str, Any] = {
        "prompt": state.prompt,
        "target": state.target or "",
        "corrupt": state.corrupt,
        "window": str(state.window),
        "samples": state.samples,
        "seed": state.seed,
        "metric": state.metric,
        "further": "\n".join(state.further),
    }
    if state.components:
        values["components"] = list(state.components)
    if state.cell is not None:
        values |= dict(zip(("cell-component", "cell-layer", "cell-token"), state.cell, strict=True))
    return values
