"""Who computes the parts of a long run: this process, or Ray actors that hold one model each.

Distribution is Ray's: it places the actors, moves the parts, and restarts an actor that dies with its task. Every finished part is handed to
``finished``, which stores it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

import torch

from tl_knowledge.errors import InputError
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.models.protocol import HookedModel

__all__ = ["PartJob", "Runner", "run_on_ray", "run_parts"]

Runner: TypeAlias = Literal["local", "ray"]

Part_contra = TypeVar("Part_contra", contravariant=True)
Finished_co = TypeVar("Finished_co", covariant=True)

RESTARTS = 3  # of one actor, so that a part that always kills its worker ends the run instead of repeating it for ever


@runtime_checkable
class PartJob(Protocol, Generic[Part_contra, Finished_co]):
    """What is done to every part: settings that can be sent to another process.

    Attributes:
        accepts: how the model is loaded, as keywords of `as_model`.
    """

    @property
    def accepts(self) -> Mapping[str, bool]:
        """Keywords of `as_model`."""
        ...

    def on(self, model: HookedModel) -> Callable[[Part_contra], Finished_co]:
        """What computes a part with this model; what depends on the model and the settings only is computed once."""
        ...


def run_parts(
    source: AnyModel,
    job: PartJob[Any, Any],
    parts: Mapping[int, Any],
    finished: Callable[[int, Any], None],
    *,
    runner: Runner = "local",
    workers: int = 2,
) -> None:
    """Compute parts here, one after the other, or on Ray actors, in any order.

    Raises:
        InputError: as `run_on_ray`.
    """
    if runner == "ray" and parts:
        run_on_ray(source, job, parts, finished, workers)
        return
    if parts:
        compute = job.on(as_model(source, **job.accepts))
        for number, part in parts.items():
            finished(number, compute(part))


class _Worker:
    """A Ray actor: loads the model once, computes parts."""

    def __init__(self, source: str, job: PartJob[Any, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        self.compute_part = job.on(as_model(source, **job.accepts))

    def compute(self, number: int, part: Any) -> tuple[int, Any]:
        return number, self.compute_part(part)


def run_on_ray(source: AnyModel, job: PartJob[Any, Any], parts: Mapping[int, Any], finished: Callable[[int, Any], None], workers: int) -> None:
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
        actor: Any = ray.remote(max_restarts=RESTARTS, max_task_retries=RESTARTS, num_gpus=gpus)(_Worker)
        threads = max(1, torch.get_num_threads() // workers)
        name = str(Path(source).resolve()) if Path(source).exists() else str(source)
        pool = ActorPool([actor.remote(name, job, threads) for _ in range(workers)])
        for number, part in pool.map_unordered(lambda worker, item: worker.compute.remote(*item), list(parts.items())):
            finished(number, part)
    finally:
        if started_here:
            ray.shutdown()
