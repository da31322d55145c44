"""The explorer's one worker: whose turn it is, what supersedes what, and what becomes of a job that fails or is not wanted."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator

import pytest
import torch
from support.explorer import LONGEST

from tl_knowledge.engine.progress import progress_bar, watch_progress
from tl_knowledge.errors import InputError, PromptError
from tl_knowledge.explore import worker as worker_module
from tl_knowledge.explore.jobs import JobCancelled, Step, checkpoints
from tl_knowledge.explore.worker import Worker

TASKS = ("quick", "slow")


class Bench:
    """Jobs whose steps wait for the test, one after the other."""

    def __init__(self) -> None:
        self.worker, self.log = Worker(TASKS), list[str]()
        self.gate, self.entered = threading.Semaphore(0), threading.Semaphore(0)

    def submit(self, name: str, tab: str, task: str = "slow", steps: int = 2) -> str:
        def run() -> Generator[Step]:
            for number in range(steps):
                self.entered.release()
                assert self.gate.acquire(timeout=LONGEST)
                self.log.append(f"{name}{number}")
                yield Step(number + 1, steps, f"step {number}", {f"r{number}": number})

        return self.worker.submit(tab, task, run())

    def wait(self) -> None:
        """Until the worker is inside a step."""
        assert self.entered.acquire(timeout=LONGEST)

    def step(self) -> None:
        """Let the step that the worker is in end, and wait for the next one."""
        self.gate.release()
        self.wait()

    def settle(self, tab: str, job: str) -> str:
        """Let everything go, and wait for the job."""
        for _ in range(50):
            self.gate.release()
        for _ in range(10_000):
            if (view := self.worker.view(tab, job)).over:
                return view.status
            threading.Event().wait(0.005)
        raise AssertionError("the job does not end")


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    for _ in range(100):
        made.gate.release()
    assert made.worker.close()


def test_tabs_take_turns_step_by_step(bench):
    bench.submit("a", "one")
    bench.wait()
    last = bench.submit("b", "two")
    assert bench.settle("two", last) == "done"
    assert bench.log[:4] == ["a0", "b0", "a1", "b1"]


def test_within_a_tab_what_is_quick_comes_first(bench):
    slow = bench.submit("s", "one", "slow", 3)
    bench.wait()
    bench.submit("q", "one", "quick", 1)
    assert bench.settle("one", slow) == "done"
    assert bench.log == ["s0", "q0", "s1", "s2"]


def test_a_job_knows_its_place_and_shows_what_it_has(bench):
    first = bench.submit("a", "one")
    bench.wait()
    second = bench.submit("b", "two")
    assert bench.worker.view("one", first).status == "running"
    waiting = bench.worker.view("two", second)
    assert (waiting.status, waiting.place, waiting.results) == ("queued", 1, {})
    bench.step()
    assert bench.worker.view("one", first).results == {"r0": 0}
    assert (bench.worker.view("one", first).done, bench.worker.view("one", first).total) == (1, 2)
    assert bench.settle("one", first) == "done"
    assert bench.worker.view("one", first).results == {"r0": 0, "r1": 1}


def test_a_newer_job_of_the_same_task_takes_the_place_of_the_older(bench):
    bench.submit("x", "zero", steps=1)
    bench.wait()
    old, other = bench.submit("old", "one"), bench.submit("q", "one", "quick", 1)
    new = bench.submit("new", "one")
    assert bench.worker.view("one", old).status == "cancelled"
    assert bench.settle("one", new) == "done"
    assert bench.worker.view("one", other).status == "done"
    assert not any(entry.startswith("old") for entry in bench.log)


def test_a_running_job_ends_with_its_step_when_it_is_not_wanted(bench):
    job = bench.submit("a", "one", steps=5)
    bench.wait()
    bench.worker.cancel("one", job)
    assert bench.settle("one", job) == "cancelled"
    assert bench.log == ["a0"]


def test_other_tabs_and_strangers_cannot_see_or_cancel_a_job(bench):
    job = bench.submit("a", "one")
    bench.wait()
    stranger = bench.worker.view("two", job)
    assert stranger.status == "unknown" and stranger.over and "ask again" in stranger.error
    bench.worker.cancel("two", job)
    assert bench.settle("one", job) == "done"


@pytest.mark.parametrize(
    "error",
    [PromptError("the prompt is too long."), ZeroDivisionError("by zero"), RecursionError("deep"), SystemExit("out"), KeyboardInterrupt("stop")],
)
def test_a_job_that_fails_does_not_stop_the_worker(bench, error):
    def fail() -> Generator[Step]:
        yield Step(0, 1)
        raise error

    failed = bench.worker.submit("one", "slow", fail())
    assert bench.settle("two", bench.submit("a", "two")) == "done"
    view = bench.worker.view("one", failed)
    assert view.status == "failed" and str(error) in view.error
    assert view.error == str(error) or type(error).__name__ in view.error


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.\nTried"), RuntimeError("can't allocate memory")])
def test_too_little_memory_is_called_that(bench, error):
    def fail() -> Generator[Step]:
        yield Step(0, 1)
        raise error

    failed = bench.worker.submit("one", "slow", fail())
    bench.settle("one", failed)
    words = bench.worker.view("one", failed).error
    assert words.startswith("There is not enough memory for this") and "Tried" not in words and "take a shorter prompt" in words


def test_a_job_whose_cleaning_up_fails_does_not_stop_the_worker(bench):
    def stubborn() -> Generator[Step]:
        try:
            bench.entered.release()
            assert bench.gate.acquire(timeout=LONGEST)
            yield Step(0, 2)
        finally:
            raise SystemExit("in the end")

    job = bench.worker.submit("one", "slow", stubborn())
    bench.wait()
    bench.worker.cancel("one", job)
    bench.gate.release()
    assert bench.settle("two", bench.submit("a", "two")) == "done"
    assert bench.worker.view("one", job).over


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_has_ended_is_started_again(bench, monkeypatch):
    ended = threading.Event()

    def end(job: object) -> None:
        ended.set()
        raise SystemExit

    monkeypatch.setattr(bench.worker, "_step", end)
    lost = bench.submit("a", "one")
    assert ended.wait(LONGEST)
    bench.worker._thread.join(LONGEST)
    monkeypatch.undo()
    view = bench.worker.view("one", lost)
    assert view.status == "failed" and "ask again" in view.error
    assert bench.settle("one", bench.submit("b", "one")) == "done"


def test_tabs_that_nobody_asks_for_are_forgotten(bench, monkeypatch):
    job = bench.submit("a", "one")
    bench.wait()
    monkeypatch.setattr(worker_module, "TAB_KEPT", -1.0)
    other = bench.submit("b", "two")
    monkeypatch.setattr(worker_module, "TAB_KEPT", 900.0)
    assert bench.worker.view("one", job).status == "unknown"
    assert bench.settle("two", other) == "done"
    assert bench.log == ["a0", "b0", "b1"]


def test_of_too_many_tabs_the_longest_silent_is_forgotten(bench, monkeypatch):
    monkeypatch.setattr(worker_module, "MOST_TABS", 2)
    silent = bench.submit("a", "one")
    bench.wait()
    heard = bench.submit("b", "two")
    third = bench.submit("c", "three")
    assert bench.worker.view("one", silent).status == "unknown"
    assert bench.worker.view("two", heard).status == "queued"
    assert bench.settle("three", third) == "done" and bench.settle("two", heard) == "done"


def test_what_a_closed_tab_has_asked_for_is_given_up(bench):
    left = bench.submit("a", "one", steps=5)
    bench.wait()
    bench.submit("q", "one", "quick")
    bench.worker.leave("one")
    bench.worker.leave("nobody")
    assert bench.worker.view("one", left).status == "unknown"
    assert bench.settle("two", bench.submit("b", "two")) == "done"
    assert bench.log == ["a0", "b0", "b1"]


def test_old_jobs_of_a_tab_are_forgotten(bench):
    jobs: list[str] = []
    for _ in range(worker_module.JOBS_KEPT + 3):
        jobs.append(bench.submit("a", "one", steps=1))
        bench.settle("one", jobs[-1])
    bench.submit("a", "one", steps=1)
    assert bench.worker.view("one", jobs[0]).status == "unknown"
    assert bench.worker.view("one", jobs[-1]).status == "done"


def test_a_closed_worker_refuses(bench):
    assert bench.worker.close()
    with pytest.raises(InputError, match="closed"):
        bench.submit("a", "one")


def test_progress_inside_a_step_is_told():
    entered, gate = threading.Event(), threading.Event()

    def run() -> Generator[Step]:
        with progress_bar(what="trace", unit="site", progress=False, total=7) as bar:
            bar.update(3)
            entered.set()
            assert gate.wait(LONGEST)
        yield Step(1, 1)

    worker = Worker(TASKS)
    job = worker.submit("one", "slow", run())
    assert entered.wait(LONGEST)
    assert worker.view("one", job).inner == (3, 7, "trace")
    gate.set()
    assert worker.close()


def test_checkpoints_are_of_their_own_thread_and_leave_nothing():
    layer, calls = torch.nn.Linear(2, 2), list[int]()
    with checkpoints(lambda: calls.append(1)):
        layer(torch.zeros(1, 2))
        other = threading.Thread(target=lambda: layer(torch.zeros(1, 2)))
        other.start()
        other.join()
    layer(torch.zeros(1, 2))
    assert calls == [1]


def test_a_checkpoint_stops_a_module_before_it_runs():
    def stop() -> None:
        raise JobCancelled

    layer, seen = torch.nn.Linear(2, 2), list[int]()
    layer.register_forward_hook(lambda *_: seen.append(1))
    with pytest.raises(JobCancelled), checkpoints(stop):
        layer(torch.zeros(1, 2))
    layer(torch.zeros(1, 2))
    assert seen == [1]


def test_a_watched_bar_counts_as_the_bar_does():
    told: list[tuple[str, int, int | None]] = []
    with watch_progress(lambda *each: told.append(each)):
        with progress_bar(what="a", unit="b", progress=False, total=4, initial=1) as bar:
            bar.update(2)
            bar.update()
        assert list(progress_bar(iter("xy"), what="c", unit="d", progress=False)) == ["x", "y"]
    assert list(progress_bar("z", what="e", unit="f", progress=False)) == ["z"]
    assert told == [("a", 1, 4), ("a", 3, 4), ("a", 4, 4), ("c", 0, None), ("c", 1, None), ("c", 2, None)]
