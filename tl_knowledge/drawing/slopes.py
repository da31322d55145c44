"""Lines from what was to what is, one row a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from tl_knowledge.drawing.look import MUTED, PALETTE, frame, label_text, shortened, whiskers
from tl_knowledge.drawing.points import SYMBOLS
from tl_knowledge.drawing.says import extremes, with_sentence
from tl_knowledge.results.statistics import interval_text

__all__ = ["slope_chart"]

ROOM = 0.6  # of a row, shared by the groups' lines


def slope_chart(
    labels: Sequence[str],
    values: Sequence[float],
    points: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    title: str,
    subtitle: str,
    value_axis: str,
) -> go.Figure:
    """A row a label, first on top; in it a line for each group, from the common open point to the group's filled one.

    Args:
        values: where the lines begin, one a label.
        points: for each group its (value, low, high), one a label; a NaN end draws no interval.
    """
    figure, axis = go.Figure(), label_text(value_axis)
    texts = [label_text(label) for label in labels]
    for number, (name, rows) in enumerate(points.items()):
        places = [row + ROOM * ((number + 0.5) / len(points) - 0.5) for row in range(len(labels))]
        look = PALETTE[number % len(PALETTE)], SYMBOLS[number % len(SYMBOLS)]
        hover = f"{label_text(name)}<br>%{{text}}<br>{axis} %{{x:.1f}}%{{customdata[2]}}<extra></extra>"
        figure.add_traces(_lines(values, rows, places, look, name=label_text(shortened(name, 60)), text=texts, hovertemplate=hover))
    short = [label_text(shortened(label)) for label in labels]
    figure.update_yaxes(
        autorange="reversed", tickvals=list(range(len(labels))), ticktext=short, gridcolor="white", zeroline=False, automargin=True, title_standoff=8
    )
    figure.update_xaxes(title_text=axis, gridcolor="white", zeroline=True, zerolinecolor=MUTED)
    several = len(points) > 1
    body, names = 90 + (22 + 9 * len(points)) * len(labels), points if several else ()
    figure.update_layout(**frame(title, subtitle, width=860, body=body, names=names), showlegend=several)
    return with_sentence(figure, _sentence(labels, values, points, value_axis))


def _sentence(labels: Sequence[str], values: Sequence[float], points: Mapping[str, Sequence[tuple[float, float, float]]], value_axis: str) -> str:
    """Which line is longest and which shortest, in either direction."""
    moved = [
        (after - before, f"for {label}{f', {name}' * (len(points) > 1)} (from {before:.1f} to {after:.1f})")
        for name, rows in points.items()
        for label, before, (after, _, _) in zip(labels, values, rows, strict=True)
    ]
    return extremes(f"change ({value_axis})", [by for by, _ in moved], [place for _, place in moved], form="+.1f")


def _lines(
    values: Sequence[float], rows: Sequence[tuple[float, float, float]], places: Sequence[float], look: tuple[str, str], **words: Any
) -> list[go.Scatter]:
    """One group's lines, its filled points with their intervals, and the open ones where the lines begin."""
    colour, symbol = look
    line_x = [x for value, (after, _, _) in zip(values, rows, strict=True) for x in (value, after, None)]
    line_y = [y for place in places for y in (place, place, None)]
    above, below = [high - value for value, _, high in rows], [value - low for value, low, _ in rows]
    error = whiskers(above, below, color=colour, thickness=1, width=3)
    start = {"color": "white", "symbol": symbol, "size": 7, "line": {"color": colour, "width": 1.2}}
    return [
        go.Scatter(x=line_x, y=line_y, mode="lines", line={"color": colour, "width": 4}, opacity=0.25, hoverinfo="skip", showlegend=False),
        go.Scatter(
            x=[value for value, _, _ in rows],
            y=list(places),
            customdata=[(low, high, interval_text(low, high, ".1f")) for _, low, high in rows],
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 9},
            error_x=error,
            **words,
        ),
        go.Scatter(x=list(values), y=list(places), mode="markers", marker=start, hoverinfo="skip", showlegend=False),
    ]
