"""Points of several groups in one plane, the outstanding ones labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from tl_knowledge.drawing.look import MUTED, PALETTE, label_text, legend_above

__all__ = ["Points", "scatter"]

SYMBOLS = ("circle", "diamond", "square", "triangle-up")


@dataclass(frozen=True)
class Points:
    """A group of points.

    Attributes:
        labels: one a point, shown on hovering.
        labelled: points whose label is written beside them.
    """

    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str]
    labelled: frozenset[int] = frozenset()


def scatter(groups: Mapping[str, Points], *, title: str, subtitle: str, x_axis: str, y_axis: str) -> go.Figure:
    """Groups differ in colour and symbol; names stand in the legend."""
    figure = go.Figure()
    x_axis, y_axis = label_text(x_axis), label_text(y_axis)
    for number, (name, points) in enumerate(groups.items()):
        look = {"color": PALETTE[number % len(PALETTE)], "symbol": SYMBOLS[number % len(SYMBOLS)], "size": 9, "opacity": 0.75}
        texts = [label_text(label) if i in points.labelled else "" for i, label in enumerate(points.labels)]
        hover = f"{label_text(name)}<br>%{{customdata}}<br>{x_axis} %{{x:.3f}}<br>{y_axis} %{{y:.3f}}<extra></extra>"
        figure.add_trace(
            go.Scatter(
                x=list(points.x),
                y=list(points.y),
                name=label_text(name),
                mode="markers+text",
                text=texts,
                textposition="top center" if number % 2 == 0 else "bottom center",
                textfont={"size": 11, "color": look["color"]},
                customdata=[label_text(label) for label in points.labels],
                hovertemplate=hover,
                marker=look,
                cliponaxis=False,
            )
        )
    figure.update_xaxes(title_text=x_axis, gridcolor="white", zeroline=True, zerolinecolor=MUTED)
    figure.update_yaxes(title_text=y_axis, gridcolor="white", zeroline=True, zerolinecolor=MUTED)
    settings = legend_above(title, subtitle, groups, width=760, height=520)
    settings["margin"] |= {"l": 80, "r": 40}
    figure.update_layout(**settings)
    return figure
