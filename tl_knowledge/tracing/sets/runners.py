"""Who computes the parts of a run: this process, or Ray actors that hold one model each.

Distribution is Ray's: it places the actors, moves the facts, and restarts an actor that dies with its task. A runner hands every
finished part to ``finished``, which stores it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from tl_knowledge.errors import InputError
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.description import describe_model, weight_fingerprint
from tl_knowledge.models.loading import load_model
from tl_knowledge.models.protocol import HookedModel, prepends_bos
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.tracing.engines import engine_used
from tl_knowledge.tracing.sets.store import PartResult
from tl_knowledge.tracing.sets.survey import Survey, resolve_survey_noise, trace_part

__all__ = ["PartTracer", "Runner", "run_locally", "run_on_ray"]

Runner: TypeAlias = Literal["local", "ray"]
ModelSource: TypeAlias = "HookedModel | str | os.PathLike[str]"
Part: TypeAlias = Sequence[tuple[int, Fact]]

RESTARTS = 3  # of one actor, so that a part that always kills its worker ends the run instead of repeating it for ever


def run_locally(
    model: HookedModel, parts: Mapping[int, Part], survey: Survey, finished: Callable[[int, PartResult], None], advance: Callable[[int], None]
) -> None:
    """Compute the parts one after the other in this process."""
    tracer = PartTracer(model, survey)
    for number, part in parts.items():
        finished(number, tracer.compute(part, advance))


class PartTracer:
    """Computes parts with one model; what depends on the model and the survey only is found once."""

    def __init__(self, model: HookedModel, survey: Survey) -> None:
        self.model, self.survey = model, survey
        self.noise = resolve_survey_noise(model, survey)

    @cached_property
    def fields(self) -> dict[str, Any]:
        """What every part of this model says of it; asked for behind the first trace, which has the clearer errors for a broken model."""
        model, survey = self.model, self.survey
        provenance = Provenance(
            **describe_model(model),
            prepends_bos=prepends_bos(model),
            seed=survey.seed,
            engine=engine_used(model, survey.engine),
            settings={"noise": repr(survey.noise), "samples": survey.samples, "variant": survey.variant, "multi_token": survey.multi_token},
        )
        layers = list(check_layers(model, survey.layers))
        return {"layers": layers, "weights": weight_fingerprint(model), "provenance": provenance.to_dict()}

    def compute(self, part: Part, advance: Callable[[int], None]) -> PartResult:
        """One part."""
        traces, skipped = trace_part(self.model, part, self.survey, self.noise, advance)
        skipped_text = {str(index): reason for index, reason in skipped.items()}
        return PartResult(tuple(traces), {"asked": len(part), "skipped": skipped_text, **self.fields})


class _Tracer:
    """A Ray actor: loads the model once, computes parts."""

    def __init__(self, source: str, survey: Survey, threads: int) -> None:
        torch.set_num_threads(threads)
        self.tracer = PartTracer(load_model(source), survey)

    def compute(self, number: int, part: Part) -> tuple[int, PartResult]:
        return number, self.tracer.compute(part, lambda count: None)


def run_on_ray(
    source: ModelSource,
    parts: Mapping[int, Part],
    survey: Survey,
    workers: int,
    finished: Callable[[int, PartResult], None],
    advance: Callable[[int], None],
) -> None:
    """Compute the parts on Ray actors, in any order; a killed actor is restarted and its part computed again.

    Uses the Ray that is running, or starts one on this machine and stops it at the end. Each actor gets a GPU where Ray has one for
    each.

    Raises:
        InputError: Ray is not installed, fewer than one worker, or a model object instead of a name or directory.
    """
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"runner='ray' loads the model in every worker, but got a {type(source).__name__}; pass its name or directory instead.")
    if workers < 1:
        raise InputError(f"workers={workers} computes nothing; pass at least 1.")
    try:
        import ray
        from ray.util import ActorPool
    except ImportError as error:
        raise InputError("runner='ray' needs Ray; pip install 'tl-knowledge[ray]'.") from error
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, num_cpus=max(workers, os.cpu_count() or 1))
    try:
        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= workers else 0
        actor: Any = ray.remote(max_restarts=RESTARTS, max_task_retries=RESTARTS, num_gpus=gpus)(_Tracer)
        threads = max(1, torch.get_num_threads() // workers)
        name = str(Path(source).resolve()) if Path(source).exists() else str(source)
        pool = ActorPool([actor.remote(name, survey, threads) for _ in range(workers)])
        for number, part in pool.map_unordered(lambda worker, item: worker.compute.remote(*item), list(parts.items())):
            finished(number, part)
            advance(part.fields["asked"])
    finally:
        if started_here:
            ray.shutdown()
