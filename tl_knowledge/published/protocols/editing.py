"""Protocols of editing: scores of editors, their growth, categories and layer ranges, and layer sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.drawing import grouped_bars
from tl_knowledge.editing import EditMethod, method_class
from tl_knowledge.evaluation import EditReport, EvaluationProtocol, GenerationScores, Score, evaluate, measure_growth, score_table
from tl_knowledge.localised import EditingProblem, LayerSweep, sweep_layers
from tl_knowledge.models.protocol import layer_count
from tl_knowledge.published.protocol import Measured, Protocol, number
from tl_knowledge.published.workbench import Editor, Workbench

__all__ = ["CategoryProtocol", "EditProtocol", "GrowthProtocol", "LayerRangeProtocol", "SweepProtocol"]

COUNTERFACT_COLUMNS = ("S", "ES", "EM", "PS", "PM", "NS", "NM")
ZSRE_COLUMNS = ("token_reliability", "token_generality", "token_specificity")
UNEDITED = "unedited"


@dataclass(frozen=True)
class EditProtocol(Protocol):
    """Scores of editors on edit cases, below the unedited model's.

    Attributes:
        editors: one a row.
        columns: which scores.
        protocol: single edits, all in one batch, or one after another.
        batch_size: edits planned together.
        texts: whether texts are generated, for GE and RS.
    """

    editors: tuple[Editor, ...]
    columns: tuple[str, ...] = COUNTERFACT_COLUMNS
    protocol: EvaluationProtocol = "single"
    batch_size: int = 1
    texts: bool = False

    @override
    def measure(self, bench: Workbench) -> Measured:
        """Every score of every editor."""
        reports = reports_of(bench, self.editors, self.protocol, self.batch_size, texts=self.texts)
        first, columns = next(iter(reports.values())), self.columns + (("GE", "RS") if self.texts else ())
        rows = _score_rows(UNEDITED, first.base, columns, len(first.table))
        for label, report in reports.items():
            rows += _score_rows(label, report.scores, columns, len(report.table))
        return Measured(rows, [score_table(*reports.values(), names=tuple(reports)).plot()])


@dataclass(frozen=True)
class GrowthProtocol(Protocol):
    """Scores against the number of edits that are in the model at once.

    Attributes:
        editors: one a line.
        sizes: numbers of edits; those above the number of cases are left out.
        protocol: all edits of a size in one batch, or one after another.
        batch_size: edits planned together.
    """

    editors: tuple[Editor, ...]
    sizes: tuple[int, ...] = (1, 10, 100, 1000, 10000)
    protocol: Any = "batch"
    batch_size: int = 1

    @override
    def measure(self, bench: Workbench) -> Measured:
        """S, ES, PS and NS of every editor at every size."""
        cases = bench.cases()
        sizes = (*(size for size in self.sizes if size < len(cases)), len(cases))
        methods = {editor.label: editor.for_model(bench.model) for editor in self.editors}
        moments = bench.moments(methods.values())
        grown = measure_growth(
            bench.model, cases, methods, sizes, moments=moments, protocol=self.protocol, batch_size=self.batch_size, progress=bench.progress
        )
        rows = [
            number(f"{r['method']}, {r['edits']} edits", r["score"], r["mean"], low=r["low"], high=r["high"], n=r["edits"])
            for r in grown.table.to_dict(orient="records")
            if r["score"] in COUNTERFACT_COLUMNS
        ]
        return Measured(rows, [grown.plot()])


@dataclass(frozen=True)
class CategoryProtocol(Protocol):
    """Scores by relation.

    Attributes:
        editors: one a group of bars.
        columns: which scores.
    """

    editors: tuple[Editor, ...]
    columns: tuple[str, ...] = ("ES", "PS", "NS")

    @override
    def measure(self, bench: Workbench) -> Measured:
        """Every score of every editor and relation."""
        reports = reports_of(bench, self.editors, "single", 1)
        rows: list[dict[str, Any]] = []
        for label, report in reports.items():
            for column in self.columns:
                rows += [
                    number(f"{label}: {r['relation']}", column, r["mean"], low=r["low"], high=r["high"], n=r["cases"])
                    for r in report.by(metric=column).to_dict(orient="records")
                ]
        return Measured(rows, [_by_relation(reports, column) for column in self.columns])


@dataclass(frozen=True)
class LayerRangeProtocol(Protocol):
    """One method over ranges of layers.

    Attributes:
        method: of several layers.
        widths: how many layers a range has; each range ends at each of ``ends``.
        ends: last layers, as shares of the model's depth.
        columns: which scores.
    """

    method: str = "memit"
    widths: tuple[int, ...] = (1, 3, 5)
    ends: tuple[float, ...] = (0.2, 0.35, 0.5, 0.75)
    columns: tuple[str, ...] = ("S", "ES", "PS", "NS")

    @override
    def measure(self, bench: Workbench) -> Measured:
        """Every score of every range."""
        depth = layer_count(bench.model)
        lasts = dict.fromkeys(min(depth - 2, round(share * depth)) for share in self.ends)
        ranges = dict.fromkeys(tuple(range(max(0, last - width + 1), last + 1)) for last in lasts for width in self.widths)
        editors = tuple(Editor(f"layers {layers[0]}-{layers[-1]}", self.method, layers=layers) for layers in ranges)
        return EditProtocol(editors, self.columns, "batch").measure(bench)


@dataclass(frozen=True)
class SweepProtocol(Protocol):
    """Editing and tracing every layer: does localisation inform editing?

    Attributes:
        problems: editing problems.
        editors: methods of one layer.
        noise: of the corruption.
        window: layers restored together.
        samples: noise draws.
        every: take every so many layers.
    """

    problems: tuple[EditingProblem, ...]
    editors: tuple[Editor, ...]
    noise: float | str = "3 subject sd"
    window: int = 5
    samples: int = 10
    every: int = 1

    @override
    def measure(self, bench: Workbench) -> Measured:
        """R^2 of the score on the layer, on the tracing effect and on both, with the gain of tracing, and what each layer scores at its best."""
        rows: list[dict[str, Any]] = []
        figures: list[go.Figure] = []
        notes: list[str] = []
        for problem in self.problems:
            for editor in self.editors:
                sweep = self._sweep(bench, problem, editor)
                fit, row, n = sweep.regressions(), f"{problem.replace('_', ' ')}: {editor.label}", int(sweep.table["case_id"].nunique())
                values = {"R2 layer": fit.first, "R2 tracing": fit.second, "R2 both": fit.both, "gain of tracing": fit.both - fit.first, "p": fit.p}
                by_layer = sweep.summary()
                peaks = (("best layer", "score"), ("traced layer", "tracing_effect"))
                layers = by_layer["layer"].tolist()
                values |= {name: float(layers[int(by_layer[column].to_numpy().argmax())]) for name, column in peaks}
                rows += [number(row, column, value, n=n) for column, value in values.items()]
                figures.append(sweep.plot())
                notes += [f"{row}: {len(sweep.skipped)} facts left out ({next(iter(sweep.skipped.values()))})"] if sweep.skipped else []
        return Measured(rows, figures, notes)

    def _sweep(self, bench: Workbench, problem: EditingProblem, editor: Editor) -> LayerSweep:
        cases, depth = bench.cases(), layer_count(bench.model)
        layers = tuple(range(0, depth - 1, self.every))
        settings = editor.for_model(bench.model)

        def method_at(layer: int, objective: Any) -> EditMethod:
            word = method_class(editor.method).layer_word()
            place: dict[str, Any] = {"layers": (layer,)} if word == "layers" else {"layer": layer}
            return replace(settings, objective=objective, **place)  # pyright: ignore[reportArgumentType, reportCallIssue]

        moments = bench.moments([method_at(layer, _plain_objective(settings)) for layer in layers])
        with bench.timed("edits"):
            return sweep_layers(
                bench.model,
                cases,
                method_at,
                moments=moments,
                problem=problem,
                layers=layers,
                noise=bench.noise(self.noise, [case.fact for case in cases]),
                samples=self.samples,
                window=bench.window(self.window),
                progress=bench.progress,
            )


def reports_of(
    bench: Workbench, editors: Sequence[Editor], protocol: EvaluationProtocol, batch_size: int, *, texts: bool = False
) -> dict[str, EditReport]:
    """Each editor's report on the bench's cases."""
    cases = bench.cases()
    methods = {editor.label: editor.for_model(bench.model) for editor in editors}
    moments = bench.moments(methods.values())
    reports: dict[str, EditReport] = {}
    for editor in editors:
        alone = editor.alone and protocol != "single"
        with bench.timed(editor.label):
            reports[editor.label] = evaluate(
                bench.model,
                cases,
                methods[editor.label],
                moments=moments,
                protocol="sequential" if alone else protocol,
                batch_size=1 if alone else batch_size,
                measures=(GenerationScores(),) if texts and any(case.generation for case in cases) else (),
                store=bench.part(editor.label),
                progress=bench.progress,
            )
    return reports


def _plain_objective(method: EditMethod) -> Any:
    return getattr(method, "objective", None)


def _score_rows(row: str, scores: dict[str, Score], columns: tuple[str, ...], n: int) -> list[dict[str, Any]]:
    return [number(row, column, scores[column].mean, low=scores[column].low, high=scores[column].high, n=n) for column in columns if column in scores]


def _by_relation(reports: dict[str, EditReport], column: str) -> go.Figure:
    frames = {label: report.by(metric=column).set_index("relation") for label, report in reports.items()}
    relations = sorted({str(relation) for frame in frames.values() for relation in frame.index})
    first = next(iter(reports.values()))
    bars = {
        label: [tuple(frame.loc[relation, ["mean", "low", "high"]].tolist()) for relation in relations]  # pyright: ignore
        for label, frame in frames.items()
    }
    return grouped_bars(
        relations,
        bars,  # pyright: ignore[reportArgumentType]
        title=f"{column} by relation",
        subtitle=f"{len(first.table)} edits; {first.provenance.model}; 95% bootstrap over a relation's edits",
        group_axis="relation",
        value_axis=f"{column} (percent)",
    )
