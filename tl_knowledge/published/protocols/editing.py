"""Protocols of editing: scores of editors, their growth, categories and layer ranges, and both sides of a fact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import override

from tl_knowledge.datasets import load_relations
from tl_knowledge.editing import EditMethod, method_class
from tl_knowledge.errors import InputError
from tl_knowledge.evaluation import (
    EditMeasure,
    EditReport,
    EvaluationProtocol,
    GenerationScores,
    Score,
    compare_categories,
    evaluate,
    measure_growth,
    score_table,
    sweep_layer_ranges,
    symmetry_accuracies,
)
from tl_knowledge.localised import measure_relation_side
from tl_knowledge.models.protocol import layer_count
from tl_knowledge.published.protocol import Measured, Protocol, number
from tl_knowledge.published.workbench import Editor, Workbench
from tl_knowledge.results.statistics import IntervalVariant, scalar_interval
from tl_knowledge.wording import counted

__all__ = ["CategoryProtocol", "EditProtocol", "GrowthProtocol", "LayerRangeProtocol", "RelationSideProtocol", "SymmetryProtocol"]

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
        interval: of the scores: the program's half widths, or our bootstrap.
    """

    editors: tuple[Editor, ...]
    columns: tuple[str, ...] = COUNTERFACT_COLUMNS
    protocol: EvaluationProtocol = "single"
    batch_size: int = 1
    texts: bool = False
    interval: IntervalVariant = "meng2022_code"

    @override
    def measure(self, bench: Workbench) -> Measured:
        """Every score of every editor."""
        measures = (GenerationScores(),) if self.texts else ()
        reports, notes = reports_of(bench, self.editors, self.protocol, self.batch_size, measures)
        scores = score_table(*reports.values(), names=tuple(reports), interval=self.interval)
        columns = self.columns + (("GE", "RS") if self.texts else ())
        rows = [row for label, of_row in scores.rows.items() for row in _score_rows(label, of_row, columns, scores.cases)]
        return Measured(rows, [scores.plot()], notes)


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
        methods, notes = methods_of(bench, self.editors)
        moments = bench.moments(methods.values())
        with bench.timed("edits"):
            grown = measure_growth(
                bench.asked,
                cases,
                methods,
                (*(size for size in self.sizes if size < len(cases)), len(cases)),
                moments=moments,
                protocol=self.protocol,
                batch_size=self.batch_size,
                store=bench.part("growth"),
                runner=bench.runner,
                workers=bench.workers,
                progress=bench.progress,
            )
        rows = [
            number(f"{r['method']}, {counted(r['edits'], 'edit')}", r["score"], r["mean"], low=r["low"], high=r["high"], n=r["edits"])
            for r in grown.table.to_dict(orient="records")
            if r["score"] in COUNTERFACT_COLUMNS
        ]
        return Measured(rows, [grown.plot()], notes)


@dataclass(frozen=True)
class CategoryProtocol(Protocol):
    """Scores by relation.

    Attributes:
        editors: one a group of bars.
        columns: which scores.
    """

    editors: tuple[Editor, ...]
    columns: tuple[str, ...] = ("S", "PS", "NS")

    @override
    def measure(self, bench: Workbench) -> Measured:
        """Every score of every editor and relation."""
        reports, notes = reports_of(bench, self.editors, "single", 1)
        scores = compare_categories(*reports.values(), names=tuple(reports))
        rows = [
            number(f"{r['method']}: {r['category']}", r["score"], r["mean"], low=r["low"], high=r["high"], n=r["cases"])
            for r in scores.table.to_dict(orient="records")
            if r["score"] in self.columns
        ]
        return Measured(rows, [scores.plot(), scores.plot_scatter()], notes)


@dataclass(frozen=True)
class LayerRangeProtocol(Protocol):
    """One method over ranges of layers.

    Attributes:
        editor: of several layers.
        widths: how many layers a range has; each range ends at each of ``ends``.
        ends: last layers, as shares of the model's depth.
        columns: which scores.
    """

    editor: Editor = field(default_factory=lambda: Editor("MEMIT", "memit"))
    widths: tuple[int, ...] = (1, 3, 5)
    ends: tuple[float, ...] = (0.2, 0.35, 0.5, 0.75)
    columns: tuple[str, ...] = ("S", "ES", "PS", "NS")

    @override
    def measure(self, bench: Workbench) -> Measured:
        """Every score of every range."""
        depth = layer_count(bench.model)
        lasts = dict.fromkeys(min(depth - 2, round(share * depth)) for share in self.ends)
        ranges = list(dict.fromkeys(tuple(range(max(0, last - width + 1), last + 1)) for last in lasts for width in self.widths))
        methods, _ = methods_of(bench, [self.editor])
        known: Any = method_class(self.editor.method)
        moments = bench.moments([known.for_model(bench.model, layers=layers) for layers in ranges])
        with bench.timed("edits"):
            sweep = sweep_layer_ranges(
                bench.model,
                bench.cases(),
                methods[self.editor.label],
                ranges,
                moments=moments,
                store=bench.part("ranges"),
                progress=bench.progress,
            )
        rows = [
            number(f"layers {r['layers']}", r["score"], r["mean"], low=r["low"], high=r["high"], n=bench.limit)
            for r in sweep.table.to_dict(orient="records")
            if r["score"] in self.columns
        ]
        return Measured(rows, [sweep.plot()])


@dataclass(frozen=True)
class RelationSideProtocol(Protocol):
    """Edits from the entity's and from the relation's side, both read after either, always beside the unedited model.

    Attributes:
        methods: of `measure_relation_side`.
        edited: the side whose edits are the table's rows.
    """

    methods: tuple[str, ...] = ("ft", "kn", "rome", "memit")
    edited: str = "relation"

    @override
    def measure(self, bench: Workbench) -> Measured:
        """Reliability and generality of both sides, in the form of the paper's tables."""
        editors = [Editor(name, name) for name in self.methods]
        methods, notes = methods_of(bench, editors)
        sides = measure_relation_side(
            bench.model,
            bench.cases(),
            relations=load_relations(),
            methods=tuple(methods),
            moments=bench.moments(methods.values()),
            store=bench.part("sides"),
            progress=bench.progress,
        )
        rows: list[dict[str, Any]] = []
        first = sides.table.drop_duplicates("case_id")
        groups = [(UNEDITED, first, "base_")] + [
            (str(name).upper(), group, "") for name, group in sides.table.query("edited == @self.edited").groupby("method", sort=False)
        ]
        for label, group, prefix in groups:
            for column in ("entity_ES", "entity_PS", "relation_ES", "relation_PS"):
                mean, low, high = scalar_interval(group[prefix + column])
                rows.append(number(label, column, mean, low=low, high=high, n=len(group)))
        return Measured(rows, [sides.plot()], notes)


@dataclass(frozen=True)
class SymmetryProtocol(Protocol):
    """Does an edit hold the other way round: seven accuracies of edits of capitals.

    Attributes:
        editors: one a row.
        reverse: the relations that have an inverse; FactLM's and the paper's are both known.
    """

    editors: tuple[Editor, ...]
    reverse: tuple[tuple[str, str], ...] = (("P36", "{} is the capital of"), ("P1376", "The capital of {} is"))

    @override
    def measure(self, bench: Workbench) -> Measured:
        """The accuracies of every editor."""
        relations = dict(self.reverse)
        cases = bench.cases_of(relations)
        if not cases:
            raise InputError(f"no case is of {', '.join(relations)}; pass a source that has them, or a higher limit.")
        measure = symmetry_accuracies([case.fact for case in cases], reverse=relations)
        reports, notes = reports_of(bench, self.editors, "single", 1, (measure,), cases=cases)
        rows: list[dict[str, Any]] = []
        for label, report in reports.items():
            rows += _score_rows(label, report.scores, measure.columns, len(report.table))
        return Measured(rows, [score_table(*reports.values(), names=tuple(reports)).plot()], notes)


def methods_of(bench: Workbench, editors: Sequence[Editor]) -> tuple[dict[str, EditMethod], list[str]]:
    """Each editor's method for the bench's model, and what is published for other models only.

    Raises:
        InputError: nothing is published for this model.
    """
    methods: dict[str, EditMethod] = {}
    notes: list[str] = []
    for editor in editors:
        try:
            methods[editor.label] = editor.for_model(bench.model)
        except InputError as error:
            notes.append(f"{editor.label} is left out: {error}")
    if not methods:
        raise InputError("; ".join(notes))
    return methods, notes


def reports_of(
    bench: Workbench,
    editors: Sequence[Editor],
    protocol: EvaluationProtocol,
    batch_size: int,
    measures: tuple[EditMeasure, ...] = (),
    *,
    cases: Any = None,
) -> tuple[dict[str, EditReport], list[str]]:
    """Each editor's report on the bench's cases, and what is published for other models only."""
    cases = bench.cases() if cases is None else cases
    methods, notes = methods_of(bench, editors)
    shared, reports = protocol == "single", dict[str, EditReport]()  # otherwise all edits are in one model
    who = bench.runner if shared else "local"
    running = dict[str, Any](runner=who, workers=bench.workers, progress=bench.progress, moments=bench.moments(methods.values()), measures=measures)
    for editor in (editor for editor in editors if editor.label in methods):
        alone = editor.alone and protocol != "single"
        with bench.timed(editor.label):
            reports[editor.label] = evaluate(
                bench.asked if shared else bench.model,
                cases,
                methods[editor.label],
                protocol="sequential" if alone else protocol,
                batch_size=1 if alone else batch_size,
                store=bench.part(editor.label),
                **running,
            )
    return reports, notes


def _score_rows(row: str, scores: dict[str, Score], columns: tuple[str, ...], n: int) -> list[dict[str, Any]]:
    """The scores that are numbers; GE and RS are none where a case has no beginnings or no references."""
    there = {column: scores[column] for column in columns if column in scores and scores[column].mean == scores[column].mean}
    return [number(row, column, score.mean, low=score.low, high=score.high, n=n) for column, score in there.items()]
