"""Write the page that sets FactLM's two shapes side by side, and its figure, from what ``measure.py`` and ``per_fact.py`` measured.

    python training/factlm/compare.py

reads ``measured/gpt2_seed0.json`` and its like, and of as many as there are ``measured/gpt2_seed0_per_fact.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from card import ROOT, filled, shares, table
from measure import best_layer, overall
from per_fact import ANYWHERE, AT_SUBJECT

from tl_knowledge.drawing import Line, LinePanel, colour_of, line_panels
from tl_knowledge.results.significance import rank_correlation

MEASURED = Path(__file__).parent / "measured"
TRACED = {
    "MLP (last subject token)": ("subject/mlp_out", "last subject token"),
    "attention (last token)": ("subject/attn_out", "last token"),
    "relation (corrupted: MLP, last token)": ("relation/mlp_out", "last token"),
}


def kept(scores: dict[str, float]) -> float:
    return scores["subject's other facts kept"]


EDITED: dict[str, Callable[[dict[str, float]], float]] = {"rewrite: harmonic mean of ES, PS and NS": overall, "the subject's other facts kept": kept}
EDITED_STYLES = (0, 4)  # of the palette, in which no token or module has its colour
LOOKED_UP = 2  # the layer, in all of them
NEARLY = 2.0  # points below the best, within which two layers are hardly told apart


@dataclass(frozen=True)
class Model:
    """One trained model: its name in tables, what was measured, and what was of single facts (empty where nothing was)."""

    label: str
    measured: dict
    per_fact: dict

    @classmethod
    def of_shape(cls, shape: str, files: Sequence[Path]) -> list[Model]:
        models = []
        for seed, file in enumerate(files):
            single = file.with_name(f"{file.stem}_per_fact.json")
            found = json.loads(single.read_text(encoding="utf-8")) if single.exists() else {}
            label = f"{shape} {seed}"
            models.append(cls(label, json.loads(file.read_text(encoding="utf-8")), found))
        return models

    @property
    def editing(self) -> dict[str, dict[str, float]]:
        return self.measured["editing"]

    @property
    def best(self) -> dict[str, float]:
        """The rewrite's scores in its best layer."""
        return self.editing[str(best_layer(self.editing))]

    def traced(self, key: str, role: str) -> dict[int, float]:
        """A restored component's share of the total effect by layer."""
        return dict(enumerate(shares(self.measured, key, role).tolist()))

    def edited(self, score: Callable[[dict], float]) -> dict[int, float]:
        """A score of the rewrite by layer, as a share."""
        return {int(layer): score(scores) / 100 for layer, scores in self.editing.items()}


def figure(shapes: dict[str, list[Model]], subtitle: str) -> go.Figure:
    """Above what tracing finds by layer, below what a rewrite in that layer does; a thin line a seed, a thick one their mean."""
    traced = {f"{shape}: traced": {name: [model.traced(*at) for model in models] for name, at in TRACED.items()} for shape, models in shapes.items()}
    edited = {f"{shape}: rewritten": {name: [m.edited(score) for m in models] for name, score in EDITED.items()} for shape, models in shapes.items()}
    panels, styles = traced | edited, dict(zip(EDITED, EDITED_STYLES, strict=True))
    drawn = line_panels(
        [LinePanel(title, [mean_line(name, seeds, styles.get(name, 0)) for name, seeds in lines.items()]) for title, lines in panels.items()],
        title="Where tracing points, and where a rewrite works",
        subtitle=subtitle,
        x_axis="layer",
        y_axis="share",
        columns=len(shapes),
        percent=True,
    )
    layers = sorted({layer for lines in traced.values() for seeds in lines.values() for values in seeds for layer in values})
    drawn.update_xaxes(range=[layers[0] - 0.4, layers[-1] + 0.4], tickvals=layers)
    drawn.update_traces(line_width=3, selector={"mode": "lines+markers"})
    for number, lines in enumerate(panels.values()):
        for name, values in ((name, values) for name, seeds in lines.items() for values in seeds):
            look = {"color": colour_of(name, styles.get(name, 0)), "width": 1}
            thin = go.Scatter(x=list(values), y=list(values.values()), mode="lines", line=look, showlegend=False, hoverinfo="skip")
            drawn.add_trace(thin, row=number // len(shapes) + 1, col=number % len(shapes) + 1)
    return drawn


def mean_line(name: str, seeds: list[dict[int, float]], style: int) -> Line:
    layers = sorted(set.intersection(*(set(values) for values in seeds)))
    none = [float("nan")] * len(layers)
    return Line(name, layers, [float(np.mean([values[layer] for values in seeds])) for layer in layers], none, none, style=style)


def scores_text(scores: dict[str, float]) -> str:
    return ", ".join(f"{scores[name]:.0f}" for name in ("ES", "PS", "NS"))


def peak_text(model: Model, key: str, role: str) -> str:
    """The largest share, and which two layers were restored."""
    of_total = model.traced(key, role)
    first = max(of_total, key=lambda layer: of_total[layer])
    return f"{of_total[first]:.0%}, {first}-{min(first + 1, max(of_total))}"


def nearly_best(model: Model) -> str:
    """The layers in which the rewrite is about as good as in its best."""
    by = model.edited(overall)
    return ", ".join(str(layer) for layer, score in by.items() if score >= max(by.values()) - NEARLY / 100)


def read_above(model: Model, layer: int) -> float:
    """What attention above a layer gives back at the last token: the most of the windows that begin above it."""
    return max(share for first, share in model.traced("subject/attn_out", "last token").items() if first > layer)


def read_pairs(model: Model) -> dict[int, tuple[float, float]]:
    """By layer from the look-up on, what attention reads above it, and ES of the rewrite in it."""
    es, last = model.edited(lambda scores: scores["ES"]), max(model.traced("subject/attn_out", "last token"))
    return {layer: (read_above(model, layer), es[layer]) for layer in sorted(es) if LOOKED_UP <= layer < last}


def read_table(models: list[Model]) -> str:
    pairs = {model.label: read_pairs(model) for model in models}
    layers = sorted({layer for each in pairs.values() for layer in each})
    rows = [[label, *("{:.0%}: {:.0%}".format(*each[layer]) if layer in each else "" for layer in layers)] for label, each in pairs.items()]
    return table(["read above: ES of the rewrite", *(f"layer {layer}" for layer in layers)], rows)


def read_correlation(models: list[Model]) -> str:
    """The rank correlation of the two over all models and layers."""
    pairs = [pair for model in models for pair in read_pairs(model).values()]
    above, es = (list(values) for values in zip(*pairs, strict=True))
    return f"{rank_correlation(above, es):.2f} over {len(pairs)} pairs"


def memit_text(model: Model) -> str:
    """The best of the weights that were tried, and the layer."""
    tried = model.measured.get("many edits")
    best = max(tried.values(), key=lambda scores: scores["S"]) if tried else None
    return "not measured" if best is None else f"{best['S']:.0f} (layer {best['layer']})"


ROWS: dict[str, Callable[[Model], str]] = {
    "known: trained templates, held-out paraphrases": lambda m: ", ".join(
        f"{m.measured['knowledge'][name]:.1f}" for name in ("trained templates", "held-out paraphrases")
    ),
    "total effect: subject, relation corrupted": lambda m: ", ".join(
        f"{m.measured['traces']['total'][side]:.2f}" for side in ("subject", "relation")
    ),
    "subject corrupted: MLP, last subject token": lambda m: peak_text(m, "subject/mlp_out", "last subject token"),
    "the same, 0-1": lambda m: f"{m.traced('subject/mlp_out', 'last subject token')[0]:.0%}",
    "subject corrupted: attention, last token": lambda m: peak_text(m, "subject/attn_out", "last token"),
    "subject corrupted: MLP, last token": lambda m: peak_text(m, "subject/mlp_out", "last token"),
    "relation corrupted: MLP, last token": lambda m: peak_text(m, "relation/mlp_out", "last token"),
    "rewrite's best layer: ES, PS, NS": lambda m: f"{best_layer(m.editing)}: {scores_text(m.best)}",
    f"layers within {NEARLY:g} points of it": nearly_best,
    "rewrite in layer 0: ES, PS, NS": lambda m: scores_text(m.editing["0"]),
    "other facts kept in the best layer": lambda m: f"{kept(m.best):.0f}",
    "MEMIT, many at once: S": memit_text,
}


def marks_table(models: list[Model]) -> str:
    return table(["", *(model.label for model in models)], [[name, *map(cell, models)] for name, cell in ROWS.items()])


def regression_table(models: list[Model]) -> str:
    """R^2 of the rewrite score, a row for each model and way of reading the trace."""
    rows = []
    for model in models:
        for read in (ANYWHERE, AT_SUBJECT) if model.per_fact else ():
            fit = model.per_fact["regressions"][read]["rewrite"]
            numbers = [f"{fit[name]:.3f}" for name in ("layer", "tracing", "both")]
            rows.append([model.label, read, *numbers, f"{fit['p']:.2g}", f"{fit['correlation']:+.2f}"])
    return table(["model", "tracing effect", "layer", "tracing", "both", "p", "r of tracing"], rows)


def layer_table(models: list[Model]) -> str:
    """A single layer's effect and the rewrite in it, means over facts, of the models that were swept."""
    swept = [model for model in models if model.per_fact]
    layers = list(swept[0].per_fact["means"]["score"])
    rows = [
        [model.label, what, *(f"{model.per_fact['means'][column][layer]:.2f}" for layer in layers)]
        for model in swept
        for what, column in (
            ("effect at the last subject token", AT_SUBJECT),
            ("largest effect", ANYWHERE),
            ("rewrite score", "score"),
            ("overall score", "overall"),
        )
    ]
    return table(["model", "mean over facts", *layers], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpt2", type=Path, nargs="+", default=sorted(MEASURED.glob("gpt2_seed?.json")))
    parser.add_argument("--llama", type=Path, nargs="+", default=sorted(MEASURED.glob("llama_seed?.json")))
    parser.add_argument("--cases", default="30 to 50", help="how many edits a layer were measured, in words")
    parser.add_argument("--figure", type=Path, default=ROOT / "build" / "two_architectures.html")
    args = parser.parse_args()
    shapes = {"GPT-2": Model.of_shape("GPT-2", args.gpt2), "LLaMA": Model.of_shape("LLaMA", args.llama)}
    models = [model for each in shapes.values() for model in each]
    counts = [model.measured["traces"]["facts"] for model in models]
    traced = " to ".join(map(str, sorted({min(counts), max(counts)})))
    parts = {
        "FACTS": traced,
        "CASES": args.cases,
        "SWEPT": str(models[0].per_fact["facts"]),
        "MARKS": marks_table(models),
        "READ": read_table(models),
        "READ_CORRELATION": read_correlation(models),
        "REGRESSIONS": regression_table(models),
        "LAYERS": layer_table([each[0] for each in shapes.values()]),
    }
    (ROOT / "docs" / "two_architectures.md").write_text(filled("compare_template.md", parts), encoding="utf-8")
    subtitle = f"thin: a seed, thick: their mean; {traced} facts, windows of two layers from the one named; {args.cases} edits in each layer"
    args.figure.parent.mkdir(parents=True, exist_ok=True)
    figure(shapes, subtitle).write_html(args.figure, include_plotlyjs=True, config={"displayModeBar": False})


if __name__ == "__main__":
    main()
