"""Edit, measure, take back: one editing method over many cases."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from more_itertools import always_iterable, chunked

from tl_knowledge.door import public
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import DataError, InputError, check_choice, check_given
from tl_knowledge.evaluation.measures import EditMeasure
from tl_knowledge.evaluation.report import EditReport, EvaluationProtocol, EvaluationSettings
from tl_knowledge.evaluation.run import EvaluationRun
from tl_knowledge.evaluation.run_key import evaluation_settings, run_key
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import EditCase, refuse_contradictions
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.results.kept import forget_kept
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.results.run_folder import RunFolder
from tl_knowledge.runs.edits import AppliedEdit, EditPlanner, models_of
from tl_knowledge.runs.key_moments import KeyMoments
from tl_knowledge.runs.parts import Runner, run_parts

__all__ = ["check_cases", "evaluate", "stored_report"]

CASES_PER_PART = 20


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
    runner: Runner = "local",
    workers: int = 2,
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
        store: a folder; a run that was killed goes on from it, twenty cases at a time (``"single"``), else with the values that were optimised
            (of the methods that optimise such values: ROME, MEMIT, EMMET, AlphaEdit).
        runner, workers: ``"ray"`` shares the parts of ``"single"`` out among Ray actors with one model each; pass the model's name then.

    Raises:
        DataError: no case, or a folder of another run.
        InputError: an unknown protocol, contradicting cases in one plan, or what the method refuses.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> method = tlk.ROME.for_model(model)
        >>> moments = tlk.collect_key_moments(model, tlk.load_corpus(), layers=method.layer, progress=False)
        >>> report = tlk.evaluate(model, tlk.load_edit_cases()[:3], method, moments=moments, progress=False)
        >>> report.scores["ES"].mean
        100.0
        >>> report
        <EditReport: ROME on 3 cases, single; factlm>
    """
    source, model = model, as_model(model, **models_of(method))
    given = check_given(always_iterable(cases, EditCase), "case", "pass at least one, for example load_edit_cases()[:200]")
    own_measures = tuple(always_iterable(measures, EditMeasure))
    check_cases(model, given, protocol, batch_size, method)
    check_choice("runner", runner, Runner)
    if runner == "ray" and protocol != "single":
        raise InputError(f"protocol {protocol!r} has all edits in one model, so that runner='ray' has nothing to share out; pass runner='local'.")
    if moments is not None:
        moments.check(model)
    settings = evaluation_settings(method, protocol, len(given) if protocol == "batch" else batch_size, own_measures)
    provenance = provenance_of(model, engine="teacher forcing", seed=int(getattr(method, "seed", 0)), settings=settings)
    per_part = max(CASES_PER_PART // batch_size, 1) * batch_size if protocol == "single" else len(given)
    parts = {number: (part, number * per_part) for number, part in enumerate(chunked(given, per_part))}
    with ExitStack() as stack:
        key = run_key(model, given, method, moments, settings, own_measures)
        folder = None if store is None else stack.enter_context(closing(RunFolder(store, key, "evaluate()")))
        numbers = [] if folder is None else folder.finished()
        tables = {} if folder is None else {n: stored_report(folder, n, parts[n][0] if n in parts else ()).table for n in numbers}
        keep = folder.directory if folder is not None and protocol != "single" else None
        bar = stack.enter_context(progress_bar(what="edit and measure", unit="part", total=len(parts), progress=progress and len(parts) > 1))
        bar.update(len(tables))

        def finished(number: int, rows: list[dict[str, Any]]) -> None:
            tables[number] = pd.DataFrame(rows)
            bar.update(1)
            if folder is not None:
                EditReport(tables[number], settings, provenance).save(folder.part(number))
                forget_kept(folder.directory, "")

        job = _EvaluationJob(method, moments, settings, own_measures, progress and runner == "local", keep, models_of(method))
        missing = {number: part for number, part in parts.items() if number not in tables}
        run_parts(source if runner == "ray" else model, job, missing, finished, runner=runner, workers=workers)
    return EditReport(pd.concat([tables[number] for number in parts], ignore_index=True), settings, provenance)


@dataclass(frozen=True)
class _EvaluationJob:
    """What is done to every part of an evaluation, in this process or another."""

    method: EditPlanner[AppliedEdit]
    moments: KeyMoments | None
    settings: EvaluationSettings
    measures: tuple[EditMeasure, ...]
    progress: bool
    keep: Path | None
    accepts: Mapping[str, bool] = field(default_factory=dict[str, bool])

    def on(self, model: HookedModel) -> Callable[[tuple[Sequence[EditCase], int]], list[dict[str, Any]]]:
        """What edits and measures some cases, the first of which has a number in the whole run."""
        run = EvaluationRun(model, self.method, self.moments, self.settings, self.measures, self.progress, self.keep)
        return lambda part: run.rows(*part)


def stored_report(folder: RunFolder, number: int, cases: Sequence[EditCase]) -> EditReport:
    """A finished part of a run.

    Raises:
        DataError: a damaged part, or one that has other cases than its place in the run.
    """
    report = EditReport.load(folder.part(number))
    table = report.table
    there = list(zip(table["subject"], table["relation"].fillna(""), table["target_new"], strict=True))
    if there != [(case.fact.subject, case.fact.relation or "", case.target_new) for case in cases]:
        raise DataError(f"{str(folder.part(number))!r} has other cases than its place in the run; delete it to have it computed again.")
    return report


def check_cases(model: HookedModel, cases: Sequence[EditCase], protocol: str, batch_size: int, *methods: EditPlanner[AppliedEdit]) -> None:
    """Refuse what no evaluation could run, or should, before anything is computed.

    A method that has ``check_cases(cases)`` is asked: one that was trained on the facts of some cases says so there.

    Raises:
        InputError: an unknown protocol, no batch, contradicting cases in one plan, a case that does not fit the model, or what a method refuses.
    """
    check_choice("protocol", protocol, EvaluationProtocol)
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} plans nothing; pass at least 1.")
    for batch in chunked(cases, len(cases) if protocol == "batch" else batch_size):
        refuse_contradictions([fact for case in batch for fact in case.writes])
    for case in cases:
        for fact in case.writes:
            check_fits(model, Prompt.from_fact(model, fact), multi_token=True)
    for method in methods:
        own_check: Any = getattr(method, "check_cases", None)
        if own_check is not None:
            own_check(cases)
