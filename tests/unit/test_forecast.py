"""What is said beforehand of long work: counted operations over a measured rate, said at once, and corrected as parts are done."""

from __future__ import annotations

import pytest
import torch
from support import fingerprint, hooks_left
from torch.utils.flop_counter import FlopCounterMode

import tl_knowledge as tlk
from tl_knowledge.circuits import build
from tl_knowledge.engine import forecast
from tl_knowledge.engine.forecast import counted_work, duration, measured_rate, parts_bar
from tl_knowledge.engine.progress import watch_progress
from tl_knowledge.models.protocol import layer_count
from tl_knowledge.report import driver


def counted(run) -> float:
    """Floating-point operations of the matrix products of a run."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


@pytest.fixture(scope="module")
def prompt(factlm):
    return tlk.Prompt.from_fact(factlm, tlk.load_facts("factlm")[0])


@pytest.fixture(scope="module")
def traces(factlm, prompt):
    return [tlk.trace(factlm, prompt, component=part, samples=3, progress=False) for part in ("mlp_out", "attn_out")]


def made(module, name, monkeypatch):
    """What a function of a module gives from now on."""
    given, real = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **kwargs: given.append(real(*args, **kwargs)) or given[-1])
    return given


def test_counted_work_is_that_of_a_forward(factlm, prompt):
    actual = counted(lambda: factlm(prompt.tokens))
    assert counted_work(factlm, len(prompt) * layer_count(factlm), len(prompt)) == pytest.approx(actual, rel=0.05)  # without the patterns' products


@pytest.mark.parametrize("limit", [5, 20])
def test_a_circuits_work_is_counted_before_it_is_done(factlm, prompt, traces, limit, monkeypatch):
    from tl_knowledge.circuits import assemble

    work = made(assemble, "circuit_work", monkeypatch)
    actual = counted(lambda: build.from_trace(factlm, prompt, traces, limit=limit, progress=False))
    assert 0.5 < sum(work[0].values()) / actual < 2.0


def test_the_work_of_whole_rows_is_more(factlm, prompt, traces, monkeypatch):
    """Somebody's hook on a module: rows cannot grow, and the loop runs every intervention whole."""
    from tl_knowledge.circuits import assemble

    work = made(assemble, "circuit_work", monkeypatch)
    handle = factlm.blocks[0].register_forward_hook(lambda module, given, made: None)
    try:
        actual = counted(lambda: build.from_trace(factlm, prompt, traces, limit=4, progress=False))
    finally:
        handle.remove()
    assert 0.4 < sum(work[0].values()) / actual < 2.5


def test_a_reports_work_is_counted_before_it_is_done(factlm, monkeypatch):
    work = made(driver, "report_work", monkeypatch)
    actual = counted(lambda: tlk.report_fact(factlm, tlk.load_facts("factlm")[0], samples=2, limit=8, progress=False))
    assert len(work[0]) == 8 and work[0]["edit"] == work[0]["what the edit does"] == 0
    assert 0.4 < sum(work[0].values()) / actual < 2.5


def test_an_edit_is_more_work(factlm, prompt):
    from tl_knowledge.report.settings import ReportSettings
    from tl_knowledge.report.work import report_work

    shape = {"wordings": 2, "components": 5, "modules": 2}
    without, edited = (report_work(factlm, prompt, ReportSettings(20, 10, 0), edited=edited, **shape) for edited in (False, True))
    assert edited["edit"] > 0 and edited["what the edit does"] > edited["circuits"] / 2
    assert {name: work for name, work in edited.items() if without[name]} == {name: work for name, work in without.items() if work}


@pytest.mark.parametrize("seconds", [8.0, 400.0])
def test_the_time_is_said_before_anything_runs(factlm, prompt, traces, seconds, monkeypatch):
    from tl_knowledge.circuits import assemble

    work, said = made(assemble, "circuit_work", monkeypatch), []
    monkeypatch.setattr(forecast, "measured_rate", lambda model, tokens: sum(work[0].values()) / seconds)
    with watch_progress(lambda what, done, total: said.append((what, done, total))):
        build.from_trace(factlm, prompt, traces, limit=5, progress=False)
    assert said[0] == (f"circuit ({duration(seconds)})", 0, 5)
    assert said[1] == (f"circuit: sites, {duration(seconds)} left", 0, 5)
    parts = [what.split(",")[0] for what, _, _ in said if what.startswith("circuit: ")]
    assert list(dict.fromkeys(parts)) == [f"circuit: {part}" for part in ("sites", "edges", "needs", "shares", "heads")]
    assert said[-1][1:] == (5, 5)


def test_what_is_left_follows_the_parts_that_are_done(gpt2, monkeypatch):
    clock = iter([0.0, 0.0, 30.0, 30.0])  # when the bar is made; when the first part begins, and ends; when the second begins
    monkeypatch.setattr(forecast, "measured_rate", lambda model, tokens: 10.0)
    monkeypatch.setattr(forecast, "perf_counter", lambda: next(clock))
    said = []
    with (
        watch_progress(lambda what, done, total: said.append(what)),
        parts_bar(gpt2, torch.tensor([[1, 2, 3]]), what="work", work={"a": 100.0, "b": 200.0}, progress=False) as bar,
    ):
        assert bar.seconds_left == 30.0
        with bar.part("a"):
            pass
        assert bar.seconds_left == pytest.approx(60.0)  # a took three times as long as was thought
        bar.bar.set_description(duration(bar.seconds_left), refresh=False)
    assert said[0] == "work (about 30 s)" and "work: a, about 30 s left" in said and said[-1] == "about 60 s"


def test_nothing_is_measured_for_nobody(factlm, prompt, traces, monkeypatch):
    monkeypatch.setattr(forecast, "measured_rate", None)
    assert len(build.from_trace(factlm, prompt, traces, limit=3, progress=False).nodes) <= 3
    with pytest.raises(TypeError):
        build.from_trace(factlm, prompt, traces, limit=3, progress=True)


def test_the_rate_is_measured_on_the_model_and_leaves_it_alone(model):
    before = fingerprint(model)
    rate = measured_rate(model, torch.tensor([[3, 1, 4, 1]]))
    assert 0 < rate < float("inf")
    assert fingerprint(model) == before and not hooks_left(model)


@pytest.mark.parametrize(("rate", "shown"), [(1.0, True), (1e6, False)])
def test_a_terminal_shows_it_at_once(gpt2, rate, shown, monkeypatch, capsys):
    """Long work is said before its first part is done; short work is not."""
    monkeypatch.setattr(forecast, "measured_rate", lambda model, tokens: rate)
    with parts_bar(gpt2, torch.tensor([[1, 2]]), what="work", work={"a": 40.0, "b": 60.0}, progress=True) as bar, bar.part("a"):
        said = capsys.readouterr().err
    assert [words in said for words in ("work (about 2 min)", "work: a, about 2 min left")] == [shown, shown]
