"""The one thread that works, and the queue in front of it."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from tl_knowledge.engine.progress import watch_progress
from tl_knowledge.errors import InputError, TLKnowledgeError
from tl_knowledge.explore.jobs import Job, JobCancelled, JobView, Step, checkpoints

__all__ = ["MOST_TABS", "Worker"]

TAB_KEPT = 15 * 60.0  # seconds without a word from it
JOBS_KEPT = 12  # of a tab: what is over, too
MOST_TABS = 50


class Worker:
    """Makes jobs step by step, tabs in turn.

    Args:
        tasks: in the order in which a tab's own are made.
        alone: a context that every step is made in, such as a lock.
    """

    def __init__(self, tasks: tuple[str, ...], alone: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        self._tasks, self._alone = tasks, alone
        self._changed = threading.Condition()
        self._tabs: dict[str, dict[str, Job]] = {}  # by tab and id; the tab whose turn it is comes first
        self._heard: dict[str, float] = {}
        self._stopped = False
        self._thread = self._started()

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name="tl-knowledge explore", daemon=True)
        thread.start()
        return thread

    def _revive(self) -> None:
        """Another thread where the last one has ended by itself, which no job should be able to do."""
        if not self._stopped and not self._thread.is_alive():
            for own in self._tabs.values():
                for job in own.values():
                    if job.status == "running":
                        job.end("failed", "The explorer's thread has ended in the middle of it and was started anew; ask again, and report it.")
            self._thread = self._started()

    def submit(self, tab: str, task: str, steps: Generator[Step]) -> str:
        """Add a job; one of the same tab and task that is not over is no longer wanted.

        Raises:
            InputError: the worker was closed.
        """
        job = Job(uuid.uuid4().hex[:16], tab, task, steps)
        with self._changed:
            self._drop_old_tabs()
            self._revive()
            if self._stopped:
                raise InputError("the explorer is closed; start it again.")
            if tab not in self._tabs and len(self._tabs) >= MOST_TABS:
                self._forget(min(self._tabs, key=lambda each: self._heard[each]))  # where it is open still, it asks again
            own = self._tabs.setdefault(tab, {})
            for other in own.values():
                if other.task == task:
                    self._give_up(other)
            own[job.id] = job
            for old in [each.id for each in own.values() if each.ended is not None][:-JOBS_KEPT]:
                del own[old]
            self._heard[tab] = time.monotonic()
            self._changed.notify_all()
        return job.id

    def view(self, tab: str, job: str) -> JobView:
        """A tab's job as it is now; another tab's is unknown."""
        with self._changed:
            self._revive()
            if tab in self._tabs:
                self._heard[tab] = time.monotonic()
            found = self._tabs.get(tab, {}).get(job)
            if found is None:
                return JobView(job, "", "unknown", error="The server does not know this job any more; ask again.")
            return found.view(self._place(found))

    def cancel(self, tab: str, job: str) -> None:
        """A tab's job is no longer wanted: it stops before the next part of the model runs. Nothing where it is over or unknown."""
        with self._changed:
            found = self._tabs.get(tab, {}).get(job)
            if found is not None:
                self._give_up(found)

    def leave(self, tab: str) -> None:
        """A tab is closed: nobody waits for its jobs. Nothing where it is unknown."""
        with self._changed:
            self._forget(tab)

    def close(self, timeout: float = 30.0) -> bool:
        """Give up all jobs and end the thread; whether it has ended."""
        with self._changed:
            self._stopped = True
            for own in self._tabs.values():
                for job in own.values():
                    self._give_up(job)
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _give_up(self, job: Job) -> None:
        job.wanted = False
        if job.status == "queued":
            job.end("cancelled")

    def _drop_old_tabs(self) -> None:
        """Forget tabs that nobody has asked for a while; what they wait for is given up."""
        now = time.monotonic()
        for tab in [tab for tab, heard in self._heard.items() if now - heard > TAB_KEPT]:
            self._forget(tab)

    def _forget(self, tab: str) -> None:
        for job in self._tabs.pop(tab, {}).values():
            self._give_up(job)
        self._heard.pop(tab, None)

    def _order(self) -> list[Job]:
        """What is to be made, in the order in which its next steps come: the tabs' first jobs, then their second ones, ..."""
        lines = [
            sorted((job for job in own.values() if job.ended is None), key=lambda job: self._tasks.index(job.task)) for own in self._tabs.values()
        ]
        return [line[depth] for depth in range(max(map(len, lines), default=0)) for line in lines if depth < len(line)]

    def _place(self, job: Job) -> int:
        order = self._order()
        return order.index(job) if job in order else 0

    def _work(self) -> None:
        while True:
            with self._changed:
                self._drop_old_tabs()
                order = self._order()
                if not order:
                    if self._stopped:
                        return
                    self._changed.wait(timeout=TAB_KEPT)
                    continue
                job = order[0]
                job.status = "running"
            self._step(job)
            with self._changed:
                if job.tab in self._tabs:  # it was not forgotten; the others' turn comes first
                    self._tabs[job.tab] = self._tabs.pop(job.tab)

    def _step(self, job: Job) -> None:
        """One step of a job, whatever comes of it."""
        try:
            with self._alone(), checkpoints(job.beat), watch_progress(_listener(job)):
                job.beat()
                step = next(job.steps)
        except StopIteration:
            self._end(job, lambda: job.end("done"))
        except JobCancelled:
            self._end(job, lambda: job.end("cancelled"))
        except TLKnowledgeError as error:
            self._fail(job, str(error))
        except BaseException as error:  # of any library, SystemExit too: the worker goes on with the next job
            self._fail(job, _in_words(error))
        else:
            with self._changed:
                job.progress, job.inner = step, None
                job.results |= step.results

    def _fail(self, job: Job, words: str) -> None:
        self._end(job, lambda: job.end("failed", words))

    def _end(self, job: Job, end: Callable[[], None]) -> None:
        try:
            job.steps.close()
        except BaseException as error:  # by what it cleans up with
            logging.getLogger(__name__).error("a job of the explorer did not end as it should", exc_info=error)
        with self._changed:
            end()


def _in_words(error: BaseException) -> str:
    """An error that is not the package's own."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error).lower() for words in ("out of memory", "allocate memory")):
        said = str(error).strip().splitlines()
        return f"There is not enough memory for this ({said[0] if said else type(error).__name__}); take a shorter prompt or a smaller model."
    return f"{type(error).__name__}: {error}. Nothing that was typed is known to cause this; try another prompt, or report it."


def _listener(job: Job) -> Callable[[str, int, int | None], None]:
    def listen(what: str, done: int, total: int | None) -> None:
        job.beat()
        job.inner = (done, total or 0, what)

    return listen
