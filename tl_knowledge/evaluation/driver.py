"""Edit, measure, take back: one editing method over many cases."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, is_dataclass
from typing import Any
from weakref import WeakKeyDictionary

import pandas as pd
from more_itertools import always_iterable, chunked

from tl_knowledge.door import public
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import DataError, InputError, check_choice, check_given
from tl_knowledge.evaluation.generation import TextMeasure
from tl_knowledge.evaluation.measures import EditMeasure
from tl_knowledge.evaluation.report import EDITED_TEXTS, UNEDITED_TEXTS, EditReport, EvaluationProtocol, EvaluationSettings
from tl_knowledge.evaluation.run_key import measure_name, run_key
from tl_knowledge.evaluation.scores import Reading, case_scores, read_candidates
from tl_knowledge.models.ledger import has_written_edits, unedited_fingerprint
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel, prepends_bos
from tl_knowledge.prompts.facts import EditCase, refuse_contradictions
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.results.packing import plain
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.results.run_folder import RunFolder
from tl_knowledge.runs.edits import AppliedEdit, EditPlanner
from tl_knowledge.runs.key_moments import KeyMoments

__all__ = ["evaluate"]

CASES_PER_PART = 20

_base: WeakKeyDictionary[object, dict[tuple[str, bool, EditCase], Reading]] = WeakKeyDictionary()


@public
def evaluate(
    model: AnyModel,
    cases: EditCase | Iterable[EditCase],
    method: EditPlanner[AppliedEdit],
    *,
    moments: KeyMoments | None = None,
    protocol: EvaluationProtocol = "single",
    batch_size: int = 1,
    measures: EditMeasure | Sequence[EditMeasure] = (),
    store: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> EditReport:
    """Score an editing method on CounterFact-style cases; the model is left as it was.

    The unedited model is measured on the same prompts, once for all methods that are evaluated on them.

    Args:
        cases: for example `load_edit_cases` or `load_counterfact`.
        method: for example ``ROME(layer=5)``; any object with ``plan(model, facts, moments)`` will do.
        moments: of the model's keys, for the methods that need them.
        protocol: ``"single"`` takes each edit back before the next (Meng et al. 2022), ``"batch"`` plans all at once (Meng et al. 2023),
            ``"sequential"`` lets them stay.
        batch_size: how many cases one plan of ``"single"`` or ``"sequential"`` edits.
        measures: what else to read, for example `GenerationScores` or `symmetry`.
        store: a folder; a run that was killed goes on from it, twenty cases at a time (``"single"``), else with the whole.

    Raises:
        DataError: no case, or a folder of another run.
        InputError: an unknown protocol, contradicting cases in one plan, or what the method refuses.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=[0], progress=False)
        >>> report = tlk.evaluate(model, tlk.load_edit_cases()[:3], tlk.ROME(layer=0), moments=moments, progress=False)
        >>> report.scores["ES"].mean
        100.0
        >>> report
        <EditReport: ROME on 3 cases, single; factlm>
    """
    model = as_model(model)
    given = check_given(always_iterable(cases, EditCase), "case", "pass at least one, for example load_edit_cases()[:200]")
    own_measures = tuple(always_iterable(measures, EditMeasure))
    _check(model, given, protocol, batch_size)
    if moments is not None:
        moments.check(model)
    settings = EvaluationSettings(
        type(method).__name__,
        plain(method) if is_dataclass(method) else {},
        protocol,
        len(given) if protocol == "batch" else batch_size,
        tuple(measure_name(measure) for measure in own_measures),
    )
    provenance = provenance_of(model, engine="teacher forcing", seed=int(getattr(method, "seed", 0)), settings=settings)
    run = _Run(model, method, moments, settings, own_measures, progress)
    per_part = max(CASES_PER_PART // batch_size, 1) * batch_size if protocol == "single" else len(given)
    parts = list(chunked(given, per_part))
    with ExitStack() as stack:
        key = run_key(model, given, method, moments, settings, own_measures)
        folder = None if store is None else stack.enter_context(closing(RunFolder(store, key, "evaluate()")))
        finished = {} if folder is None else _finished(folder, parts)
        tables: list[pd.DataFrame] = []
        for number, part in enumerate(progress_bar(parts, what="edit and measure", unit="part", progress=progress and len(parts) > 1)):
            if number in finished:
                tables.append(finished[number])
                continue
            table = pd.DataFrame(run.rows(part, number * per_part))
            if folder is not None:
                EditReport(table, settings, provenance).save(folder.part(number))
            tables.append(table)
    return EditReport(pd.concat(tables, ignore_index=True), settings, provenance)


def _finished(folder: RunFolder, parts: Sequence[Sequence[EditCase]]) -> dict[int, pd.DataFrame]:
    """The parts that are there, read before anything is computed.

    Raises:
        DataError: a damaged part, or one that has other cases than its place in the run.
    """
    tables: dict[int, pd.DataFrame] = {}
    for number in folder.finished():
        table = EditReport.load(folder.part(number)).table
        there = list(zip(table["subject"], table["relation"].fillna(""), table["target_new"], strict=True))
        cases = parts[number] if number < len(parts) else ()
        if there != [(case.fact.subject, case.fact.relation or "", case.target_new) for case in cases]:
            raise DataError(f"{str(folder.part(number))!r} has other cases than its place in the run; delete it to have it computed again.")
        tables[number] = table
    return tables


@dataclass(frozen=True)
class _Run:
    """One evaluation: edits batches of cases, and reads the model before and after."""

    model: HookedModel
    method: EditPlanner[AppliedEdit]
    moments: KeyMoments | None
    settings: EvaluationSettings
    measures: tuple[EditMeasure, ...]
    progress: bool

    def rows(self, cases: Sequence[EditCase], first: int) -> list[dict[str, Any]]:
        """One row a case: its scores, and the unedited model's.

        Args:
            first: the number of the first case in the whole run.
        """
        base = [self._read(case, base=True) for case in self._bar(cases, "unedited model")]
        after = self._after(cases)
        return [
            {"case_id": case.case_id or str(first + i), "subject": case.fact.subject, "relation": case.fact.relation, "target_new": case.target_new}
            | self._scores(base[i], after[i])
            | {f"base_{name}": value for name, value in self._scores(base[i], base[i]).items()}
            | self._texts(base[i], after[i])
            for i, case in enumerate(cases)
        ]

    def _after(self, cases: Sequence[EditCase]) -> list[list[Any]]:
        """What every measure reads of each case once it is edited."""
        batches = list(chunked(cases, self.settings.batch_size))
        if self.settings.protocol == "single":
            readings: list[list[Any]] = []
            for batch in self._bar(batches, "edit and measure"):
                with self._plan(batch).applied(self.model):
                    readings += [self._read(case) for case in batch]
            return readings
        with self._all_written(batches):
            return [self._read(case) for case in self._bar(cases, "measure")]

    @contextmanager
    def _all_written(self, batches: Sequence[Sequence[EditCase]]) -> Generator[None]:
        written: list[AppliedEdit] = []
        try:
            for batch in self._bar(batches, "edit"):
                edit = self._plan(batch)
                edit.write_into(self.model)
                written.append(edit)
            yield
        finally:
            for edit in reversed(written):
                edit.revert(self.model)

    def _plan(self, cases: Sequence[EditCase]) -> AppliedEdit:
        return self.method.plan(self.model, [case.rewrite for case in cases], self.moments)

    def _read(self, case: EditCase, *, base: bool = False) -> list[Any]:
        """What every measure reads now, the candidates first."""
        candidates = _base_reading(self.model, case) if base else read_candidates(self.model, case)
        return [candidates, *(measure.read(self.model, case) for measure in self.measures)]

    def _scores(self, before: Sequence[Any], after: Sequence[Any]) -> dict[str, float]:
        scores = case_scores(before[0], after[0])
        for measure, old, new in zip(self.measures, before[1:], after[1:], strict=True):
            scores |= measure.scores(old, new)
        return scores

    def _texts(self, before: Sequence[Any], after: Sequence[Any]) -> dict[str, list[str]]:
        """What was generated, of the measures that generate: two columns of lists."""
        of_text = [(measure, i) for i, measure in enumerate(self.measures, start=1) if isinstance(measure, TextMeasure)]
        if not of_text:
            return {}
        readings = {UNEDITED_TEXTS: before, EDITED_TEXTS: after}
        return {name: [text for measure, i in of_text for text in measure.texts(reading[i])] for name, reading in readings.items()}

    def _bar(self, items: Sequence[Any], what: str) -> Iterable[Any]:
        return progress_bar(items, what=what, unit="case", progress=self.progress, leave=False)


def _base_reading(model: HookedModel, case: EditCase) -> Reading:
    """The candidates on the model as it is, read once for all methods; a model with edits written into it is read anew."""
    if has_written_edits(model):
        return read_candidates(model, case)
    readings, key = _base.setdefault(model, {}), (unedited_fingerprint(model), prepends_bos(model), case)
    if key not in readings:
        readings[key] = read_candidates(model, case)
    return readings[key]


def _check(model: HookedModel, cases: Sequence[EditCase], protocol: str, batch_size: int) -> None:
    check_choice("protocol", protocol, EvaluationProtocol)
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} plans nothing; pass at least 1.")
    for batch in chunked(cases, len(cases) if protocol == "batch" else batch_size):
        refuse_contradictions([case.rewrite for case in batch])
    for case in cases:
        check_fits(model, Prompt.from_fact(model, case.rewrite), multi_token=True)
