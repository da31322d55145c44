"""Every kind of figure that this package draws."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from tl_knowledge import drawing

__all__ = ["figures"]


def figures(word: str, words: list[str]) -> list[go.Figure]:
    """One of each kind, with the same text in every place that takes one, and several as labels."""
    about = {"title": word, "subtitle": word}
    numbers = [float(i) for i in range(len(words))]
    line = drawing.Line(word, [0, 1], [0.0, 1.0], [0.0, 0.5], [0.5, 1.0])
    chart = drawing.HeatMap(np.eye(len(words)), words, words, word, word, word, frozenset([1]), texts=[words] * len(words))
    hovers = [f"<b>{drawing.label_text(each)}</b>" for each in words]
    points = [drawing.GraphPoint(0.0, y, word, 1.0, hover) for y, hover in zip(numbers, hovers, strict=True)]
    arrows = [drawing.Arrow(0, 1, 1.0, hovers[0], name=word)]
    return [
        drawing.bar_chart(words, numbers, **about, value_axis=word),
        drawing.grouped_bars(words, {word: [(x, x, x) for x in numbers]}, **about, group_axis=word, value_axis=word),
        drawing.labelled_points(words, words, numbers, [True] * len(words), **about, value_axis=word),
        drawing.scatter({word: drawing.Points(numbers, numbers, words, frozenset(range(len(words))))}, **about, x_axis=word, y_axis=word),
        drawing.line_panels([drawing.LinePanel(word, [line])], **about, x_axis=word, y_axis=word),
        drawing.heat_maps([chart], **about, colour_axis=word),
        drawing.graph(points, arrows, looks={word: ("circle", "#000000")}, rows=words, columns=[(0.0, word), (1.0, word)], **about),
    ]
