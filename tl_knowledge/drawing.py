"""Arrays and labels in, plotly figures and pages out. Knows no results.

One look for the whole package: sequential single-hue scales (readable without colour vision, and in print), tokens top to
bottom, layers left to right, every axis named, sizes that fit a notebook.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io
from numpy.typing import NDArray
from plotly.subplots import make_subplots

__all__ = ["PALETTE", "HeatMap", "Line", "LinePanel", "Table", "bar_chart", "grouped_bars", "heat_maps", "html_page", "line_panels"]

FONT = "Inter, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
INK, MUTED = "#1f2430", "#667085"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito: safe for colour-blind eyes
DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class HeatMap:
    """One heat map: ``values [row column]`` with a label for each row and column.

    Attributes:
        marked: rows whose label is drawn bold with an asterisk.
        colors: a plotly sequential scale.
    """

    values: NDArray[np.floating[Any]]
    rows: Sequence[str]
    columns: Sequence[str]
    title: str
    row_axis: str
    column_axis: str
    marked: frozenset[int] = frozenset()
    colors: str = "Purples"


@dataclass(frozen=True)
class Line:
    """One line with its interval band.

    Attributes:
        style: index into the palette and the dashes; lines of one style share a legend entry across panels.
        filled: x values whose point is drawn filled (the others are open); ``None`` fills all.
    """

    name: str
    x: Sequence[int]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    style: int = 0
    filled: frozenset[int] | None = None


@dataclass(frozen=True)
class LinePanel:
    """Lines that share axes."""

    title: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Table:
    """A table of text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def heat_maps(maps: Sequence[HeatMap], *, title: str, subtitle: str, color_axis: str, columns: int | None = None) -> go.Figure:
    """Heat maps side by side on one common colour range, so that equal colours mean equal values.

    Maps of one colour scale share one colour bar, right of the last; maps of several have one each.
    """
    across = columns or len(maps)
    down = -(-len(maps) // across)
    figure = make_subplots(
        rows=down,
        cols=across,
        subplot_titles=[m.title for m in maps],
        horizontal_spacing=min(0.22, 0.34 / across),
        vertical_spacing=0.36 / down if down > 1 else 0.0,
    )
    finite = np.concatenate([m.values[np.isfinite(m.values)].ravel() for m in maps] + [np.zeros(1)])
    color_range = {"zmin": min(0.0, float(finite.min())), "zmax": max(float(finite.max()), 1e-9)}
    one_scale = len({m.colors for m in maps}) == 1
    for index, chart in enumerate(maps):
        row, col = index // across + 1, index % across + 1
        bar = _color_bar(figure, row, col, color_axis) if index == len(maps) - 1 or not one_scale else None
        figure.add_trace(_heat_map_trace(chart, color_axis, color_range, bar), row=row, col=col)
        labels = [f"<b>{html.escape(r)}*</b>" if i in chart.marked else html.escape(r) for i, r in enumerate(chart.rows)]
        first_in_line = maps[index - col + 1]
        repeats_labels = col > 1 and (chart.rows, chart.marked) == (first_in_line.rows, first_in_line.marked)
        labels = [""] * len(labels) if repeats_labels else labels
        axis_title = chart.row_axis if col == 1 else None
        figure.update_yaxes(autorange="reversed", tickvals=list(range(len(labels))), ticktext=labels, title_text=axis_title, row=row, col=col)
        shown = list(range(0, len(chart.columns), max(1, len(chart.columns) // 12)))
        names = [chart.columns[i] for i in shown]
        figure.update_xaxes(tickvals=shown, ticktext=names, title_text=chart.column_axis, constrain="domain", row=row, col=col)
    tallest = max(len(m.rows) for m in maps)
    figure.update_layout(**_layout(title, subtitle), height=190 + down * (95 + 24 * tallest), width=min(280 + 390 * across, max(1210, 310 * across)))
    figure.update_annotations(font={"size": 13, "color": INK})
    return figure


def _heat_map_trace(chart: HeatMap, color_axis: str, color_range: dict[str, float], color_bar: dict[str, Any] | None) -> go.Heatmap:
    return go.Heatmap(
        z=chart.values,
        customdata=[[row for _ in chart.columns] for row in chart.rows],
        **color_range,
        colorscale=chart.colors,
        showscale=color_bar is not None,
        colorbar=color_bar or {},
        xgap=1,
        ygap=1,
        hovertemplate=f"{chart.row_axis} %{{customdata}}<br>{chart.column_axis} %{{x}}<br>{color_axis} %{{z:.3f}}<extra></extra>",
    )


def line_panels(
    panels: Sequence[LinePanel], *, title: str, subtitle: str, x_axis: str, y_axis: str, columns: int | None = None, percent: bool = False
) -> go.Figure:
    """Line plots side by side on one common y range, each line with its interval as a band."""
    across = columns or len(panels)
    down = -(-len(panels) // across)
    titles = [panel.title for panel in panels]
    figure = make_subplots(
        rows=down,
        cols=across,
        subplot_titles=titles,
        shared_yaxes="all",  # pyright: ignore[reportArgumentType]
        horizontal_spacing=0.04,
        vertical_spacing=0.3 / down,
    )
    named: set[str] = set()
    for index, panel in enumerate(panels):
        row, col = index // across + 1, index % across + 1
        for line in panel.lines:
            for trace in _line_traces(line, x_axis, y_axis, show_name=line.name not in named):
                figure.add_trace(trace, row=row, col=col)
            named.add(line.name)
        figure.update_xaxes(title_text=x_axis, dtick=max(1, len({x for line in panel.lines for x in line.x}) // 12), row=row, col=col)
        figure.update_yaxes(title_text=y_axis if col == 1 else None, tickformat=".0%" if percent else None, row=row, col=col)
    figure.update_yaxes(zeroline=True, zerolinecolor=MUTED, gridcolor="white")
    figure.update_xaxes(gridcolor="white", zeroline=False)
    layout = _layout(title, subtitle)
    layout["margin"] = layout["margin"] | {"l": 80, "r": 40}
    figure.update_layout(
        **layout, height=230 + 300 * down, width=max(520, 180 + 330 * across), legend={"orientation": "h", "y": -0.16 / down, "x": 0}
    )
    figure.update_annotations(font={"size": 13, "color": INK})
    return figure


def _line_traces(line: Line, x_axis: str, y_axis: str, *, show_name: bool) -> list[go.Scatter]:
    color, dash = PALETTE[line.style % len(PALETTE)], DASHES[(line.style // 3) % len(DASHES)]
    x, band = list(line.x), [*line.high, *reversed(list(line.low))]
    filled = [line.filled is None or value in line.filled for value in x]
    interval = " [%{customdata[0]:.3f}, %{customdata[1]:.3f}]"
    return [
        go.Scatter(
            x=x + x[::-1], y=band, fill="toself", fillcolor=color, opacity=0.18, line={"width": 0}, hoverinfo="skip", showlegend=False, mode="lines"
        ),
        go.Scatter(
            x=x,
            y=list(line.y),
            name=line.name,
            legendgroup=line.name,
            showlegend=False,
            mode="lines+markers",
            line={"color": color, "dash": dash, "width": 2},
            marker={"color": [color if f else "white" for f in filled], "line": {"color": color, "width": 1.5}, "size": 7},
            customdata=np.stack([np.asarray(line.low, float), np.asarray(line.high, float)], axis=1),
            hovertemplate=f"{html.escape(line.name)}<br>{x_axis} %{{x}}<br>{y_axis} %{{y:.3f}}{interval}<extra></extra>",
        ),
        # The legend's own entry: plotly would give it the first point's marker, open or filled.
        go.Scatter(
            x=[None],
            y=[None],
            name=line.name,
            legendgroup=line.name,
            showlegend=show_name,
            mode="lines",
            line={"color": color, "dash": dash, "width": 2},
        ),
    ]


def bar_chart(
    labels: Sequence[str],
    values: Sequence[float],
    errors: Sequence[float] | None = None,
    *,
    title: str,
    subtitle: str,
    value_axis: str,
    errors_below: Sequence[float] | None = None,
) -> go.Figure:
    """Horizontal bars, first label on top; error bars where given, symmetric unless ``errors_below`` is given."""
    bars = None if errors is None else {"array": list(errors), "color": MUTED}
    if bars is not None and errors_below is not None:
        bars |= {"arrayminus": list(errors_below), "symmetric": False}
    figure = go.Figure(go.Bar(x=list(values), y=list(range(len(labels))), orientation="h", marker_color="#6a51a3", error_x=bars))
    figure.update_yaxes(autorange="reversed", tickvals=list(range(len(labels))), ticktext=[html.escape(x) for x in labels])
    figure.update_xaxes(title_text=value_axis, zeroline=True, zerolinecolor=MUTED)
    figure.update_layout(**_layout(title, subtitle), height=190 + 26 * len(labels), width=720)
    return figure


def grouped_bars(
    groups: Sequence[str], bars: Mapping[str, Sequence[tuple[float, float, float]]], *, title: str, subtitle: str, group_axis: str, value_axis: str
) -> go.Figure:
    """Vertical bars, one of each name in every group, each a (value, low, high) with its interval; a NaN end draws no interval."""
    figure = go.Figure()
    for color, (name, rows) in zip(PALETTE, bars.items(), strict=False):
        values, low, high = np.array(rows, dtype=float).T
        error = {"type": "data", "symmetric": False, "array": high - values, "arrayminus": values - low, "color": MUTED, "thickness": 1}
        figure.add_trace(go.Bar(x=list(range(len(groups))), y=values, name=name, marker_color=color, error_y=error))
    figure.update_xaxes(title_text=group_axis, tickvals=list(range(len(groups))), ticktext=[html.escape(g) for g in groups], tickangle=-60)
    figure.update_yaxes(title_text=value_axis, tickformat=".1%", zeroline=True, zerolinecolor=MUTED, gridcolor="white")
    width = max(620, 180 + 34 * len(groups))
    figure.update_layout(**_layout(title, subtitle), height=560, width=width, barmode="group", legend={"orientation": "h", "y": 1.1, "x": 0})
    return figure


def html_page(title: str, parts: Sequence[str | Table | go.Figure]) -> str:
    """A self-contained page: no network needed. Strings are taken as HTML paragraphs, escape them first."""
    body: list[str] = []
    script_written = False
    for part in parts:
        if isinstance(part, str):
            body.append(part)
        elif isinstance(part, Table):
            body.append(_html_table(part))
        else:
            chart = plotly.io.to_html(
                part, full_html=False, include_plotlyjs=not script_written, config={"displayModeBar": False, "responsive": False}
            )
            body.append(f"<figure>{chart}</figure>")
            script_written = True
    content = "\n".join(body)
    name = html.escape(title)
    head = f"<meta charset='utf-8'><title>{name}</title><style>{_STYLE}</style>"
    return f"<!doctype html>\n<html lang='en'><head>{head}</head><body><main>\n<h1>{name}</h1>\n{content}\n</main></body></html>\n"


def _color_bar(figure: go.Figure, row: int, column: int, title: str) -> dict[str, Any]:
    """A colour bar just right of its own panel."""
    panel = figure.get_subplot(row, column)
    x_domain, y_domain = panel.xaxis.domain, panel.yaxis.domain  # pyright: ignore
    return {
        "title": {"text": title, "side": "right", "font": {"size": 11}},
        "x": x_domain[1] + 0.01,
        "y": (y_domain[0] + y_domain[1]) / 2,
        "len": y_domain[1] - y_domain[0],
        "thickness": 10,
        "outlinewidth": 0,
        "tickformat": ".2f",
    }


def _layout(title: str, subtitle: str) -> dict[str, Any]:
    return {
        "title": {"text": html.escape(title), "subtitle": {"text": html.escape(subtitle), "font": {"size": 12, "color": MUTED}}, "x": 0.02},
        "font": {"family": FONT, "size": 12, "color": INK},
        "plot_bgcolor": "#f4f4f6",
        "paper_bgcolor": "white",
        "margin": {"l": 130, "r": 90, "t": 120, "b": 60},
    }


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    rows = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


_STYLE = """
body { margin: 0; background: white; color: #1f2430; font: 15px/1.5 Inter, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 24px 32px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 32px 0 4px; }
p { max-width: 76ch; } .prompt { font: 17px/2.1 ui-monospace, 'DejaVu Sans Mono', monospace; }
.prompt span { padding: 3px 1px; border-bottom: 3px solid transparent; white-space: pre; }
.prompt .subject { background: #efe6f7; border-color: #6a51a3; } .prompt .relation { background: #e5f3e8; border-color: #238b45; }
.prompt .answer { background: #fdeee0; border-color: #d94801; }
table { border-collapse: collapse; margin: 12px 0; } th, td { text-align: left; padding: 4px 16px 4px 0; border-bottom: 1px solid #e4e7ec; }
th { font-weight: 600; color: #667085; } td { font-variant-numeric: tabular-nums; }
figure { margin: 12px 0; overflow-x: auto; } footer, .note { color: #667085; font-size: 13px; }
"""
