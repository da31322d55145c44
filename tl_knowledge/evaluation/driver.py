"""Edit, measure, take back: one editing method over many cases."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable
from weakref import WeakKeyDictionary

import pandas as pd
from tqdm.auto import tqdm

from tl_knowledge.errors import DataError, InputError
from tl_knowledge.evaluation.measures import EditMeasure
from tl_knowledge.evaluation.report import EditReport
from tl_knowledge.evaluation.scores import Reading, case_scores, read_candidates
from tl_knowledge.models.checks import check_model
from tl_knowledge.models.description import describe_model
from tl_knowledge.models.ledger import has_written_edits, unedited_fingerprint
from tl_knowledge.models.protocol import HookedModel, prepends_bos
from tl_knowledge.prompts.facts import EditCase, Fact, refuse_contradictions
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.run_folder import RunFolder

__all__ = ["EvaluationProtocol", "evaluate"]

EvaluationProtocol: TypeAlias = Literal["single", "batch", "sequential"]
"""Each batch of cases alone (one case each unless told otherwise); all edits in one plan; batch after batch, all staying, measured at the end."""

CASES_PER_PART = 20

_base: WeakKeyDictionary[object, dict[tuple[str, EditCase], Reading]] = WeakKeyDictionary()


@runtime_checkable
class AppliedEdit(Protocol):
    """What is evaluated: anything that can be applied and taken back."""

    def applied(self, model: HookedModel) -> AbstractContextManager[Any]: ...

    def write_into(self, model: HookedModel) -> None: ...

    def revert(self, model: HookedModel) -> None: ...


@runtime_checkable
class PlansEdits(Protocol):
    """What plans it."""

    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: Any) -> AppliedEdit: ...


def evaluate(
    model: HookedModel,
    cases: Iterable[EditCase],
    method: PlansEdits,
    *,
    moments: Any = None,
    protocol: EvaluationProtocol = "single",
    batch_size: int = 1,
    measures: Sequence[EditMeasure] = (),
    store: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> EditReport:
    """Score an editing method on CounterFact-style cases; the model is left as it was.

    The unedited model is measured on the same prompts, once for all methods that are evaluated on them.

    Args:
        cases: for example `load_edit_cases` or `load_counterfact`.
        method: for example ``ROME(layer=5)``.
        moments: of the model's keys, for the methods that need them.
        protocol: ``"single"`` takes each edit back before the next (ROME's), ``"batch"`` plans all at once (MEMIT's), ``"sequential"`` lets
            them stay.
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
    """
    check_model(model)
    asked = list(cases)
    _check(model, asked, protocol, batch_size)
    if hasattr(moments, "check"):
        moments.check(model)
    provenance = _provenance(model, method, protocol, batch_size)
    run = _Run(model, method, moments, protocol, batch_size, tuple(measures), progress)
    per_part = max(CASES_PER_PART // batch_size, 1) * batch_size if protocol == "single" else len(asked)
    parts = [asked[start : start + per_part] for start in range(0, len(asked), per_part)]
    folder = None if store is None else RunFolder(store, _identity(model, asked, measures, provenance), "evaluate()")
    done = set() if folder is None else set(folder.finished())
    tables: list[pd.DataFrame] = []
    for number, part in enumerate(tqdm(parts, desc="edit and measure", unit="part", delay=2, disable=not progress or len(parts) == 1)):
        if folder is not None and number in done:
            tables.append(EditReport.load(folder.part(number)).table)
            continue
        table = pd.DataFrame(run.rows(part, number * per_part))
        if folder is not None:
            EditReport(table, type(method).__name__, provenance).save(folder.part(number))
        tables.append(table)
    return EditReport(pd.concat(tables, ignore_index=True), type(method).__name__, provenance)


@dataclass(frozen=True)
class _Run:
    """One evaluation's settings."""

    model: HookedModel
    method: PlansEdits
    moments: Any
    protocol: EvaluationProtocol
    batch_size: int
    measures: tuple[EditMeasure, ...]
    progress: bool

    def rows(self, cases: Sequence[EditCase], first: int) -> list[dict[str, Any]]:
        """One row a case: its scores, and the unedited model's."""
        base = [self._read(case, base=True) for case in self._bar(cases, "unedited model")]
        after = self._after(cases)
        return [
            {"case_id": case.case_id or str(first + i), "subject": case.fact.subject, "relation": case.fact.relation, "target_new": case.target_new}
            | self._scores(base[i], after[i])
            | {f"base_{name}": value for name, value in self._scores(base[i], base[i]).items()}
            for i, case in enumerate(cases)
        ]

    def _after(self, cases: Sequence[EditCase]) -> list[list[Any]]:
        size = len(cases) if self.protocol == "batch" else self.batch_size
        batches = [cases[start : start + size] for start in range(0, len(cases), size)]
        if self.protocol == "single":
            found: list[list[Any]] = []
            for batch in self._bar(batches, "edit and measure"):
                with self._plan(batch).applied(self.model):
                    found += [self._read(case) for case in batch]
            return found
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
        found = case_scores(before[0], after[0])
        for measure, old, new in zip(self.measures, before[1:], after[1:], strict=True):
            found |= measure.scores(old, new)
        return found

    def _bar(self, items: Sequence[Any], what: str) -> Iterable[Any]:
        return tqdm(items, desc=what, unit="case", delay=2, leave=False, disable=not self.progress)


def _base_reading(model: HookedModel, case: EditCase) -> Reading:
    """The candidates on the model as it is, read once for all methods; a model with edits written into it is read anew."""
    if has_written_edits(model):
        return read_candidates(model, case)
    known, key = _base.setdefault(model, {}), (unedited_fingerprint(model), case)
    if key not in known:
        known[key] = read_candidates(model, case)
    return known[key]


def _check(model: HookedModel, cases: Sequence[EditCase], protocol: str, batch_size: int) -> None:
    if not cases:
        raise DataError("no case was given; pass at least one, for example load_edit_cases()[:200].")
    if protocol not in get_args(EvaluationProtocol):
        raise InputError(f"protocol {protocol!r} is unknown; pass one of {', '.join(map(repr, get_args(EvaluationProtocol)))}.")
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} plans nothing; pass at least 1.")
    size = len(cases) if protocol == "batch" else batch_size
    for start in range(0, len(cases), size):
        refuse_contradictions([case.rewrite for case in cases[start : start + size]])
    for case in cases:
        check_fits(model, Prompt.from_fact(model, case.rewrite), multi_token=True)


def _provenance(model: HookedModel, method: PlansEdits, protocol: str, batch_size: int) -> Provenance:
    settings: dict[str, Any] = asdict(method) if is_dataclass(method) and not isinstance(method, type) else {}
    return Provenance(
        **describe_model(model),
        prepends_bos=prepends_bos(model),
        seed=int(settings.get("seed", 0)),
        engine="teacher forcing",
        settings={"method": type(method).__name__, "protocol": protocol, "batch_size": batch_size} | json.loads(json.dumps(settings, default=repr)),
    )


def _identity(model: HookedModel, cases: Sequence[EditCase], measures: Sequence[EditMeasure], provenance: Provenance) -> dict[str, Any]:
    """What makes an evaluation the same as one in a folder."""
    digest = hashlib.sha256(json.dumps([asdict(case) for case in cases]).encode()).hexdigest()[:16]
    names = [getattr(measure, "name", type(measure).__name__) for measure in measures]
    return {"cases": digest, "weights": unedited_fingerprint(model), "measures": names, "settings": provenance.settings}
