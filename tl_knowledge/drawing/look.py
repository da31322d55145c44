"""One look for the whole package: fonts, colours, margins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go
from markupsafe import escape

from tl_knowledge.results.plain_text import printable

__all__ = ["DASHES", "FONT", "INK", "MUTED", "PALETTE", "RED", "dark", "label_text", "layout", "legend_above"]

FONT = "Inter, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
INK, MUTED, RED = "#1f2430", "#667085", "#c1121f"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito: safe for colour-blind eyes
DASHES = ("solid", "dash", "dot", "dashdot")


def label_text(text: str) -> str:
    """A text as plotly's labels take it, which know a little HTML of their own, ``%{name}`` for a value, and formulas between dollars.

    Example:
        >>> label_text("<unk>"), label_text("%{x}")
        ('&lt;unk&gt;', '%&#123;x}')
    """
    return str(escape(printable(text))).replace("{", "&#123;").replace("$", "&#36;")


def layout(title: str, subtitle: str) -> dict[str, Any]:
    """A figure's title, subtitle, fonts, background and margins."""
    return {
        "title": {"text": label_text(title), "subtitle": {"text": label_text(subtitle), "font": {"size": 12, "color": MUTED}}, "x": 0.02},
        "font": {"family": FONT, "size": 12, "color": INK},
        "plot_bgcolor": "#f4f4f6",
        "paper_bgcolor": "white",
        "margin": {"l": 130, "r": 90, "t": 120, "b": 60},
    }


def legend_above(title: str, subtitle: str, names: Iterable[str], *, width: int, height: int) -> dict[str, Any]:
    """`layout` with a legend between the subtitle and what is drawn, which makes room for as many lines as its names take.

    Args:
        height: of a figure whose legend takes one line.
    """
    lines = max(1, -(-sum(60 + 7 * len(name) for name in names) // (width - 220)))
    settings, height = layout(title, subtitle), height + 24 * (lines - 1)
    settings["margin"] |= {"t": 84 + 24 * lines}
    settings["title"] |= {"y": 1 - 16 / height, "yanchor": "top"}
    return settings | {"height": height, "width": width, "legend": {"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0}}


_NIGHT = {
    "white": "#2c313c",  # grid lines, and the rims of markers
    INK: "#e6e8ec",
    MUTED: "#9aa3b2",
    "#f4f4f6": "#1f2430",
    "#000000": "#e6e8ec",
    "#6a51a3": "#a48fd8",
    "#0072b2": "#3f9fdd",
    "#56b4e9": "#a6dcff",
    "#d55e00": "#f58b3c",
}


def dark(figure: go.Figure) -> go.Figure:
    """A copy of any figure of this package for a dark background; heat maps keep their scales.

    Example:
        >>> figure = dark(go.Figure(layout=layout("title", "subtitle")))
        >>> figure.layout.paper_bgcolor
        '#15181f'
    """
    plain: dict[str, Any] = figure.to_plotly_json()
    recoloured = go.Figure(_recoloured({"data": plain["data"], "layout": {k: v for k, v in plain["layout"].items() if k != "template"}}))
    return recoloured.update_layout(paper_bgcolor="#15181f", template="plotly_dark")


def _recoloured(value: Any) -> Any:
    """Every colour that belongs to the light look, replaced."""
    if isinstance(value, dict):
        return {key: _recoloured(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_recoloured(inner) for inner in value]
    return _NIGHT.get(value, value) if isinstance(value, str) else value
