"""Bars, and points with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tl_knowledge.drawing.look import MUTED, PALETTE, RED, label_text, layout, legend_above

__all__ = ["bar_chart", "grouped_bars", "labelled_points"]


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
    figure.update_yaxes(autorange="reversed", tickvals=list(range(len(labels))), ticktext=[label_text(x) for x in labels])
    figure.update_xaxes(title_text=label_text(value_axis), zeroline=True, zerolinecolor=MUTED)
    figure.update_layout(**layout(title, subtitle), height=190 + 26 * len(labels), width=720)
    return figure


def grouped_bars(
    groups: Sequence[str], bars: Mapping[str, Sequence[tuple[float, float, float]]], *, title: str, subtitle: str, group_axis: str, value_axis: str
) -> go.Figure:
    """Vertical bars, one of each name in every group, each a (value, low, high) with its interval; a NaN end draws no interval."""
    figure = go.Figure()
    for number, (name, rows) in enumerate(bars.items()):
        look = {"color": PALETTE[number % len(PALETTE)], "pattern": {"shape": ("", "/", "x", ".")[number // len(PALETTE) % 4]}}
        values, low, high = np.array(rows, dtype=float).T
        error = {"type": "data", "symmetric": False, "array": high - values, "arrayminus": values - low, "color": MUTED, "thickness": 1}
        figure.add_trace(go.Bar(x=list(range(len(groups))), y=values, name=label_text(name), marker=look, error_y=error))
    labels = [label_text(group) for group in groups]
    width = max(760, 180 + 34 * len(groups))
    angle = -60 if 7 * max(map(len, groups), default=0) > (width - 180) / max(len(groups), 1) else 0
    figure.update_xaxes(title_text=label_text(group_axis), tickvals=list(range(len(groups))), ticktext=labels, tickangle=angle)
    figure.update_yaxes(title_text=label_text(value_axis), tickformat=".1%", zeroline=True, zerolinecolor=MUTED, gridcolor="white")
    figure.update_layout(**legend_above(title, subtitle, bars, width=width, height=544), barmode="group")
    return figure


def labelled_points(
    groups: Sequence[str], labels: Sequence[str], values: Sequence[float], marked: Sequence[bool], *, title: str, subtitle: str, value_axis: str
) -> go.Figure:
    """Points on horizontal lines from zero, one a label, in panels by group side by side; marked ones red, the others grey."""
    names = list(dict.fromkeys(groups))
    value_axis, titles = label_text(value_axis), [label_text(name) for name in names]
    figure = make_subplots(rows=1, cols=len(names), subplot_titles=titles, shared_xaxes="all", horizontal_spacing=0.34 / (len(names) + 1))  # pyright: ignore
    for column, name in enumerate(names, start=1):
        rows = sorted((i for i, group in enumerate(groups) if group == name), key=lambda i: values[i])
        y, x = list(range(len(rows))), [values[i] for i in rows]
        stems_x, stems_y = [v for value in x for v in (0.0, value, None)], [v for place in y for v in (place, place, None)]
        figure.add_trace(go.Scatter(x=stems_x, y=stems_y, mode="lines", line={"color": "#c5c9d2", "width": 1}, hoverinfo="skip"), row=1, col=column)
        colours = [RED if marked[i] else "#98a2b3" for i in rows]
        texts = [label_text(labels[i]) for i in rows]
        hover = f"%{{text}}<br>{value_axis} %{{x:.3f}}<extra></extra>"
        points = go.Scatter(x=x, y=y, text=texts, mode="markers", marker={"color": colours, "size": 8}, hovertemplate=hover)
        figure.add_trace(points, row=1, col=column)
        figure.update_yaxes(tickvals=y, ticktext=texts, gridcolor="white", zeroline=False, row=1, col=column)
        figure.update_xaxes(title_text=value_axis, zeroline=True, zerolinecolor=MUTED, gridcolor="white", row=1, col=column)
    longest = max(list(groups).count(name) for name in names)
    figure.update_layout(**layout(title, subtitle), height=240 + 18 * longest, width=max(620, 120 + 310 * len(names)), showlegend=False)
    return figure
