"""Points of several groups in one plane, the outstanding ones labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from tl_knowledge.drawing.look import MUTED, colour_of, frame, label_text, shortened
from tl_knowledge.drawing.says import extremes, with_sentence

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
    horizontal, vertical = label_text(x_axis), label_text(y_axis)
    for number, (name, points) in enumerate(groups.items()):
        look = {"color": colour_of(name, number), "symbol": SYMBOLS[number % len(SYMBOLS)], "size": 9, "opacity": 0.75}
        texts = [label_text(shortened(label, 24)) if i in points.labelled else "" for i, label in enumerate(points.labels)]
        hover = f"{label_text(name)}<br>%{{customdata}}<br>{horizontal} %{{x:.3f}}<br>{vertical} %{{y:.3f}}<extra></extra>"
        figure.add_trace(
            go.Scatter(
                x=list(points.x),
                y=list(points.y),
                name=label_text(shortened(name, 60)),
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
    figure.update_xaxes(title_text=horizontal, gridcolor="white", zeroline=True, zerolinecolor=MUTED)
    figure.update_yaxes(title_text=vertical, gridcolor="white", zeroline=True, zerolinecolor=MUTED)
    figure.update_layout(**frame(title, subtitle, width=760, body=440, names=groups if len(groups) > 1 else (), l=80))
    return with_sentence(figure, _sentence(groups, x_axis, y_axis))


def _sentence(groups: Mapping[str, Points], x_axis: str, y_axis: str) -> str:
    """Which point is highest and which lowest; where it lies along the other axis."""
    points = [
        (y, f"for {label}{f' ({name})' * (len(groups) > 1)}, at {x_axis} {x:.3g}")
        for name, each in groups.items()
        for x, y, label in zip(each.x, each.y, each.labels, strict=True)
    ]
    return extremes(y_axis, [y for y, _ in points], [place for _, place in points])
