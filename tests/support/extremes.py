"""One figure of every kind with labels, titles and names that are far too long, and with far too many of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import plotly.graph_objects as go

from tl_knowledge import drawing

__all__ = ["extreme_figures"]

LONG = "unbelievably long token Donaudampfschifffahrtsgesellschaftskapitän of the company"
ABOUT = {
    "title": "A title that goes on and on, about a model called some-organisation/some-model-of-70-billion-parameters-instruct-v3.1; " * 2,
    "subtitle": "clean 99.3%; subject corrupted 18.7%; 10 noise samples; some-organisation/some-model-of-70-billion-parameters-instruct; " * 3,
}
TOKENS = [f"{LONG} {i}" if i % 3 == 0 else f"tok{i}" for i in range(20)]


def extreme_figures() -> list[go.Figure]:
    """All of them."""
    rng = np.random.default_rng(0)
    return [*_maps(rng), *_bars(rng), *_lines_and_points(rng), _graph(rng)]


def _maps(rng: np.random.Generator) -> Iterator[go.Figure]:
    values, layers = rng.normal(size=(20, 48)), [str(i) for i in range(48)]

    def layered(title: str, colours: str = "MLP") -> drawing.HeatMap:
        return drawing.HeatMap(values, TOKENS, layers, title, "token", "window of 10 layers around layer", frozenset({0, 1}), colours=colours)

    axis = "average indirect effect (probability)"
    yield drawing.heat_maps([layered(f"subject corrupted: MLP output (10 layers, {LONG})"), layered("relation corrupted")], **ABOUT, colour_axis=axis)
    yield drawing.heat_maps([layered(f"map {c}", c) for c in ("MLP", "attention", "residual") * 2], **ABOUT, colour_axis=axis, columns=3)
    names, overlap = [f"P{i} (relation number {i})" for i in range(40)], rng.random((40, 40))
    overlap[0, 1] = np.nan
    yield drawing.heat_maps([drawing.HeatMap(overlap, names, names, "", "relation", "relation")], **ABOUT, colour_axis="Jaccard index")
    words, ranks, neurons = [[f"word{LONG[: k + 2]}" for k in range(10)]] * 12, [str(i + 1) for i in range(10)], [f"3, {i}" for i in range(12)]
    yield drawing.heat_maps(
        [drawing.HeatMap(rng.random((12, 10)), neurons, ranks, sign, "layer, neuron", "rank", texts=words) for sign in ("promotes", "suppresses")],
        **ABOUT,
        colour_axis="standard deviations from the mean",
    )


def _bars(rng: np.random.Generator) -> Iterator[go.Figure]:
    labels, values, errors = [f"{LONG} {i}" for i in range(25)], rng.normal(size=25).tolist(), rng.random(25).tolist()
    yield drawing.bar_chart(labels, values, errors, **ABOUT, value_axis="indirect effect (probability) +- standard error over samples")
    axes = {"group_axis": "score", "value_axis": "share of prompts"}
    scores = ["S", "efficacy (ES)", "paraphrase (PS)", "neighbourhood (NS)"]
    methods = {f"method {i} with a long name {LONG}"[: 20 + i * 4]: [(x, x - 0.1, x + 0.1) for x in rng.random(4)] for i in range(12)}
    yield drawing.grouped_bars(scores, methods, **ABOUT, **axes)
    forty = {name: [(x, x - 0.1, x + 0.1) for x in rng.random(40)] for name in ("unedited", "ROME", "MEMIT")}
    yield drawing.grouped_bars([f"score number {i}" for i in range(40)], forty, **ABOUT, **axes)
    moved = {name: [(x, x - 5, x + 5) for x in 100 * rng.random(20)] for name in ("ROME", LONG, "MEMIT, 5 layers")}
    rows = [f"score {i} {LONG}" for i in range(20)]
    yield drawing.slope_chart(rows, (100 * rng.random(20)).tolist(), moved, **ABOUT, value_axis="percent")


def _lines_and_points(rng: np.random.Generator) -> Iterator[go.Figure]:
    groups, labels = ["nouns"] * 20 + ["verbs in the third person"] * 15 + ["c"] * 6, [f"{LONG} {i}" for i in range(41)]
    marked = [i % 3 == 0 for i in range(41)]
    yield drawing.labelled_points(groups, labels, rng.normal(size=41).tolist(), marked, **ABOUT, value_axis="change of P(word)")
    heads = [f"head {i}" for i in range(9)]
    points = {f"{LONG} {i}": drawing.Points(rng.random(9).tolist(), rng.random(9).tolist(), heads) for i in range(5)}
    yield drawing.scatter(points, **ABOUT, x_axis="attention moved by the corruption (total variation)", y_axis="indirect effect (probability)")
    roles = ["first subject token", "middle subject tokens", "last subject token", "first token after", "further tokens", "last token"]

    def line(name: str, style: int) -> drawing.Line:
        y = rng.random(48)
        return drawing.Line(name, list(range(48)), y.tolist(), (y - 0.1).tolist(), (y + 0.1).tolist(), style)

    titles = [f"subject corrupted: {words} ({LONG})" for words in ("residual state", "MLP output (10 layers)", "attention output (10 layers)") * 2]
    panels = [drawing.LinePanel(title, [line(role, style) for style, role in enumerate(roles)]) for title in titles]
    yield drawing.line_panels(panels, **ABOUT, x_axis="layer", y_axis="average indirect effect (probability)", columns=3)


def _graph(rng: np.random.Generator) -> go.Figure:
    looks = {"source": ("triangle-right", "#667085"), "attention": ("circle", "#cc79a7"), "MLP": ("square", "#009e73"), "answer": ("star", "#e69f00")}
    places = zip(rng.integers(-1, 48, 32), rng.integers(0, 20, 32), [*looks] * 8, strict=True)
    points = [drawing.GraphPoint(float(x), float(y), kind, 0.5, "a mark") for x, y, kind in places]
    arrows = [drawing.Arrow(i, i + 1, float(rng.normal()), "an arrow") for i in range(31)]
    columns = [(-1.0, "tokens"), *((float(i), str(i)) for i in range(48)), (48.0, "answer")]
    return drawing.graph(points, arrows, looks=looks, rows=TOKENS, columns=columns, **ABOUT, marked=frozenset({0}))
