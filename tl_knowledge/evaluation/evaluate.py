"""Edit, measure, take back: one editing method over many cases (CounterFact's protocol)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, is_dataclass
from typing import Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import pandas as pd
from tqdm.auto import tqdm

from tl_knowledge.errors import DataError, InputError
from tl_knowledge.evaluation.report import EditReport
from tl_knowledge.evaluation.scores import case_scores, score_candidates
from tl_knowledge.facts import EditCase, Fact
from tl_knowledge.model import HookedModel, check_model, describe_model, prepends_bos
from tl_knowledge.provenance import Provenance

__all__ = ["EvaluationProtocol", "evaluate"]

EvaluationProtocol: TypeAlias = Literal["single", "batch", "sequential"]
"""Each case alone; all edits in one plan; one after the other, all staying, measured at the end."""


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
    progress: bool = True,
) -> EditReport:
    """Score an editing method on CounterFact-style cases; the model is left as it was.

    Args:
        cases: for example `load_edit_cases` or `load_counterfact`.
        method: for example ``ROME(layer=5)``.
        moments: of the model's keys, for the methods that need them.
        protocol: each case alone (ROME's own), all in one batch (MEMIT's), or one after the other.

    Raises:
        DataError: no case.
        InputError: an unknown protocol, or what the method refuses.

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
    if not asked:
        raise DataError("no case was given; pass at least one, for example load_edit_cases()[:200].")
    if protocol not in get_args(EvaluationProtocol):
        raise InputError(f"protocol {protocol!r} is unknown; pass one of {', '.join(map(repr, get_args(EvaluationProtocol)))}.")
    if hasattr(moments, "check"):
        moments.check(model)
    base = _measured(model, asked, progress)
    measure = {"single": _single, "batch": _batch, "sequential": _sequential}[protocol]
    after = measure(model, asked, method, moments, progress)
    rows = [
        {"case_id": case.case_id or str(i), "subject": case.fact.subject, "relation": case.fact.relation, "target_new": case.target_new}
        | after[i]
        | {f"base_{name}": value for name, value in base[i].items()}
        for i, case in enumerate(asked)
    ]
    settings: dict[str, Any] = asdict(method) if is_dataclass(method) and not isinstance(method, type) else {}
    name = type(method).__name__
    provenance = Provenance(
        **describe_model(model),
        prepends_bos=prepends_bos(model),
        seed=int(settings.get("seed", 0)),
        engine="teacher forcing",
        settings={"method": name, "protocol": protocol} | settings,
    )
    return EditReport(pd.DataFrame(rows), name, provenance)


def _measured(model: HookedModel, cases: Sequence[EditCase], progress: bool) -> list[dict[str, float]]:
    """The metrics of every case on the model as it is."""
    return [case_scores(score_candidates(model, case)) for case in tqdm(cases, desc="measure", unit="case", delay=2, disable=not progress)]


def _single(model: HookedModel, cases: Sequence[EditCase], method: PlansEdits, moments: Any, progress: bool) -> list[dict[str, float]]:
    found: list[dict[str, float]] = []
    for case in tqdm(cases, desc="edit and measure", unit="case", delay=2, disable=not progress):
        with method.plan(model, [case.request], moments).applied(model):
            found += _measured(model, [case], progress=False)
    return found


def _batch(model: HookedModel, cases: Sequence[EditCase], method: PlansEdits, moments: Any, progress: bool) -> list[dict[str, float]]:
    with method.plan(model, [case.request for case in cases], moments).applied(model):
        return _measured(model, cases, progress)


def _sequential(model: HookedModel, cases: Sequence[EditCase], method: PlansEdits, moments: Any, progress: bool) -> list[dict[str, float]]:
    written: list[AppliedEdit] = []
    try:
        for case in tqdm(cases, desc="edit", unit="case", delay=2, disable=not progress):
            edit = method.plan(model, [case.request], moments)
            edit.write_into(model)
            written.append(edit)
        return _measured(model, cases, progress)
    finally:
        for edit in reversed(written):
            edit.revert(model)
