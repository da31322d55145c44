"""What makes one evaluation the same as another: all that decides its numbers, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tl_knowledge.evaluation.measures import EditMeasure, PromptAccuracy
from tl_knowledge.evaluation.report import EvaluationSettings
from tl_knowledge.models.description import weight_fingerprint
from tl_knowledge.models.protocol import HookedModel, prepends_bos
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.results.digest import digest, values_of
from tl_knowledge.runs.edits import AppliedEdit, EditPlanner
from tl_knowledge.runs.key_moments import KeyMoments

__all__ = ["measure_name", "run_key"]


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
        "cases": digest([asdict(case) for case in cases]),
        "weights": weight_fingerprint(model),
        "has_bos": prepends_bos(model),
        "moments": [moments.corpus, moments.tokens] if wanted and moments is not None else None,
        "measures": [_measure_key(measure, cases) for measure in measures],
        "settings": {"method": settings.method, "protocol": settings.protocol} | batches | values_of(method),
    }


def measure_name(measure: EditMeasure) -> str:
    """The name that a measure goes by."""
    return str(getattr(measure, "name", type(measure).__name__))


def _measure_key(measure: EditMeasure, cases: Sequence[EditCase]) -> list[str]:
    """A measure's name, and a hash of its settings; of the prompts it asks where those are its settings."""
    if isinstance(measure, PromptAccuracy):
        return [measure.name, digest([[asdict(fact) for fact in measure.facts(case)] for case in cases])]
    return [measure_name(measure), digest(values_of(measure))]
