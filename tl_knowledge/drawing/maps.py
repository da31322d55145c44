"""Heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.colors
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tl_knowledge.drawing.look import INK, MUTED, PANEL_TITLE, ROLE_COLOURS, ZERO, frame, label_text, panel_titles, shade, shortened, wrapped
from tl_knowledge.drawing.says import extremes, with_sentence

__all__ = ["HeatMap", "colour_range", "colour_scale", "heat_maps"]

SIGNED = "RdBu"
ROUNDING = 1e-3  # of the largest size: what is less below zero has a colour that nobody tells from zero's
ROW, GAP = 24, 96  # pixels of a row of cells, and between two rows of maps
UPRIGHT, TURNED = 5, 16  # letters of a column's label that are not turned; pixels that a turned one needs
PAGE = 1216  # pixels that a page is wide, at most
LONGEST_BELOW = 32  # letters of a column's label
IN_CELL = 14  # letters of what stands in a cell
BAR_TITLE = 11  # size of a colour bar's title


@dataclass(frozen=True)
class HeatMap:
    """One heat map: ``values [row column]`` with a label for each row and column.

    Attributes:
        marked: rows whose label is drawn bold with an asterisk.
        colours: of the values above zero: a role (``"MLP"``), a colour (``"#009e73"``) or a sequential scale of plotly's, by its deepest colour;
            ``"RdBu"`` for values of either sign, losses brown and gains blue.
        texts: what stands in each cell; nothing without.
    """

    values: np.ndarray[Any, np.dtype[np.floating[Any]]]
    rows: Sequence[str]
    columns: Sequence[str]
    title: str
    row_axis: str
    column_axis: str
    marked: frozenset[int] = frozenset()
    colours: str = "residual"
    texts: Sequence[Sequence[str]] | None = None


def heat_maps(
    maps: Sequence[HeatMap], *, title: str, subtitle: str, colour_axis: str, columns: int | None = None, says: str | None = None
) -> go.Figure:
    """Heat maps side by side on one common colour range, so that equal colours mean equal values.

    Zero has the panel's own background. Where values are negative beyond rounding the scale diverges, its middle at zero, so that a loss is
    another colour and never the palest. A cell without a value is crossed out. Maps of one colour scale share one colour bar, right of the last;
    maps of several have one each.

    Args:
        says: the sentence for a page; by default where the largest and the smallest value are.
    """
    grid = _Grid.of(maps, columns)
    figure = make_subplots(
        rows=grid.down,
        cols=grid.across,
        subplot_titles=grid.titles,
        horizontal_spacing=grid.spacing,
        vertical_spacing=grid.gap / grid.drawn if grid.down > 1 else 0.0,
    )
    limits = colour_range(maps)
    one_scale, names = len({m.colours for m in maps}) == 1, wrapped(colour_axis, max(60, ROW * grid.tallest), BAR_TITLE)
    for index, chart in enumerate(maps):
        row, col = index // grid.across + 1, index % grid.across + 1
        bar = _colour_bar(figure, row, col, names) if index == len(maps) - 1 or not one_scale else None
        figure.add_trace(_heat_map_trace(chart, colour_axis, limits, bar), row=row, col=col)
        if not np.isfinite(chart.values).all():
            figure.add_trace(_crosses(chart.values), row=row, col=col)
        _label_axes(figure, chart, maps[index - col + 1], row, col, room=grid.room)
    below = 70 + grid.below
    right = 64 + 14 * len(names)
    settings = frame(title, subtitle, width=grid.width, body=grid.drawn + below, panels=grid.lines, l=130, r=right, b=below)
    figure.update_layout(**settings).update_layout(plot_bgcolor=ZERO)
    figure.update_annotations(font={"size": PANEL_TITLE, "color": INK})
    return with_sentence(figure, _sentence(maps, colour_axis) if says is None else says)


@dataclass(frozen=True)
class _Grid:
    """Where the maps of a figure stand, in pixels: of a panel (``room``), below one (``below``), between two rows (``gap``), of all (``drawn``)."""

    across: int
    down: int
    spacing: float
    width: int
    room: float
    titles: list[str]
    lines: int
    below: int
    gap: int
    tallest: int
    drawn: int

    @classmethod
    def of(cls, maps: Sequence[HeatMap], columns: int | None) -> _Grid:
        """As many beside each other as were asked for; else as a page has room for with what stands in and under the cells."""
        across, needs = min(columns or len(maps), len(maps)), max(map(_width, maps))
        while columns is None and across > 1 and _needed(across, needs) > PAGE:
            across -= 1
        down, spacing, tallest = -(-len(maps) // across), _spacing(across), max(len(m.rows) for m in maps)
        width = int(max(min(280 + 390 * across, max(1210, 310 * across)), _needed(across, needs)))
        room = (width - 220) * (1 - spacing * (across - 1)) / across
        titles, lines = panel_titles([m.title for m in maps], room)
        below = max(_below(chart, room) for chart in maps)
        gap = GAP + 16 * max(0, lines - 1) + below
        return cls(across, down, spacing, width, room, titles, lines, below, gap, tallest, down * ROW * tallest + (down - 1) * gap)


def _spacing(across: int) -> float:
    """Between two panels, as a share of the figure's width."""
    return min(0.22, 0.34 / across)


def _needed(across: int, each: float) -> float:
    """Pixels of a figure whose panels need so many each."""
    return 220 + across * each / (1 - _spacing(across) * (across - 1))


def colour_range(maps: Sequence[HeatMap]) -> dict[str, float]:
    """From zero to the largest value; as far below zero as above where a value is negative beyond rounding (a thousandth of the largest size).

    Example:
        >>> chart = HeatMap(np.array([[0.5, -0.1]]), ["a"], ["0", "1"], "", "token", "layer")
        >>> colour_range([chart])
        {'zmin': -0.5, 'zmax': 0.5}
    """
    finite = np.concatenate([m.values[np.isfinite(m.values)].ravel() for m in maps] + [np.zeros(1)])
    bound = max(float(np.abs(finite).max()), 1e-9)
    signed = any(m.colours == SIGNED for m in maps) or float(finite.min()) < -ROUNDING * bound
    return {"zmin": -bound if signed else 0.0, "zmax": bound}


def colour_scale(colours: str, *, signed: bool) -> list[tuple[float, str]]:
    """From the background at zero over a colour to its shade; with the colour of losses below zero where there are some."""
    above = ROLE_COLOURS["raises"] if colours == SIGNED else _colour(colours)
    half = [(0.0, ZERO), (0.6, above), (1.0, shade(above))]
    if not signed:
        return half
    below = ROLE_COLOURS["lowers"]
    return [(0.0, shade(below)), (0.2, below), *((0.5 + place / 2, colour) for place, colour in half)]


def _colour(colours: str) -> str:
    """A role's colour, a colour, or the deepest of a scale of plotly's."""
    if colours.startswith("#"):
        return colours
    if colours in ROLE_COLOURS:
        return ROLE_COLOURS[colours]
    deepest = plotly.colors.unlabel_rgb(plotly.colors.convert_colors_to_same_type(plotly.colors.get_colorscale(colours)[-2][1])[0][0])
    return "#" + "".join(f"{round(part):02x}" for part in deepest)


def _width(chart: HeatMap) -> float:
    """Pixels that a map's cells need: for what stands in them, or for labels that stand under them."""
    texts = max((min(len(text), IN_CELL) for row in chart.texts or () for text in row), default=0)
    longest = max((len(name) for name in chart.columns), default=1)
    return float(len(chart.columns) * max(8 + 6.2 * texts if texts else 0, TURNED if longest > UPRIGHT else 0))


def _below(chart: HeatMap, room: float) -> int:
    """Pixels that the columns' labels need where they have to be turned; none where they have room beside each other."""
    longest = max((len(name) for name in chart.columns), default=1)
    turned = longest > UPRIGHT and longest * 7 > room / max(1, len(chart.columns))
    return int(5.6 * min(longest, LONGEST_BELOW)) if turned else 0


def _label_axes(figure: go.Figure, chart: HeatMap, first_in_line: HeatMap, row: int, col: int, *, room: float) -> None:
    """Labels of rows, where the map left of it has not the same, and of as many columns as have room."""
    labels = [f"<b>{label_text(shortened(r))}*</b>" if i in chart.marked else label_text(shortened(r)) for i, r in enumerate(chart.rows)]
    repeats_labels = col > 1 and (chart.rows, chart.marked) == (first_in_line.rows, first_in_line.marked)
    labels = [""] * len(labels) if repeats_labels else labels
    axis_title = label_text(chart.row_axis) if col == 1 else None
    figure.update_yaxes(range=[len(labels) - 0.5, -0.5], tickvals=list(range(len(labels))), ticktext=labels, title_text=axis_title, row=row, col=col)
    longest, turned = max((len(name) for name in chart.columns), default=1), _below(chart, room) > 0
    step = max(1, -(-len(chart.columns) * (TURNED if turned else 7 * longest + 6) // max(1, int(room + 1))))
    shown = list(range(0, len(chart.columns), step))
    names = [label_text(shortened(chart.columns[i], LONGEST_BELOW)) for i in shown]
    figure.update_xaxes(
        tickvals=shown,
        ticktext=names,
        tickangle=-60 if turned else 0,
        title_text=label_text(chart.column_axis),
        range=[-0.5, len(chart.columns) - 0.5],
        showgrid=False,
        row=row,
        col=col,
    )
    edge: dict[str, Any] = {"showline": True, "linecolor": "#c5c9d2", "mirror": True, "automargin": True, "title_standoff": 8}
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(showgrid=False, zeroline=False, **edge, row=row, col=col)


def _heat_map_trace(chart: HeatMap, colour_axis: str, limits: dict[str, float], colour_bar: dict[str, Any] | None) -> go.Heatmap:
    row_axis, column_axis, colour_axis = map(label_text, (chart.row_axis, chart.column_axis, colour_axis))
    texts = None if chart.texts is None else [[label_text(shortened(text, IN_CELL)) for text in row] for row in chart.texts]
    said = "" if texts is None else "<br>%{customdata[2]}"
    names = [label_text(name) for name in chart.columns]
    whole = [[label_text(text) for text in row] for row in chart.texts or [[""] * len(names)] * len(chart.rows)]
    return go.Heatmap(
        z=np.where(np.isfinite(chart.values), chart.values, np.nan),
        text=texts,
        texttemplate=None if texts is None else "%{text}",
        textfont={"size": 10},
        customdata=[[(label_text(row), *cell) for cell in zip(names, words, strict=True)] for row, words in zip(chart.rows, whole, strict=True)],
        **limits,
        colorscale=[list(stop) for stop in colour_scale(chart.colours, signed=limits["zmin"] < 0)],
        showscale=colour_bar is not None,
        colorbar=colour_bar or {},
        xgap=1,
        ygap=1,
        hoverongaps=False,
        hovertemplate=f"{row_axis} %{{customdata[0]}}<br>{column_axis} %{{customdata[1]}}<br>{colour_axis} %{{z:.3f}}{said}<extra></extra>",
    )


def _crosses(values: np.ndarray[Any, np.dtype[np.floating[Any]]]) -> go.Scatter:
    """A small cross on every cell that has no value, so that it is not read as zero."""
    rows, columns = np.nonzero(~np.isfinite(values))
    marker = {"symbol": "x-thin", "size": 5, "line": {"color": MUTED, "width": 1}}
    return go.Scatter(x=columns, y=rows, mode="markers", marker=marker, showlegend=False, hovertemplate="no value<extra></extra>")


def _colour_bar(figure: go.Figure, row: int, column: int, title: Sequence[str]) -> dict[str, Any]:
    """A colour bar just right of its own panel."""
    panel = figure.get_subplot(row, column)
    x_domain, y_domain = panel.xaxis.domain, panel.yaxis.domain  # pyright: ignore
    return {
        "title": {"text": "<br>".join(map(label_text, title)), "side": "right", "font": {"size": BAR_TITLE}},
        "x": x_domain[1] + 0.01,
        "y": (y_domain[0] + y_domain[1]) / 2,
        "len": y_domain[1] - y_domain[0],
        "thickness": 10,
        "outlinewidth": 0,
        "tickformat": ".2f",
    }


def _sentence(maps: Sequence[HeatMap], colour_axis: str) -> str:
    """Where the largest and the smallest value are, over all maps."""
    values = [float(value) for chart in maps for value in chart.values.ravel()]
    places = [
        f"at {chart.row_axis} {row.strip() or 'blank'!r}, {chart.column_axis} {column}{f' ({chart.title})' * bool(chart.title and len(maps) > 1)}"
        for chart in maps
        for row in chart.rows
        for column in chart.columns
    ]
    return extremes(colour_axis, values, places)
