"""Bars, and points with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tl_knowledge.drawing.look import INK, MUTED, PALETTE, RED, colour_of, frame, label_text, panel_titles, role_of, shortened, whiskers
from tl_knowledge.drawing.says import extremes, spread, with_sentence

__all__ = ["bar_chart", "grouped_bars", "labelled_points"]

LEGEND = 60  # letters of a name in a legend


def bar_chart(
    labels: Sequence[str],
    values: Sequence[float],
    errors: Sequence[float] | None = None,
    *,
    title: str,
    subtitle: str,
    value_axis: str,
    errors_below: Sequence[float] | None = None,
    colours: str = "",
    says: str | None = None,
) -> go.Figure:
    """Horizontal bars, first label on top; error bars where given, symmetric unless ``errors_below`` is given.

    Args:
        colours: the role whose colour the bars have, if they play one.
        errors: NaN where there is none: of one case there is no interval.
        says: the sentence for a page; by default which bar is longest and which shortest.
    """
    bars = None if errors is None else whiskers(errors, errors_below, color=MUTED)
    whole, places = [label_text(x) for x in labels], list(range(len(labels)))
    hover = f"%{{customdata}}<br>{label_text(value_axis)} %{{x:.3f}}<extra></extra>"
    look = {"marker_color": colour_of(colours, 0), "customdata": whole, "hovertemplate": hover}
    figure = go.Figure(go.Bar(x=list(values), y=places, orientation="h", error_x=bars, **look))
    texts = [label_text(shortened(x)) for x in labels]
    figure.update_yaxes(autorange="reversed", tickvals=places, ticktext=texts, automargin=True, title_standoff=8)
    figure.update_xaxes(title_text=label_text(value_axis), zeroline=True, zerolinecolor=MUTED)
    figure.update_layout(**frame(title, subtitle, width=720, body=70 + 26 * len(labels), l=130, r=90))
    sentence = extremes(value_axis, values, [f"for {label.strip()}" for label in labels])
    return with_sentence(figure, sentence if says is None else says)


def grouped_bars(
    groups: Sequence[str],
    bars: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    title: str,
    subtitle: str,
    group_axis: str,
    value_axis: str,
    says: str | None = None,
) -> go.Figure:
    """Vertical bars, one of each name in every group, each a (value, low, high) with its interval; a NaN end draws no interval.

    Args:
        says: the sentence for a page; by default which bar is longest and which shortest.
    """
    figure = go.Figure()
    plain = [name for name in bars if not role_of(name)]
    for name, rows in bars.items():
        number = plain.index(name) if name in plain else 0
        look = {"color": colour_of(name, number), "pattern": {"shape": ("", "/", "x", ".")[number // len(PALETTE) % 4]}}
        values, low, high = np.array(rows, dtype=float).T
        error = whiskers(high - values, values - low, color=INK, thickness=1)
        hover = f"{label_text(name)}<br>%{{customdata}}<br>{label_text(value_axis)} %{{y:.3f}}<extra></extra>"
        at = {"customdata": [label_text(group) for group in groups], "hovertemplate": hover}
        figure.add_trace(go.Bar(x=list(range(len(groups))), y=values, name=label_text(shortened(name, LEGEND)), marker=look, error_y=error, **at))
    short = [shortened(group) for group in groups]
    longest, width = max(map(len, short), default=0), max(760, 180 + 34 * len(groups))
    turned = 7 * longest > (width - 180) / max(len(groups), 1)
    texts = [label_text(group) for group in short]
    figure.update_xaxes(title_text=label_text(group_axis), automargin=True, title_standoff=8, tickvals=list(range(len(groups))), ticktext=texts)
    figure.update_xaxes(tickangle=-60 if turned else 0)
    figure.update_yaxes(title_text=label_text(value_axis), tickformat=".1%", zeroline=True, zerolinecolor=MUTED, gridcolor="white")
    room = 60 + int(6.2 * longest) * turned
    figure.update_layout(**frame(title, subtitle, width=width, body=340 + room, names=bars if len(bars) > 1 else (), l=90, b=room), barmode="group")
    return with_sentence(figure, spread(value_axis, bars, groups) if says is None else says)


def labelled_points(
    groups: Sequence[str], labels: Sequence[str], values: Sequence[float], marked: Sequence[bool], *, title: str, subtitle: str, value_axis: str
) -> go.Figure:
    """Points on horizontal lines from zero, one a label, in panels by group side by side; marked ones red, the others grey."""
    names = list(dict.fromkeys(groups))
    width, axis = max(620, 120 + 310 * len(names)), label_text(value_axis)
    titles, lines = panel_titles(names, (width - 170) / len(names) - 90)
    figure = make_subplots(rows=1, cols=len(names), subplot_titles=titles, shared_xaxes="all", horizontal_spacing=0.34 / (len(names) + 1))  # pyright: ignore
    for column, name in enumerate(names, start=1):
        rows = sorted((i for i, group in enumerate(groups) if group == name), key=lambda i: values[i])
        y, x = list(range(len(rows))), [values[i] for i in rows]
        stems_x, stems_y = [v for value in x for v in (0.0, value, None)], [v for place in y for v in (place, place, None)]
        figure.add_trace(go.Scatter(x=stems_x, y=stems_y, mode="lines", line={"color": "#c5c9d2", "width": 1}, hoverinfo="skip"), row=1, col=column)
        colours = [RED if marked[i] else MUTED for i in rows]
        hover = f"%{{text}}<br>{axis} %{{x:.3f}}<extra></extra>"
        look = {"mode": "markers", "marker": {"color": colours, "size": 8}, "hovertemplate": hover}
        figure.add_trace(go.Scatter(x=x, y=y, text=[label_text(labels[i]) for i in rows], **look), row=1, col=column)
        texts = [label_text(shortened(labels[i], 24)) for i in rows]
        figure.update_yaxes(tickvals=y, ticktext=texts, gridcolor="white", zeroline=False, automargin=True, title_standoff=8, row=1, col=column)
        figure.update_xaxes(title_text=axis, zeroline=True, zerolinecolor=MUTED, gridcolor="white", row=1, col=column)
    longest = max((list(groups).count(name) for name in names), default=0)
    settings = frame(title, subtitle, width=width, body=110 + 18 * longest, panels=lines, l=130)
    figure.update_layout(**settings, showlegend=False)
    places = [f"for {label.strip()} ({group})" for label, group in zip(labels, groups, strict=True)]
    return with_sentence(figure, f"{extremes(value_axis, values, places)} {sum(map(bool, marked))} of {len(labels)} are red.")
