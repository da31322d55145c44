"""One look for the whole package: fonts, margins, and one colour for each role that a thing plays."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any

import plotly.graph_objects as go
from markupsafe import escape

from tl_knowledge.results.plain_text import printable

__all__ = [
    "DASHES",
    "FONT",
    "INK",
    "MUTED",
    "NIGHT",
    "NIGHT_PAPER",
    "PALETTE",
    "PANEL_TITLE",
    "RED",
    "ROLE_COLOURS",
    "ZERO",
    "colour_of",
    "dark",
    "frame",
    "label_text",
    "legend_lines",
    "panel_titles",
    "role_of",
    "shade",
    "shortened",
    "whiskers",
    "wrapped",
]

FONT = "Inter, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
INK, MUTED, RED, ZERO = "#1f2430", "#667085", "#c1121f", "#ffffff"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito: safe for colour-blind eyes
DASHES = ("solid", "dash", "dot", "dashdot")

ROLE_COLOURS = {
    **dict.fromkeys(("subject", "last subject token", "subject tokens"), "#6a51a3"),
    **dict.fromkeys(("relation", "last relation token"), "#d55e00"),
    **dict.fromkeys(("first subject token", "middle subject tokens"), "#b3a5d6"),
    **dict.fromkeys(("first token after", "further tokens", "first relation token", "middle relation tokens"), "#f3a871"),
    "last token": "#000000",
    "answer": "#e69f00",
    "residual": "#56b4e9",
    "MLP": "#009e73",
    "attention": "#cc79a7",
    "restored": "#8a7a00",
    **dict.fromkeys(("before", "unedited", "before the edit", "clean"), "#667085"),
    **dict.fromkeys(("after", "after the edit"), "#0072b2"),
    "both": "#000000",
    "raises": "#0072b2",
    "lowers": "#b35806",
}
"""The colour of everything that has one in all figures: tokens, parts of a block, states of the model, signs of an effect."""

TITLE, SUBTITLE, PANEL_TITLE = 17, 12, 13  # font sizes
LETTER = 0.56  # of a font's size, that a letter is wide on average
SIDE = 16  # pixels left and right of a title
LONGEST = 44  # letters of a label


def label_text(text: str) -> str:
    """A text as plotly's labels take it, which know a little HTML of their own, ``%{name}`` for a value, and formulas between dollars.

    Example:
        >>> label_text("<unk>"), label_text("%{x}")
        ('&lt;unk&gt;', '%&#123;x}')
    """
    return str(escape(printable(text))).replace("{", "&#123;").replace("$", "&#36;")


def shortened(text: str, most: int = LONGEST) -> str:
    """A label of at most so many letters: of a longer one the beginning and the end. Hovering shows the whole.

    Example:
        >>> shortened("a" * 30 + "b" * 30, 20)
        'aaaaaaaaaaaa…bbbbbbb'
    """
    end = most // 3 + 1
    return text if len(text) <= most else f"{text[: most - end - 1].rstrip()}…{text[-end:].lstrip() if end > 1 else ''}"[:most]


def wrapped(text: str, width: int, size: int) -> list[str]:
    """The lines of a text in a font of that size, none wider than ``width`` pixels; broken between words where it can be.

    Example:
        >>> wrapped("one two three", 60, 12), wrapped("unbreakable", 60, 12)
        (['one two', 'three'], ['unbreaka', 'ble'])
    """
    most, lines = max(1, int(width / (LETTER * size))), [""]
    for word in (long[i : i + most] for long in text.split() for i in range(0, len(long), most)):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > most:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def role_of(name: str) -> str:
    """The role that a name in a legend is of; empty where it is of none.

    Example:
        >>> role_of("subject corrupted (costs 30%)"), role_of("MLPs"), role_of("restored together"), role_of("ROME")
        ('subject', 'MLP', 'restored', '')
    """
    bare = name.partition(" (")[0]
    forms = (bare, *(bare.removesuffix(end) for end in (" corrupted", " tokens", " only", " together", "s", " output")))
    return next((form for form in forms if form in ROLE_COLOURS), "")


def panel_titles(titles: Iterable[str], width: float) -> tuple[list[str], int]:
    """Titles of panels that are so many pixels wide, as labels, and how many lines the longest takes."""
    lines = [wrapped(title, int(width), PANEL_TITLE) for title in titles]
    return ["<br>".join(map(label_text, each)) for each in lines], max((len(each) for each in lines if any(each)), default=0)


def whiskers(above: Iterable[float], below: Iterable[float] | None = None, **look: Any) -> dict[str, Any] | None:
    """Error bars of plotly, as long as given above and below each value; none where a length is not finite, as of one case.

    Plotly reads a missing length as 0 and draws the caps of that; a word in its place draws nothing.

    Example:
        >>> whiskers([1.0, float("nan")])["array"], whiskers([float("nan")])
        ([1.0, 'none'], None)
    """
    ends = [[float(value) if isfinite(value) else "none" for value in side] for side in (above, above if below is None else below)]
    if all(value == "none" for side in ends for value in side):
        return None
    return {"type": "data", "symmetric": False, "array": ends[0], "arrayminus": ends[1]} | look


def colour_of(text: str, number: int) -> str:
    """The colour of the role that a name is of; of what plays none, the palette's by number."""
    return ROLE_COLOURS.get(role_of(text), PALETTE[number % len(PALETTE)])


def shade(colour: str, share: float = 0.55) -> str:
    """A colour, darker: where a heat map's scale ends."""
    return "#" + "".join(f"{round(share * int(colour[i : i + 2], 16)):02x}" for i in (1, 3, 5))


def legend_lines(names: Iterable[str], width: int) -> int:
    """How many lines plotly needs for a legend: one where all names fit, else columns as wide as the longest."""
    widths = [44 + 7 * len(name) for name in names]
    if sum(widths) <= width:
        return min(1, len(widths))
    return -(-len(widths) // max(1, width // max(widths)))


def frame(title: str, subtitle: str, *, width: int, body: int, names: Iterable[str] = (), panels: int = 0, **margin: int) -> dict[str, Any]:
    """A figure's title, subtitle and legend above what is drawn, none over another, with fonts, colours and margins.

    Args:
        body: pixels below them: what is drawn, and its lower margin.
        names: in the legend.
        panels: lines of the panels' own titles.
        margin: the other three: ``l``, ``r`` and ``b``.
    """
    margins = {"l": 60, "r": 40, "b": 60} | margin
    above, below = ([label_text(line) for line in wrapped(text, width - 2 * SIDE, size)] for text, size in ((title, TITLE), (subtitle, SUBTITLE)))
    head = 18 + 22 * len(above) + 16 * len(below)
    own = (12 + 16 * panels) * (panels > 0) + 6
    legend = 24 * legend_lines(names, width - margins["l"] - margins["r"])
    height = head + legend + own + body
    words = {"text": "<br>".join(above), "subtitle": {"text": "<br>".join(below), "font": {"size": SUBTITLE, "color": MUTED}}}
    at = {"orientation": "h", "y": 1 + own / max(1, body - margins["b"]), "yanchor": "bottom", "x": 0, "itemsizing": "trace", "tracegroupgap": 0}
    return {
        "title": words | {"x": SIDE / width, "y": 1 - 12 / height, "yanchor": "top", "font": {"size": TITLE}},
        "font": {"family": FONT, "size": 12, "color": INK},
        "plot_bgcolor": "#f4f4f6",
        "paper_bgcolor": "white",
        "margin": margins | {"t": head + legend + own},
        "legend": at,
        "width": width,
        "height": height,
        "meta": {"head": head, "title": label_text(title), "subtitle": label_text(subtitle)},
    }


_TINTS = {  # for the shades in which a heat map's scale ends by day
    "#6a51a3": "#e3dcfa",
    "#0072b2": "#c9e8ff",
    "#56b4e9": "#d6efff",
    "#009e73": "#b9f7e3",
    "#cc79a7": "#ffe0f0",
    "#b35806": "#ffd9b0",
}
NIGHT = {
    **{shade(colour): tint for colour, tint in _TINTS.items()},
    "white": "#2c313c",  # grid lines, and the rims of markers
    ZERO: "#1f2430",
    "#f4f4f6": "#1f2430",
    INK: "#e6e8ec",
    "#000000": "#e6e8ec",
    MUTED: "#9aa3b2",
    "#c5c9d2": "#475063",
    RED: "#ff6b6b",
    "#6a51a3": "#a48fd8",
    "#b3a5d6": "#6f5fa0",
    "#0072b2": "#3f9fdd",
    "#56b4e9": "#56b4e9",
    "#d55e00": "#f58b3c",
    "#f3a871": "#a9663a",
    "#009e73": "#1fbf92",
    "#cc79a7": "#dd92bc",
    "#b35806": "#d9822b",
    "#8a7a00": "#c9b52b",
}
NIGHT_PAPER = "#15181f"


def dark(figure: go.Figure) -> go.Figure:
    """A copy of any figure of this package for a dark background; a heat map's zero is the panel's background there, too.

    Example:
        >>> figure = dark(go.Figure(layout=frame("title", "subtitle", width=700, body=300)))
        >>> figure.layout.paper_bgcolor
        '#15181f'
    """
    plain: dict[str, Any] = figure.to_plotly_json()
    recoloured = go.Figure(_recoloured({"data": plain["data"], "layout": {k: v for k, v in plain["layout"].items() if k != "template"}}))
    return recoloured.update_layout(paper_bgcolor=NIGHT_PAPER, template="plotly_dark")


def _recoloured(value: Any, colour: bool = False) -> Any:
    """Every colour that belongs to the light look, replaced: what a key calls one, never a label that is spelt like it."""
    if isinstance(value, dict):
        return {key: _recoloured(inner, "color" in str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_recoloured(inner, colour) for inner in value]
    return NIGHT.get(value, value) if colour and isinstance(value, str) else value
