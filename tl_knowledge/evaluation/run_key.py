"""What makes one evaluation the same as another: all that decides its numbers, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from tl_knowledge.evaluation.edit_tests import EditTestScores
from tl_knowledge.evaluation.measures import EditMeasure, PromptAccuracy
from tl_knowledge.evaluation.other_side import OtherCase
from tl_knowledge.evaluation.report import EvaluationProtocol, EvaluationSettings
from tl_knowledge.models.description import weight_fingerprint
from tl_knowledge.models.protocol import HookedModel, prepends_bos
from tl_knowledge.prompts.facts import EditCase, case_values
from tl_knowledge.results.digest import digest, values_of
from tl_knowledge.results.packing import plain
from tl_knowledge.runs.edits import AppliedEdit, EditPlanner
from tl_knowledge.runs.key_moments import KeyMoments

__all__ = ["evaluation_settings", "joint_key", "measure_name", "run_key"]


def evaluation_settings(
    method: EditPlanner[AppliedEdit], protocol: EvaluationProtocol, batch_size: int, measures: Sequence[EditMeasure]
) -> EvaluationSettings:
    """What is evaluated, and how, as a value."""
    own = plain(method) if is_dataclass(method) else {}
    return EvaluationSettings(type(method).__name__, own, protocol, batch_size, tuple(map(measure_name, measures)))


def run_key(
    model: HookedModel,
    cases: Sequence[EditCase],
    method: EditPlanner[AppliedEdit],
    moments: KeyMoments | None,
    settings: EvaluationSettings,
    measures: Sequence[EditMeasure],
) -> dict[str, Any]:
    """An evaluation as a `RunFolder` keeps it: plain data, the method's settings by name.

    Moments count for methods that need them, and for those that do not say; ``batch_size`` only where there is a choice.
    """
    wanted = getattr(method, "needs_moments", True) and moments is not None
    batches = {} if settings.protocol == "batch" else {"batch_size": settings.batch_size}
    return {
        "cases": digest([{name: value for name, value in case_values(case).items() if name != "target_new_id"} for case in cases]),
        "weights": weight_fingerprint(model),
        "has_bos": prepends_bos(model),
        "moments": [moments.corpus, moments.tokens] if wanted and moments is not None else None,
        "measures": [_measure_key(measure, cases) for measure in measures],
        "settings": {"method": settings.method, "protocol": settings.protocol} | batches | values_of(method),
    }


def joint_key(keys: Mapping[str, dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """Several methods' evaluations of the same cases as one run.

    Args:
        keys: what `run_key` gives for each method, by its name.
        settings: of the run.
    """
    same = {name: value for name, value in next(iter(keys.values())).items() if name not in ("settings", "moments")}
    own = {f"method {name!r}": {"moments": key["moments"], **key["settings"]} for name, key in keys.items()}
    return same | {"settings": {"methods": list(keys)} | settings | own}


def measure_name(measure: EditMeasure) -> str:
    """The name that a measure goes by."""
    return str(getattr(measure, "name", type(measure).__name__))


def _measure_key(measure: EditMeasure, cases: Sequence[EditCase]) -> list[str]:
    """A measure's name, and a hash of its settings; of the prompts it asks where those are its settings."""
    if isinstance(measure, PromptAccuracy):
        return [measure.name, digest([[asdict(fact) for fact in measure.facts(case)] for case in cases])]
    if isinstance(measure, OtherCase):
        return [measure.name, digest([case_values(measure.case(case)) for case in cases])]
    if isinstance(measure, EditTestScores):
        return [measure.name, digest([measure.length, *measure.axes, *([asdict(test) for test in measure.of_case(case)] for case in cases)])]
    objects = [case.target_new_id for case in cases]  # by which snippets are found
    return [measure_name(measure), digest([values_of(measure), objects] if any(objects) else values_of(measure))]
