"""The same figure for a window that is too narrow for it: panels below each other, nothing left out.

A page has both, and shows the one that fits. What is drawn is the same: only where it stands differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil
from typing import Any

import plotly.graph_objects as go

from tl_knowledge.drawing.look import label_text, legend_lines, panel_titles, shortened
from tl_knowledge.drawing.says import plain_text

__all__ = ["narrow", "without_head"]

WIDTH = 520  # pixels that it is made for; a page gives it what there is
LABEL = 34  # letters of a label left of a panel
LONGEST_UPRIGHT = 7  # letters of a label that is never turned
UPRIGHT = 70  # pixels below a panel: its axis' ticks and title
BAR = 64  # pixels above all panels: a colour bar that they share
CELL, WORDS = 5.8, 8  # pixels of a letter in a cell; around it
ON_END = 15  # pixels of a label that stands on end
GROUP, ROWS = 14, 10  # pixels of a bar, and between groups of bars

Plain = dict[str, Any]


@dataclass
class _Panel:
    """One pair of axes of a plotly figure, as plain data, with what belongs to it."""

    x: str
    y: str
    across: tuple[float, float]
    up: tuple[float, float]
    traces: list[int] = field(default_factory=list[int])
    title: Plain | None = None
    part: tuple[int, int] | None = None


def without_head(figure: go.Figure) -> Plain:
    """A figure's layout without its title and subtitle, which a page writes as text, and without the room for them."""
    plain: Plain = figure.to_plotly_json()
    layout: Plain = {key: value for key, value in plain["layout"].items() if key not in ("title", "meta", "template")}
    head = (figure.layout["meta"] or {}).get("head", 0) if isinstance(figure.layout["meta"], Mapping | None) else 0
    if head:
        layout |= {"height": layout["height"] - head, "margin": layout["margin"] | {"t": layout["margin"]["t"] - head}}
    return layout


def narrow(figure: go.Figure) -> Plain:
    """A figure's layout with one panel in a row, and its traces there: the number of each among the figure's, with what is set anew.

    Example:
        >>> from plotly.subplots import make_subplots
        >>> wide = make_subplots(1, 2).add_bar(y=[1], row=1, col=1).add_bar(y=[2], row=1, col=2).update_layout(width=900, height=300)
        >>> below = narrow(wide)
        >>> [below["layout"][axis]["domain"] for axis in ("xaxis", "xaxis2")], [trace["of"] for trace in below["traces"]]
        ([[0, 1], [0, 1]], [0, 1])
    """
    layout = without_head(figure)
    data: list[Plain] = [dict(trace) for trace in figure.to_plotly_json()["data"]]
    if any(trace["type"] == "bar" and trace.get("orientation") != "h" for trace in data) and _crowded(data, layout):
        return _lying(data, layout)
    panels, wide_right = _panels(data, layout), int(dict(layout.get("margin") or {}).get("r", 0))
    _label_all(panels, layout)
    panels, traces = _split(panels, data, layout)
    shared_bar = [i for i, trace in enumerate(data) if trace["type"] == "heatmap" and trace.get("showscale", True)]
    one_bar = len(shared_bar) == 1 and len(panels) > 1
    _stack(panels, layout, data, room_above=BAR * one_bar, room_right=max(84, wide_right) if shared_bar and not one_bar else 16)
    for number in shared_bar:
        own = panels[0] if one_bar else next(panel for panel in panels if number in panel.traces)
        bar: Plain = dict(data[number].get("colorbar") or {})
        traces[number]["set"]["colorbar"] = _over_all(bar, layout, own) if one_bar else _beside(bar, layout[own.y]["domain"])
    return {"layout": layout, "traces": traces}


def _panels(data: Sequence[Plain], layout: Plain) -> list[_Panel]:
    """The pairs of axes, as they are read: row by row."""
    panels: dict[tuple[str, str], _Panel] = {}
    for number, trace in enumerate(data):
        x, y = (f"{letter}axis{str(trace.get(f'{letter}axis') or letter)[1:]}" for letter in "xy")
        for name in (x, y):
            layout[name] = dict(layout.get(name) or {})
        (left, right), (low, high) = (layout[name].get("domain") or (0, 1) for name in (x, y))
        panels.setdefault((x, y), _Panel(x, y, (float(left), float(right)), (float(low), float(high)))).traces.append(number)
    layout["annotations"] = [dict(each) for each in layout.get("annotations") or ()]
    for panel in panels.values():
        middle, top = sum(panel.across) / 2, panel.up[1]
        near = [a for a in layout["annotations"] if a.get("xref") == "paper" and abs(a["x"] - middle) < 0.02 and abs(a["y"] - top) < 0.02]
        panel.title = near[0] if near else None
    return sorted(panels.values(), key=lambda panel: (-round(panel.up[1], 3), panel.across[0]))


def _label_all(panels: Sequence[_Panel], layout: Plain) -> None:
    """Ticks and titles on every panel, which only the first of a row has where panels stand beside each other."""
    first = panels[0]
    for panel in panels:
        if abs(panel.up[1] - first.up[1]) > 0.001:
            first = panel
        own, leader = layout[panel.y], layout[first.y]
        own["showticklabels"] = True
        if not any(own.get("ticktext") or ()) and leader.get("ticktext"):
            own["ticktext"] = leader["ticktext"]
        if not (own.get("title") or {}).get("text") and leader.get("title"):
            own["title"] = leader["title"]
        if own.get("ticktext"):
            own["ticktext"] = [_short(label) for label in own["ticktext"]]
        for axis in (own, layout[panel.x]):
            axis |= {"automargin": True, "title": dict(axis.get("title") or {}) | {"standoff": 8}}
        layout[panel.x] |= _thinned(layout[panel.x])


def _thinned(axis: Plain) -> Plain:
    """Of short labels under a panel, such as layers, as many as have room beside each other; the last one always."""
    labels, places = list(axis.get("ticktext") or ()), list(axis.get("tickvals") or ())
    widths = [7 * len(plain_text(str(label))) for label in labels]
    if axis.get("tickangle") or max(widths, default=0) > 7 * LONGEST_UPRIGHT or len(labels) < 2:
        return {}
    needed = max(first + second for first, second in pairwise(widths)) / 2 + 6
    every = ceil(needed * len(labels) / (WIDTH - 140))
    shown = [*(i for i in range(0, len(labels), every) if len(labels) - 1 - i >= every), len(labels) - 1]
    return {"ticktext": [labels[i] for i in shown], "tickvals": [places[i] for i in shown]}


def _short(label: str) -> str:
    bold = str(label).startswith("<b>")
    text = label_text(shortened(plain_text(str(label)), LABEL))
    return f"<b>{text}</b>" if bold else text


def _columns(panel: _Panel, data: Sequence[Plain], layout: Plain) -> tuple[int, int]:
    """How many columns a panel has, and how many of them have room for their words: those in the cells, and labels that stand on end."""
    maps = [trace for trace in (data[number] for number in panel.traces) if trace["type"] == "heatmap"]
    if not maps:
        return 1, 1
    z: Any = maps[0]["z"]  # an array stands as its bytes with a shape
    columns, needed = int(str(z["shape"]).split(",")[-1]) if isinstance(z, Mapping) else len(z[0]), 1.0
    if maps[0].get("text") is not None:
        needed = WORDS + CELL * max(len(plain_text(str(cell))) for row in maps[0]["text"] for cell in row)
    if layout[panel.x].get("tickangle"):
        needed = max(needed, ON_END)
    labels = max((len(str(label)) for label in layout[panel.y].get("ticktext") or ()), default=0)
    return columns, max(1, int((WIDTH - 130 - 6 * min(labels, LABEL)) // needed))


def _split(panels: Sequence[_Panel], data: Sequence[Plain], layout: Plain) -> tuple[list[_Panel], list[Plain]]:
    """Maps with words in or under their cells, a few columns at a time, so that the words have room; each trace of the figure first, in its order."""
    traces: list[Plain] = [{"of": number, "set": {}} for number in range(len(data))]
    split: list[_Panel] = []
    free = 1 + max(int(panel.x.removeprefix("xaxis") or 1) for panel in panels)
    for panel in panels:
        columns, at_once = _columns(panel, data, layout)
        for start in range(0, columns, at_once):
            end = min(columns, start + at_once)
            x, y, title = panel.x, panel.y, panel.title
            if start:
                x, y, title = f"xaxis{free}", f"yaxis{free}", None
                layout[x], layout[y] = dict(layout[panel.x]) | {"anchor": f"y{free}"}, dict(layout[panel.y]) | {"anchor": f"x{free}"}
                traces += [
                    {"of": number, "set": {"xaxis": f"x{free}", "yaxis": f"y{free}", "showscale": False, "showlegend": False}}
                    for number in panel.traces
                ]
                free += 1
            if end - start < columns:
                layout[x] = layout[x] | {"range": [start - 0.5, end - 0.5], "autorange": False}
            split.append(_Panel(x, y, panel.across, panel.up, panel.traces if not start else [], title, (start, end)))
    return split, traces


def _stack(panels: Sequence[_Panel], layout: Plain, data: Sequence[Plain], *, room_above: int, room_right: int) -> None:
    """Every panel as high as it was, one below the other, with room for its title and its axis."""
    margin: Plain = {"l": 80, "r": 80, "t": 100, "b": 80} | dict(layout.get("margin") or {})
    was = float(layout.get("height") or 450) - margin["t"] - margin["b"]
    names = [str(trace["name"]) for trace in data if trace.get("name") and trace.get("showlegend") is not False]
    legend = 24 * legend_lines(map(plain_text, names), WIDTH - 110) + 10 if names and layout.get("showlegend") is not False else 0
    for panel in panels:
        if panel.title is not None:
            panel.title["text"] = panel_titles([plain_text(panel.title["text"])], float(WIDTH - 140))[0][0]
    tops = [_top(panel) for panel in panels]
    bottoms = [_below(layout[panel.x]) for panel in panels]
    heights = [max(60.0, was * (panel.up[1] - panel.up[0])) for panel in panels]
    drawn = sum(heights) + sum(tops[1:]) + sum(bottoms[:-1])
    above = drawn
    for panel, height, top, bottom in zip(panels, heights, tops, bottoms, strict=True):
        above -= 0 if panel is panels[0] else top
        layout[panel.x]["domain"] = [0, 1]
        layout[panel.y]["domain"] = [max(0.0, (above - height) / drawn), above / drawn]
        if panel.title is not None:
            panel.title |= {"x": 0.5, "y": above / drawn}
        above -= height + bottom
    room = tops[0] + room_above
    layout["margin"] = {"l": 12, "r": room_right, "t": room + legend + 6, "b": bottoms[-1]}
    layout["height"] = int(drawn + room + legend + 6 + bottoms[-1])
    layout["legend"] = dict(layout.get("legend") or {}) | {"orientation": "h", "x": 0, "y": 1 + room / drawn, "yanchor": "bottom"}
    layout["width"] = WIDTH


def _top(panel: _Panel) -> int:
    """Pixels that a panel's title takes above it."""
    return 14 + 16 * (1 + panel.title["text"].count("<br>")) if panel.title else 10


def _below(axis: Plain) -> int:
    """Pixels that an axis' ticks and title take below its panel."""
    longest = max((len(plain_text(str(label))) for label in axis.get("ticktext") or ()), default=0)
    turned = axis.get("tickangle") or (7 * longest * len(axis.get("ticktext") or ()) > WIDTH - 120)
    return UPRIGHT + (int(6.2 * min(longest, 44)) if turned and longest > 3 else 0)


def _over_all(bar: Plain, layout: Plain, first: _Panel) -> Plain:
    """One colour bar, lying above all panels and the first one's title."""
    drawn = layout["height"] - layout["margin"]["t"] - layout["margin"]["b"]
    title = dict(bar.get("title") or {}) | {"side": "top"}
    title["text"] = str(title.get("text") or "").replace("<br>", " ")
    return bar | {"orientation": "h", "title": title, "x": 0.5, "xanchor": "center", "y": 1 + _top(first) / drawn, "yanchor": "bottom", "len": 0.9}


def _beside(bar: Plain, domain: Sequence[float]) -> Plain:
    return bar | {"x": 1.01, "y": sum(domain) / 2, "len": domain[1] - domain[0]}


def _crowded(data: Sequence[Plain], layout: Plain) -> bool:
    """Whether upright bars and the labels under them have no room."""
    labels = [plain_text(str(label)) for label in dict(layout.get("xaxis") or {}).get("ticktext") or ()]
    bars = sum(trace["type"] == "bar" for trace in data)
    return len(labels) * max(6 * bars, 7 * max(map(len, labels), default=0)) > WIDTH - 110


def _lying(data: Sequence[Plain], layout: Plain) -> Plain:
    """Upright bars laid down, a group below the other."""
    traces: list[Plain] = [
        {"of": number, "set": {"x": trace.get("y"), "y": trace.get("x"), "orientation": "h", "error_x": trace.get("error_y"), "error_y": {}}}
        for number, trace in enumerate(data)
    ]
    for each, trace in zip(traces, data, strict=True):
        each["set"]["hovertemplate"] = str(trace.get("hovertemplate") or "").replace("%{y", "%{x")
    groups, values = dict(layout.get("xaxis") or {}), dict(layout.get("yaxis") or {})
    groups["ticktext"] = [_short(label) for label in groups.get("ticktext") or ()]
    for axis, anchor in ((groups, "x"), (values, "y")):
        axis |= {"anchor": anchor, "domain": [0, 1], "automargin": True}
    groups |= {"autorange": "reversed", "tickangle": 0}
    layout |= {"xaxis": values, "yaxis": groups}
    panel = _Panel("xaxis", "yaxis", (0.0, 1.0), (0.0, 1.0), list(range(len(data))))
    margin = layout["margin"]
    layout["height"] = margin["t"] + margin["b"] + len(groups["ticktext"]) * (ROWS + GROUP * len(data))
    _stack([panel], layout, data, room_above=0, room_right=16)
    return {"layout": layout, "traces": traces}
