"""Heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from tl_knowledge.drawing.look import INK, label_text, layout

__all__ = ["HeatMap", "heat_maps"]

DIVERGING = ("RdBu",)  # their middle is zero


@dataclass(frozen=True)
class HeatMap:
    """One heat map: ``values [row column]`` with a label for each row and column.

    Attributes:
        marked: rows whose label is drawn bold with an asterisk.
        colours: a plotly sequential scale, or ``"RdBu"``, whose middle is zero: losses red, gains blue.
        texts: what stands in each cell; nothing without.
    """

    values: NDArray[np.floating[Any]]
    rows: Sequence[str]
    columns: Sequence[str]
    title: str
    row_axis: str
    column_axis: str
    marked: frozenset[int] = frozenset()
    colours: str = "Purples"
    texts: Sequence[Sequence[str]] | None = None


def heat_maps(maps: Sequence[HeatMap], *, title: str, subtitle: str, colour_axis: str, columns: int | None = None) -> go.Figure:
    """Heat maps side by side on one common colour range, so that equal colours mean equal values.

    Maps of one colour scale share one colour bar, right of the last; maps of several have one each.
    """
    across = columns or len(maps)
    down = -(-len(maps) // across)
    figure = make_subplots(
        rows=down,
        cols=across,
        subplot_titles=[label_text(m.title) for m in maps],
        horizontal_spacing=min(0.22, 0.34 / across),
        vertical_spacing=0.36 / down if down > 1 else 0.0,
    )
    finite = np.concatenate([m.values[np.isfinite(m.values)].ravel() for m in maps] + [np.zeros(1)])
    colour_range = {"zmin": min(0.0, float(finite.min())), "zmax": max(float(finite.max()), 1e-9)}
    if any(m.colours in DIVERGING for m in maps):
        bound = max(colour_range["zmax"], -colour_range["zmin"])
        colour_range = {"zmin": -bound, "zmax": bound}
    one_scale = len({m.colours for m in maps}) == 1
    for index, chart in enumerate(maps):
        row, col = index // across + 1, index % across + 1
        bar = _colour_bar(figure, row, col, colour_axis) if index == len(maps) - 1 or not one_scale else None
        figure.add_trace(_heat_map_trace(chart, colour_axis, colour_range, bar), row=row, col=col)
        labels = [f"<b>{label_text(r)}*</b>" if i in chart.marked else label_text(r) for i, r in enumerate(chart.rows)]
        first_in_line = maps[index - col + 1]
        repeats_labels = col > 1 and (chart.rows, chart.marked) == (first_in_line.rows, first_in_line.marked)
        labels = [""] * len(labels) if repeats_labels else labels
        axis_title = label_text(chart.row_axis) if col == 1 else None
        figure.update_yaxes(autorange="reversed", tickvals=list(range(len(labels))), ticktext=labels, title_text=axis_title, row=row, col=col)
        shown = list(range(0, len(chart.columns), max(1, len(chart.columns) // 12)))
        names = [label_text(chart.columns[i]) for i in shown]
        figure.update_xaxes(tickvals=shown, ticktext=names, title_text=label_text(chart.column_axis), constrain="domain", row=row, col=col)
    tallest = max(len(m.rows) for m in maps)
    figure.update_layout(**layout(title, subtitle), height=190 + down * (95 + 24 * tallest), width=min(280 + 390 * across, max(1210, 310 * across)))
    figure.update_annotations(font={"size": 13, "color": INK})
    return figure


def _heat_map_trace(chart: HeatMap, colour_axis: str, colour_range: dict[str, float], colour_bar: dict[str, Any] | None) -> go.Heatmap:
    row_axis, column_axis, colour_axis = map(label_text, (chart.row_axis, chart.column_axis, colour_axis))
    texts = None if chart.texts is None else [[label_text(text) for text in row] for row in chart.texts]
    said = "" if texts is None else "<br>%{text}"
    return go.Heatmap(
        z=chart.values,
        text=texts,
        texttemplate=None if texts is None else "%{text}",
        textfont={"size": 10},
        customdata=[[label_text(row) for _ in chart.columns] for row in chart.rows],
        **colour_range,
        colorscale=chart.colours,
        showscale=colour_bar is not None,
        colorbar=colour_bar or {},
        xgap=1,
        ygap=1,
        hovertemplate=f"{row_axis} %{{customdata}}<br>{column_axis} %{{x}}<br>{colour_axis} %{{z:.3f}}{said}<extra></extra>",
    )


def _colour_bar(figure: go.Figure, row: int, column: int, title: str) -> dict[str, Any]:
    """A colour bar just right of its own panel."""
    panel = figure.get_subplot(row, column)
    x_domain, y_domain = panel.xaxis.domain, panel.yaxis.domain  # pyright: ignore
    return {
        "title": {"text": label_text(title), "side": "right", "font": {"size": 11}},
        "x": x_domain[1] + 0.01,
        "y": (y_domain[0] + y_domain[1]) / 2,
        "len": y_domain[1] - y_domain[0],
        "thickness": 10,
        "outlinewidth": 0,
        "tickformat": ".2f",
    }
