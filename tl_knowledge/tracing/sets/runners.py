"""Who computes the parts of a run: this process, or Ray actors that hold one model each.

Distribution is Ray's: it places the actors, moves the facts, and restarts an actor that dies with its task. A runner hands every
finished part to ``finished``, which stores it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from tl_knowledge.errors import InputError
from tl_knowledge.models.description import weight_fingerprint
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.tracing.engines import engine_used
from tl_knowledge.tracing.sets.settings import Execution, Survey
from tl_knowledge.tracing.sets.store import PartHeader, PartResult
from tl_knowledge.tracing.sets.survey import trace_part

__all__ = ["PartTracer", "Runner", "run_locally", "run_on_ray"]

Runner: TypeAlias = Literal["local", "ray"]
Part: TypeAlias = Sequence[tuple[int, Fact]]
Finished: TypeAlias = Callable[[int, PartResult], None]
Advance: TypeAlias = Callable[[int], None]

RESTARTS = 3  # of one actor, so that a part that always kills its worker ends the run instead of repeating it for ever


def run_locally(model: HookedModel, parts: Mapping[int, Part], survey: Survey, execution: Execution, finished: Finished, advance: Advance) -> None:
    """Compute the parts one after the other in this process."""
    tracer = PartTracer(model, survey, execution)
    for number, part in parts.items():
        finished(number, tracer.compute(part, advance))


class PartTracer:
    """Computes parts with one model; what depends on the model and the settings only is computed once."""

    def __init__(self, model: HookedModel, survey: Survey, execution: Execution) -> None:
        self.model, self.survey, self.execution = model, survey.resolve(model), execution

    @cached_property
    def header(self) -> PartHeader:
        """What every part of this model says of itself; read after the first trace only, whose errors for a broken model are clearer."""
        provenance = provenance_of(
            self.model,
            engine=engine_used(self.model, self.execution.engine),
            seed=self.survey.seed,
            settings=self.survey,
            noise=repr(self.survey.noise),
            memory_budget=self.execution.memory_budget,
        )
        return PartHeader(0, {}, self.survey, (self.execution,), weight_fingerprint(self.model), provenance)

    def compute(self, part: Part, advance: Advance) -> PartResult:
        """One part."""
        traces, skipped = trace_part(self.model, part, self.survey, self.execution, advance)
        return PartResult(tuple(traces), replace(self.header, given=len(part), skipped=skipped))


class _Tracer:
    """A Ray actor: loads the model once, computes parts."""

    def __init__(self, source: str, survey: Survey, execution: Execution, threads: int) -> None:
        torch.set_num_threads(threads)
        self.tracer = PartTracer(as_model(source, without_mlps=True), survey, execution)

    def compute(self, number: int, part: Part) -> tuple[int, PartResult]:
        return number, self.tracer.compute(part, lambda count: None)


def run_on_ray(
    source: AnyModel,
    parts: Mapping[int, Part],
    survey: Survey,
    execution: Execution,
    workers: int,
    finished: Finished,
    advance: Advance,
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
        pool = ActorPool([actor.remote(name, survey, execution, threads) for _ in range(workers)])
        for number, part in pool.map_unordered(lambda worker, item: worker.compute.remote(*item), list(parts.items())):
            finished(number, part)
            advance(part.header.given)
    finally:
        if started_here:
            ray.shutdown()
