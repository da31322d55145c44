"""Line plots with interval bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tl_knowledge.drawing.look import DASHES, INK, MUTED, PALETTE, PANEL_TITLE, ROLE_COLOURS, frame, label_text, panel_titles, role_of, shortened
from tl_knowledge.drawing.says import extremes, with_sentence
from tl_knowledge.results.statistics import interval_text

__all__ = ["Line", "LinePanel", "line_panels"]

MOST_TICKS = 12
_ROLE_DASHES = {"middle subject tokens": 2, "further tokens": 2, "middle relation tokens": 2}  # one colour with the first, told apart by the dash


@dataclass(frozen=True)
class Line:
    """One line with its interval band.

    Attributes:
        style: index into the palette and the dashes; lines of one style share a legend entry across panels. A line that is called by a role
            has the role's colour in all figures.
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
    """Lines that share axes.

    Attributes:
        y_axis: the title of a y axis of its own, with plain numbers; the common one without.
    """

    title: str
    lines: Sequence[Line]
    y_axis: str = ""


def line_panels(
    panels: Sequence[LinePanel],
    *,
    title: str,
    subtitle: str,
    x_axis: str,
    y_axis: str,
    columns: int | None = None,
    percent: bool = False,
    log_x: bool = False,
    says: str | None = None,
) -> go.Figure:
    """Line plots side by side on one common y range, each line with its interval as a band; of a NaN end there is no band.

    Args:
        log_x: a logarithmic x axis.
        says: the sentence for a page; by default where the highest and the lowest point are.
    """
    across = min(columns or len(panels), len(panels))
    down = -(-len(panels) // across)
    width = max(520, 180 + 330 * across)
    titles, title_lines = panel_titles([panel.title for panel in panels], (width - 120) / across - 30)
    gap = 80 + 16 * max(0, title_lines - 1)
    drawn = 220 * down + gap * (down - 1)
    figure = make_subplots(
        rows=down,
        cols=across,
        subplot_titles=titles,
        shared_yaxes="all",  # pyright: ignore[reportArgumentType]
        horizontal_spacing=0.09 if any(panel.y_axis for panel in panels) else 0.04,
        vertical_spacing=gap / drawn if down > 1 else 0.0,
    )
    named: dict[str, None] = {}
    for index, panel in enumerate(panels):
        row, col = index // across + 1, index % across + 1
        for line in panel.lines:
            for trace in _line_traces(line, label_text(x_axis), label_text(panel.y_axis or y_axis), show_name=line.name not in named):
                figure.add_trace(trace, row=row, col=col)
            named[line.name] = None
        places = sorted({x for line in panel.lines for x in line.x})
        many: dict[str, Any] = {"dtick": 1 if log_x else len(places) // MOST_TICKS}
        ticks: dict[str, Any] = {"tickvals": places} if len(places) <= MOST_TICKS else many
        figure.update_xaxes(title_text=label_text(x_axis), type="log" if log_x else None, **ticks, row=row, col=col)
        figure.update_yaxes(title_text=label_text(y_axis) if col == 1 else None, tickformat=".0%" if percent else None, row=row, col=col)
        if panel.y_axis:
            figure.update_yaxes(title_text=label_text(panel.y_axis), tickformat=None, matches=None, showticklabels=True, row=row, col=col)
    figure.update_yaxes(zeroline=True, zerolinecolor=MUTED, gridcolor="white")
    figure.update_xaxes(gridcolor="white", zeroline=False)
    figure.update_layout(**frame(title, subtitle, width=width, body=drawn + 60, names=named, panels=title_lines, l=80))
    figure.update_annotations(font={"size": PANEL_TITLE, "color": INK})
    return with_sentence(figure, _sentence(panels, x_axis, y_axis, percent) if says is None else says)


def _sentence(panels: Sequence[LinePanel], x_axis: str, y_axis: str, percent: bool) -> str:
    """Where the highest and the lowest point are, over the panels that share the axis."""
    points = [
        ((y, low, high), f"at {x_axis} {x}{f' ({line.name})' * bool(line.name)}{f' in {panel.title}' * bool(panel.title and len(panels) > 1)}")
        for panel in panels
        if not panel.y_axis
        for line in panel.lines
        for x, y, low, high in zip(line.x, line.y, line.low, line.high, strict=True)
    ]
    intervals = [(y, low, high) if low < y or y < high else (y, float("nan"), float("nan")) for (y, low, high), _ in points]
    form = ".0%" if percent else ".3g"
    return extremes(y_axis, [row[0] for row in intervals], [place for _, place in points], form=form, intervals=intervals)


def _line_traces(line: Line, x_axis: str, y_axis: str, *, show_name: bool) -> list[go.Scatter]:
    name, shown = label_text(line.name), label_text(shortened(line.name, 60))
    role = ROLE_COLOURS.get(role_of(line.name))
    dash = DASHES[_ROLE_DASHES.get(line.name, 0 if role else (line.style // 3) % len(DASHES))]
    colour = role or PALETTE[line.style % len(PALETTE)]
    x, band = list(line.x), [*line.high, *reversed(list(line.low))]
    filled = [line.filled is None or value in line.filled for value in x]
    intervals = [interval_text(low, high) if low < y or y < high else "" for y, low, high in zip(line.y, line.low, line.high, strict=True)]
    return [
        go.Scatter(
            x=x + x[::-1], y=band, fill="toself", fillcolor=colour, opacity=0.18, line={"width": 0}, hoverinfo="skip", showlegend=False, mode="lines"
        ),
        go.Scatter(
            x=x,
            y=list(line.y),
            name=name,
            legendgroup=name,
            showlegend=False,
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2},
            marker={"color": [colour if f else "white" for f in filled], "line": {"color": colour, "width": 1.5}, "size": 7},
            customdata=np.stack([np.asarray(line.low, float), np.asarray(line.high, float)], axis=1),
            text=intervals,
            hovertemplate=f"{name}<br>{x_axis} %{{x}}<br>{y_axis} %{{y:.3f}}%{{text}}<extra></extra>",
        ),
        # The legend's own entry: plotly would give it the first point's marker, open or filled.
        go.Scatter(
            x=[None],
            y=[None],
            name=shown,
            legendgroup=name,
            showlegend=show_name,
            mode="lines",
            line={"color": colour, "dash": dash, "width": 2},
        ),
    ]
