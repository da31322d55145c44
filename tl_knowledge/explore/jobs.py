"""One worker for several tabs: whose turn it is, how far it is, and how a job is stopped in the middle.

A job is a generator of steps. The worker makes one step of one job, then looks whose turn it is: tabs in turn, and within a tab what is quick
before what is slow. So a click in one tab waits for a step of another's trace, not for all of it. Nothing is held from one step to the next but
results: no hook, no edit, no lock.

A job can be stopped inside a step, too: before any part of the model runs, in the worker's own thread, `checkpoints` looks whether the job is
still wanted, and raises `JobCancelled`, which is handled as an interrupt is: whoever has put something on the model takes it off on the way out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

__all__ = ["Job", "JobCancelled", "JobStatus", "JobView", "Step", "checkpoints"]

JobStatus: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled", "unknown"]

OVER: tuple[JobStatus, ...] = ("done", "failed", "cancelled", "unknown")


class JobCancelled(BaseException):
    """A job that is no longer wanted; no error, so that nobody who handles errors takes it for one."""


@dataclass(frozen=True)
class Step:
    """What a step of a job has given.

    Attributes:
        done, total: of the job's steps.
        words: what comes next, for the page.
        results: what is there now, by name; added to what was there before.
    """

    done: int
    total: int
    words: str = ""
    results: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobView:
    """A job as a page sees it at one moment.

    Attributes:
        id: of the job.
        task: which task.
        status: ``"unknown"`` for a job that this server never had, or has dropped: ask again.
        place: how many jobs are before it (0: it is next, or runs).
        done, total: steps.
        words: what is being done.
        inner: how far that is: done, total and what is counted, where it is known.
        seconds: since it was asked for.
        silent: since its last sign of life.
        error: what went wrong, and the remedy.
        results: what is there so far, by name.
    """

    id: str
    task: str
    status: JobStatus
    place: int = 0
    done: int = 0
    total: int = 0
    words: str = ""
    inner: tuple[int, int, str] | None = None
    seconds: float = 0.0
    silent: float = 0.0
    error: str = ""
    results: Mapping[str, Any] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.status in OVER


@dataclass(eq=False)
class Job:
    """A job of the queue.

    Attributes:
        wanted: false once nobody waits for it.
        told: whether a step of it was stopped already; what cleans up after that may run the model.
    """

    id: str
    tab: str
    task: str
    steps: Generator[Step]
    status: JobStatus = "queued"
    progress: Step = field(default_factory=lambda: Step(0, 0))
    inner: tuple[int, int, str] | None = None
    results: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    wanted: bool = True
    told: bool = False
    asked: float = field(default_factory=time.monotonic)
    seen: float = field(default_factory=time.monotonic)
    ended: float | None = None

    def view(self, place: int) -> JobView:
        """As it is now."""
        now = time.monotonic()
        return JobView(
            id=self.id,
            task=self.task,
            status=self.status,
            place=place,
            done=self.progress.done,
            total=self.progress.total,
            words=self.progress.words,
            inner=None if self.status in OVER else self.inner,
            seconds=(self.ended or now) - self.asked,
            silent=0.0 if self.status in OVER else now - self.seen,
            error=self.error,
            results=dict(self.results),
        )

    def end(self, status: JobStatus, error: str = "") -> None:
        """It is over."""
        self.status, self.error, self.ended = status, error, time.monotonic()

    def beat(self) -> None:
        """A sign of life; where nobody waits for the job any more, its end.

        Raises:
            JobCancelled: nobody does.
        """
        self.seen = time.monotonic()
        if not self.wanted and not self.told:
            self.told = True
            raise JobCancelled


@contextmanager
def checkpoints(beat: Callable[[], None]) -> Generator[None]:
    """For the length of a ``with``, call something before any module of any model runs in this thread: it may raise."""
    own = threading.get_ident()

    def before(module: torch.nn.Module, inputs: Any) -> None:
        if threading.get_ident() == own:
            beat()

    handle = register_module_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()
