"""Directed graphs on a grid: layers left to right, tokens top to bottom, arrows weighted by what they carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from tl_knowledge.drawing.look import ROLE_COLOURS, frame, label_text, shortened
from tl_knowledge.drawing.says import with_sentence
from tl_knowledge.wording import counted

__all__ = ["Arrow", "GraphPoint", "graph"]

POSITIVE, NEGATIVE = ROLE_COLOURS["raises"], ROLE_COLOURS["lowers"]  # the sign is also in the dash
WIDEST, THINNEST = 9.0, 0.8
LARGEST, SMALLEST = 30.0, 8.0


@dataclass(frozen=True)
class GraphPoint:
    """A node: its place, how it looks, and what hovering says.

    Attributes:
        size: from 0 to 1.
        hover: HTML.
        colour: overrides that of its kind.
    """

    x: float
    y: float
    kind: str
    size: float
    hover: str
    colour: str | None = None


@dataclass(frozen=True)
class Arrow:
    """An edge between two points by number; ``colour`` overrides that of its sign."""

    source: int
    target: int
    weight: float
    hover: str
    colour: str | None = None
    name: str | None = None


def graph(
    points: Sequence[GraphPoint],
    arrows: Sequence[Arrow],
    *,
    looks: dict[str, tuple[str, str]],
    rows: Sequence[str],
    columns: Sequence[tuple[float, str]],
    title: str,
    subtitle: str,
    marked: frozenset[int] = frozenset(),
    says: str | None = None,
) -> go.Figure:
    """Draw a graph.

    Args:
        looks: marker symbol and colour of each kind, in the order of the legend.
        rows: the tokens, top to bottom.
        columns: places and names along the x axis.
        marked: rows whose label is drawn bold with an asterisk.
        says: the sentence for a page; by default from where to where the widest arrow goes.
    """
    figure = go.Figure()
    heaviest = max((abs(arrow.weight) for arrow in arrows), default=1.0) or 1.0
    shown: set[str] = set()
    for arrow in sorted(arrows, key=lambda a: abs(a.weight)):
        figure.add_traces(_arrow_traces(points, arrow, abs(arrow.weight) / heaviest, shown))
    for kind, (symbol, colour) in looks.items():
        own = [point for point in points if point.kind == kind]
        if own:
            sizes = [SMALLEST + (LARGEST - SMALLEST) * point.size**0.5 for point in own]
            marker = {
                "symbol": symbol,
                "size": sizes,
                "color": [p.colour or colour for p in own],
                "line": {"color": "white", "width": 1.5},
                "opacity": 1,
            }
            at = {"x": [point.x for point in own], "y": [point.y for point in own]}
            texts = {"text": [point.hover for point in own], "hovertemplate": "%{text}<extra></extra>"}
            figure.add_trace(go.Scatter(**at, **texts, mode="markers", marker=marker, showlegend=False, legendgroup=label_text(kind)))
            look = {"symbol": symbol, "size": 11, "color": colour}
            figure.add_trace(go.Scatter(x=[None], y=[None], name=label_text(kind), mode="markers", marker=look, legendgroup=label_text(kind)))
    short = [label_text(shortened(row, 32)) for row in rows]
    labels = [f"<b>{row}*</b>" if i in marked else row for i, row in enumerate(short)]
    figure.update_yaxes(
        range=[len(rows) - 0.4, -0.6],
        tickvals=list(range(len(rows))),
        ticktext=labels,
        title_text="token",
        gridcolor="white",
        automargin=True,
        title_standoff=8,
    )
    low, high = columns[0][0], columns[-1][0]
    ticks, names = [place for place, _ in columns], [label_text(name) for _, name in columns]
    figure.update_xaxes(range=[low - 0.6, high + 0.6], tickvals=ticks, ticktext=names, title_text="layer", gridcolor="white", zeroline=False)
    names = dict.fromkeys(str(trace["name"]) for trace in figure.data if trace["name"])  # pyright: ignore
    width, body = max(760, min(1180, 240 + 66 * len(columns))), 118 + 44 * len(rows)
    figure.update_layout(**frame(title, subtitle, width=width, body=body, names=names, l=130, r=30), hovermode="closest")
    figure.update_layout(legend_itemsizing="constant")
    return with_sentence(figure, _sentence(points, arrows, rows, columns) if says is None else says)


def _sentence(points: Sequence[GraphPoint], arrows: Sequence[Arrow], rows: Sequence[str], columns: Sequence[tuple[float, str]]) -> str:
    """How much is drawn, and from where to where the widest arrow goes; without arrows, where the largest mark is."""

    def place(point: GraphPoint) -> str:
        row, column = rows[min(max(round(point.y), 0), len(rows) - 1)].strip(), min(columns, key=lambda column: abs(column[0] - point.x))[1]
        layer = f" (layer {column})" if column.isdecimal() else ""
        return "the answer" if point.kind == "answer" else f"{point.kind} at {row!r}{layer}"

    drawn = f"{counted(len(points), 'mark')}, {counted(len(arrows), 'arrow')}."
    if arrows:
        widest = max(arrows, key=lambda arrow: abs(arrow.weight))
        return f"{drawn} The widest arrow ({widest.weight:+.3f}) goes from {place(points[widest.source])} to {place(points[widest.target])}."
    if points:
        return f"{drawn} The largest mark: {place(max(points, key=lambda point: point.size))}."
    return "Nothing is drawn: no site was kept."


def _arrow_traces(points: Sequence[GraphPoint], arrow: Arrow, share: float, shown: set[str]) -> list[go.Scatter]:
    """A curve with an arrowhead, wider and darker the more it carries; hovering anywhere near its middle says what."""
    start, end = points[arrow.source], points[arrow.target]
    x, y = _curve(start, end)
    colour = arrow.colour or (POSITIVE if arrow.weight >= 0 else NEGATIVE)
    name = label_text(arrow.name or "") or ("raises the answer" if arrow.weight >= 0 else "lowers the answer")
    line = {"color": colour, "width": THINNEST + (WIDEST - THINNEST) * share, "dash": "solid" if arrow.weight >= 0 else "dot"}
    opacity = 0.25 + 0.6 * share
    curve = go.Scatter(x=x, y=y, mode="lines", line=line, opacity=opacity, hoverinfo="skip", showlegend=False, legendgroup=name)
    tip = {"symbol": "arrow", "size": 8 + 8 * share, "color": colour, "angleref": "previous", "opacity": [0.0, min(1.0, opacity + 0.15)]}
    cut = len(x) * 3 // 4
    head = go.Scatter(
        x=x[cut - 1 : cut + 1], y=y[cut - 1 : cut + 1], mode="markers", marker=tip, hoverinfo="skip", showlegend=False, legendgroup=name
    )
    middle, invisible = len(x) // 2, {"size": 12, "color": colour, "opacity": 0.0}
    text = {"text": [arrow.hover], "hovertemplate": "%{text}<extra></extra>"}
    target = go.Scatter(x=[x[middle]], y=[y[middle]], mode="markers", marker=invisible, **text, showlegend=False, legendgroup=name)
    entry: list[go.Scatter] = []
    if name not in shown:
        shown.add(name)
        entry = [
            go.Scatter(
                x=[None], y=[None], mode="lines", name=name, legendgroup=name, line=line | {"width": 4} | ({"dash": "solid"} if arrow.name else {})
            )
        ]
    return [curve, head, target, *entry]


def _curve(start: GraphPoint, end: GraphPoint, steps: int = 25) -> tuple[list[float], list[float]]:
    """A quadratic curve; along one row it bends upwards, the more the further it goes, so that arrows over others can be told apart."""
    t = np.linspace(0, 1, steps)
    flat = abs(end.y - start.y) < 1e-9
    bend = -0.10 - 0.055 * abs(end.x - start.x) if flat else 0.0
    middle_x = start.x + (end.x - start.x) * (0.5 if flat else 0.75)
    middle_y = start.y + bend if flat else start.y + 0.25 * (end.y - start.y)
    x = (1 - t) ** 2 * start.x + 2 * t * (1 - t) * middle_x + t**2 * end.x
    y = (1 - t) ** 2 * start.y + 2 * t * (1 - t) * middle_y + t**2 * end.y
    return [float(v) for v in x], [float(v) for v in y]
