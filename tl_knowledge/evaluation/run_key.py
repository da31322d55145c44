"""What makes one evaluation the same as another: all that decides its numbers, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import torch

from tl_knowledge.evaluation.measures import EditMeasure, PromptAccuracy
from tl_knowledge.evaluation.other_side import OtherCase
from tl_knowledge.evaluation.report import EvaluationSettings
from tl_knowledge.models.description import weight_fingerprint
from tl_knowledge.models.protocol import HookedModel, prepends_bos
from tl_knowledge.prompts.facts import EditCase
from tl_knowledge.results.packing import packed_fields
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
        "cases": _digest([asdict(case) for case in cases]),
        "weights": weight_fingerprint(model),
        "has_bos": prepends_bos(model),
        "moments": [moments.corpus, moments.tokens] if wanted and moments is not None else None,
        "measures": [_measure_key(measure, cases) for measure in measures],
        "settings": {"method": settings.method, "protocol": settings.protocol} | batches | _values(method),
    }


def measure_name(measure: EditMeasure) -> str:
    """The name that a measure goes by."""
    return str(getattr(measure, "name", type(measure).__name__))


def _measure_key(measure: EditMeasure, cases: Sequence[EditCase]) -> list[str]:
    """A measure's name, and a hash of its settings; of the prompts it asks where those are its settings."""
    if isinstance(measure, PromptAccuracy):
        return [measure.name, _digest([[asdict(fact) for fact in measure.facts(case)] for case in cases])]
    if isinstance(measure, OtherCase):
        return [measure.name, _digest([asdict(measure.case(case)) for case in cases])]
    return [measure_name(measure), _digest(_values(measure))]


def _values(settings: object) -> dict[str, Any]:
    """An object's settings as plain data; tensors among them by their hash, and what is no data by its ``repr``."""
    tensors: dict[str, torch.Tensor] = {}
    values = packed_fields(settings, tensors) if is_dataclass(settings) else dict(getattr(settings, "__dict__", {}))
    hashes = {"tensors": [hashlib.sha256(tensor.cpu().numpy().tobytes()).hexdigest()[:16] for _, tensor in sorted(tensors.items())]}
    return json.loads(json.dumps(values | (hashes if tensors else {}), default=repr))


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
