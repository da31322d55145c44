"""One look for the whole package: fonts, colours, margins."""

from __future__ import annotations

import html
from typing import Any

__all__ = ["DASHES", "FONT", "INK", "MUTED", "PALETTE", "RED", "layout"]

FONT = "Inter, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
INK, MUTED, RED = "#1f2430", "#667085", "#c1121f"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito: safe for colour-blind eyes
DASHES = ("solid", "dash", "dot", "dashdot")


def layout(title: str, subtitle: str) -> dict[str, Any]:
    """A figure's title, subtitle, fonts, background and margins."""
    return {
        "title": {"text": html.escape(title), "subtitle": {"text": html.escape(subtitle), "font": {"size": 12, "color": MUTED}}, "x": 0.02},
        "font": {"family": FONT, "size": 12, "color": INK},
        "plot_bgcolor": "#f4f4f6",
        "paper_bgcolor": "white",
        "margin": {"l": 130, "r": 90, "t": 120, "b": 60},
    }
