"""Traces of fact sets: batched = single, resumable to the same bytes, distributed, averaged as by hand."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from support import VOCABULARY
from support.killed import kill_once, run_here
from support.places import FACTLM_LAYER

import tl_knowledge as tlk
from tl_knowledge.runs.experiment import CorruptedRun, Experiment, answered
from tl_knowledge.runs.roles import RELATION_ROLES, ROLES, SUBJECT_ROLES
from tl_knowledge.tracing.engines import exact_scores
from tl_knowledge.tracing.sites import Grid

EXACT = 1e-12
SETTINGS = {"samples": 2, "components": ("resid_post", "mlp_out", "attn_out"), "sever": ("mlp_out", "attn_out"), "progress": False}


@pytest.fixture(scope="module")
def factlm64():
    return tlk.load_model("factlm", dtype=torch.float64)


@pytest.fixture(scope="module")
def facts() -> list[tlk.Fact]:
    return tlk.load_facts("factlm")[::170]  # twelve facts of many relations and lengths


@pytest.fixture(scope="module")
def average(factlm64, facts) -> tlk.TraceAverage:
    return tlk.trace_facts(factlm64, facts, **SETTINGS)


def assert_same(first: tlk.TraceAverage, second: tlk.TraceAverage, atol: float = 0.0) -> None:
    assert first.given == second.given and first.skipped == second.skipped and first.facts == second.facts
    for a, b in zip(first.traces, second.traces, strict=True):
        assert (a.index, a.corrupt, a.component, a.severed, a.seed, a.labels) == (b.index, b.corrupt, b.component, b.severed, b.seed, b.labels)
        np.testing.assert_allclose(a.effect, b.effect, rtol=0, atol=atol)
        np.testing.assert_allclose(a.corrupted_probability, b.corrupted_probability, rtol=0, atol=atol)


@pytest.mark.parametrize("budget", [2.0**20, 2.0**30], ids=["many chunks", "one chunk"])
def test_prompts_of_unequal_length_in_one_experiment_equal_single_traces(model, budget):
    """Padding, several corruptions, components and severings in one sweep: every architecture, 1e-12."""
    generator = torch.Generator().manual_seed(3)
    prompts = [
        tlk.Prompt.from_tokens(torch.randint(0, VOCABULARY, (1, length), generator=generator), subject=range(1, 3), target=[5])
        for length in (5, 7, 6)
    ]
    noise = [tlk.GaussianNoise(0.7, seed=seed) for seed in range(3)]
    runs = [(row, side) for row in range(3) for side in ("subject", "relation")]
    experiment = Experiment(
        model,
        tuple(answered(p, torch.tensor([5])) for p in prompts),
        tuple(CorruptedRun(row, prompts[row].span(side).positions, noise[row]) for row, side in runs),
        2,
    )
    for component, severed, window in [("resid_post", (), 1), ("resid_post", ("mlp_out",), 1), ("mlp_out", (), 2), ("attn_out", (), 3)]:
        grids = [
            (run, Grid(component, window, "ours", severed, tuple(range(4)), tuple(range(len(prompts[row]))))) for run, (row, _) in enumerate(runs)
        ]
        sites = [grid.sites(experiment, run) for run, grid in grids]
        probability, used = exact_scores(experiment, [s for group in sites for s in group], "rows", budget, lambda count: None)
        assert used.startswith("rows")
        for (run, grid), group, part in zip(grids, sites, probability.split([len(group) for group in sites]), strict=True):
            row, side = runs[run]
            alone = tlk.trace(model, prompts[row], noise[row], corrupt=side, component=component, window=window, sever=severed, samples=2)
            together = grid.arrange(group, part - experiment.corrupted_probability(run), len(prompts[row]))
            torch.testing.assert_close(together, alone.indirect_effect, rtol=0, atol=EXACT)
            assert float(together.abs().max()) > 1e-6


def test_mixed_components_in_one_sweep_equal_the_loop(model, prompt):
    experiment = Experiment(model, (answered(prompt, torch.tensor([5])),), (CorruptedRun(0, (1, 2), tlk.GaussianNoise(0.7)),), 2)
    everywhere, layers = tuple(range(7)), tuple(range(4))
    grids = [
        Grid("resid_post", 1, "ours", (), layers, everywhere),
        Grid("mlp_out", 2, "ours", ("attn_out",), layers, everywhere),
        Grid("head", 1, "ours", (), layers, (2,), (0, 3)),
    ]
    sites = [site for grid in grids for site in grid.sites(experiment, 0)]
    swept, _ = exact_scores(experiment, sites, "rows", 2.0**30, lambda count: None)
    looped, _ = exact_scores(experiment, sites, "loop", 2.0**30, lambda count: None)
    torch.testing.assert_close(swept, looped, rtol=0, atol=EXACT)


def test_a_fact_of_a_set_is_its_single_trace(factlm64, facts, average):
    for trace in average.traces[:: len(average.measures) + 1]:
        prompt = tlk.Prompt.from_fact(factlm64, trace.fact)
        single = tlk.trace(
            factlm64,
            prompt,
            corrupt=trace.corrupt,
            component=trace.component,
            sever=trace.severed,
            samples=2,
            seed=tlk.tracing.fact_seed(trace.fact, seed=0),
            positions=[prompt.span(trace.corrupt).last] if trace.severed else None,
        )
        np.testing.assert_allclose(trace.effect, single.mean_effect.numpy(), rtol=0, atol=EXACT)
        assert trace.total_effect == pytest.approx(float(single.total_effect.mean()), abs=EXACT)
        assert trace.labels == prompt.labels and trace.window == single.window


@pytest.mark.slow
def test_order_parts_and_memory_change_nothing(factlm64, facts, average):
    turned = tlk.trace_facts(factlm64, facts[::-1], facts_per_part=5, memory_budget=2.0**25, **SETTINGS)
    by_fact = {(t.fact.text, t.corrupt, t.component, t.severed): t for t in turned.traces}
    for trace in average.traces:
        np.testing.assert_allclose(by_fact[trace.fact.text, trace.corrupt, trace.component, trace.severed].effect, trace.effect, rtol=0, atol=EXACT)


def test_loop_engine_gives_the_same(factlm64, facts):
    few = {**SETTINGS, "components": "mlp_out", "layers": [0, 3]}
    assert_same(tlk.trace_facts(factlm64, facts[:2], **few), tlk.trace_facts(factlm64, facts[:2], engine="loop", **few), EXACT)


def slow_average(average, corrupt, component, role):
    """By hand: for every fact find the role's tokens by walking the prompt, pool tokens over facts."""
    pooled = []
    for trace in average.traces:
        if (trace.corrupt, trace.component, trace.severed) != (corrupt, component, ()):
            continue
        subject, length = list(trace.subject_positions), len(trace.labels)
        first, last, end = subject[0], subject[-1], length - 1
        relation = [p for p in range(1, length) if p not in subject]  # position 0 is BOS
        for pos in range(length):
            is_role = {
                "first subject token": pos == first,
                "middle subject tokens": first < pos < last,
                "last subject token": pos == last,
                "first token after": pos == last + 1,
                "further tokens": last + 1 < pos < end,
                "last token": pos == end,
                "subject tokens": pos in subject,
                "first relation token": pos == relation[0],
                "middle relation tokens": pos in relation[1:-1],
                "last relation token": pos == relation[-1],
            }[role]
            if is_role:
                pooled.append([float(trace.effect[layer, pos]) for layer in range(8)])
    return [sum(column) / len(pooled) for column in zip(*pooled, strict=True)] if pooled else [], pooled


def slow_scores(average, corrupt, component, role):
    """The role's restored scores ``[token layer]``, and the mean corrupted probability of all facts."""
    scores, low = [], []
    for fact in range(len(average.facts)):
        one = tlk.TraceAverage(tuple(t for t in average.traces if t.index == fact), *list(vars(average).values())[1:7])
        trace = one.of(corrupt, component)[0]
        low.append(float(np.mean(trace.corrupted_probability)))
        scores += [[effect + low[-1] for effect in token] for token in slow_average(one, corrupt, component, role)[1]]
    return scores, float(np.mean(low))


@pytest.mark.parametrize("corrupt", ["subject", "relation"])
def test_role_averages_equal_a_slow_reference(average, corrupt):
    frame, rome = average.to_dataframe(), average.to_dataframe("meng2022_code")
    for component in average.components:
        for role in (*SUBJECT_ROLES, *RELATION_ROLES):
            expected, pooled = slow_average(average, corrupt, component, role)
            chosen = (frame["corrupt"] == corrupt) & (frame["component"] == component) & (frame["role"] == role) & (frame["severed"] == "none")
            np.testing.assert_allclose(frame[chosen]["effect"], expected, rtol=0, atol=1e-14)
            assert set(frame[chosen]["tokens"]) == {len(pooled)}
            scores, low = slow_scores(average, corrupt, component, role)
            half = [1.96 * np.std(column) / 12**0.5 for column in zip(*scores, strict=True)]
            np.testing.assert_allclose((rome[chosen]["high"] - rome[chosen]["low"]) / 2, half, rtol=0, atol=1e-14)
            np.testing.assert_allclose(rome[chosen]["effect"], np.mean(scores, axis=0) - low, rtol=0, atol=1e-14)
    assert set(frame["role"]) == set(ROLES)


RUN = """
import sys
import tl_knowledge as tlk
facts, parts = tlk.load_facts()[::85], ("resid_post", "mlp_out")
tlk.trace_facts("factlm", facts, components=parts, samples=2, facts_per_part=2, store=sys.argv[1], progress=False)
"""


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*.parquet"))}


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_here(RUN, whole)
    expected = parts(whole)
    assert len(expected) == 12
    kill_once(RUN, broken, ready=lambda: len(parts(broken)) >= 3)
    there = parts(broken)
    assert 3 <= len(there) < 12
    assert all(there[name] == expected[name] for name in there)
    (broken / "part-00011.parquet.abc.partial").write_bytes(b"half a rec")  # what a kill in mid-write leaves
    untouched = {name: (broken / name).stat().st_mtime_ns for name in there}
    run_here(RUN, broken)
    assert parts(broken) == expected
    assert {name: (broken / name).stat().st_mtime_ns for name in there} == untouched
    assert not list(broken.glob("*.partial"))
    assert_same(tlk.TraceAverage.load(broken), tlk.TraceAverage.load(whole))


def test_a_store_of_another_run_is_refused(tmp_path, factlm, facts):
    few = {"components": "mlp_out", "samples": 1, "layers": [FACTLM_LAYER], "progress": False, "store": tmp_path / "store"}
    tlk.trace_facts(factlm, facts[:2], **few)
    with pytest.raises(tlk.errors.DataError, match="other samples; pass a new folder"):
        tlk.trace_facts(factlm, facts[:2], **few | {"samples": 2})
    with pytest.raises(tlk.errors.DataError, match="other facts"):
        tlk.trace_facts(factlm, facts[1:3], **few)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    with pytest.raises(tlk.errors.DataError, match=r"is no folder of a trace_facts\(\) run"):
        tlk.trace_facts(factlm, facts[:2], **few | {"store": other})


def test_a_run_goes_on_with_another_engine_and_memory_budget_and_says_so(tmp_path, factlm64, facts):
    few = {"components": "mlp_out", "samples": 1, "layers": [FACTLM_LAYER], "progress": False, "facts_per_part": 1}
    whole = tlk.trace_facts(factlm64, facts[:3], memory_budget=2.0**28, **few)
    folder = tmp_path / "store"
    tlk.trace_facts(factlm64, facts[:3], memory_budget=2.0**28, store=folder, **few)
    again = tlk.trace_facts(factlm64, facts[:3], memory_budget=2.0**20, store=folder, **few)  # nothing is left to compute, so nothing is said
    assert_same(again, whole)
    (folder / "part-00001.parquet").unlink()
    with pytest.warns(UserWarning, match="it goes on with engine 'loop' and memory_budget=1.04858e"):
        mixed = tlk.trace_facts(factlm64, facts[:3], engine="loop", memory_budget=2.0**20, store=folder, **few)
    assert_same(mixed, whole, EXACT)
    assert mixed.settings == whole.settings and [way.engine for way in mixed.executions] == ["rows", "loop"]
    assert mixed.provenance.engine == "some parts by rows (memory_budget=2.68435e+08), others by loop (memory_budget=1.04858e+06)"
    assert tlk.TraceAverage.load(folder).provenance == mixed.provenance


def test_noise_of_its_own_seed_is_the_sets_seed(factlm64, facts):
    few = {"components": "mlp_out", "samples": 1, "layers": [FACTLM_LAYER], "progress": False}
    first = tlk.trace_facts(factlm64, facts[:2], tlk.GaussianNoise(0.3, seed=5), **few)
    second = tlk.trace_facts(factlm64, facts[:2], 0.3, seed=5, **few)
    assert_same(first, second)
    assert first.settings == second.settings and first.settings.seed == 5
    assert first.traces[0].seed == tlk.tracing.fact_seed(first.facts[0], seed=5)
    with pytest.raises(tlk.errors.CorruptionError, match="the noise has seed 5, but seed=6 was given too"):
        tlk.trace_facts(factlm64, facts[:2], tlk.GaussianNoise(0.3, seed=5), seed=6, **few)


def test_a_store_refuses_other_weights(tmp_path, factlm64, facts):
    few = {"components": "mlp_out", "samples": 1, "layers": [FACTLM_LAYER], "progress": False, "facts_per_part": 1, "store": tmp_path / "store"}
    tlk.trace_facts(factlm64, facts[:2], **few)
    (tmp_path / "store" / "part-00001.parquet").unlink()
    weight = factlm64.blocks[2].mlp.W_out
    with torch.no_grad():
        weight[0, 0] += 1.0
    try:
        with pytest.raises(tlk.errors.DataError, match="holds traces of other weights"):
            tlk.trace_facts(factlm64, facts[:2], **few)
    finally:
        with torch.no_grad():
            weight[0, 0] -= 1.0


def test_save_and_load_is_the_identity(tmp_path, average):
    again = tlk.TraceAverage.load(average.save(tmp_path / "average"))
    assert_same(again, average)
    assert again.provenance == average.provenance and again.settings == average.settings and again.measures == average.measures
    assert tlk.TraceAverage.load(average.save(tmp_path / "again")).to_dataframe().equals(average.to_dataframe())


def test_facts_that_cannot_be_traced_are_skipped_with_the_reason(factlm):
    facts = [
        tlk.Fact("France", "The capital of {} is", " Paris"),
        tlk.Fact("France", "The capital of {} is", " Oslo"),
        tlk.Fact("France", "{}", " Paris"),
        tlk.Fact("France", "The capital of {} is" + " very" * 200, " Paris"),
    ]
    found = tlk.trace_facts(factlm, facts, components="mlp_out", samples=1, layers=[0], progress=False)
    assert [fact.target for fact in found.facts] == [" Paris"] and found.given == 4
    assert found.skipped[1] == "not known: the model predicts ' Paris'"
    assert "has no span 'relation'" in found.skipped[2]
    assert "context" in found.skipped[3]
    everything = tlk.trace_facts(factlm, facts[:2], components="mlp_out", samples=1, layers=[0], known_only=False, progress=False)
    assert [trace.known for trace in everything.traces] == [True, True, False, False]


def tracer_processes() -> list[int]:
    """Process numbers of the Ray actors; Ray titles them by their class and method."""
    titles = {int(path.parent.name): path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)}
    return [number for number, title in titles.items() if title.startswith(b"ray::_Worker")]


@pytest.mark.slow
def test_ray_workers_give_the_same_and_a_killed_one_loses_nothing(tmp_path, facts):
    ray = pytest.importorskip("ray", reason="Ray is not installed, so the Ray runner was not run (pip install 'tl-knowledge[ray]')")
    from tl_knowledge.runs import parts as run_parts_module

    settings = {"components": "mlp_out", "samples": 2, "facts_per_part": 1, "progress": False}
    expected = tlk.trace_facts("factlm", facts, store=tmp_path / "local", **settings)
    ray.init(include_dashboard=False, num_cpus=2, log_to_driver=False, object_store_memory=100 * 2**20)
    killed: list[int] = []

    def kill_a_worker(finished):
        def once(number, part):
            finished(number, part)
            if not killed:
                killed.append(tracer_processes()[0])
                os.kill(killed[0], signal.SIGKILL)

        return once

    real = run_parts_module.run_on_ray

    def run_and_kill(source, job, parts, finished, workers):
        real(source, job, parts, kill_a_worker(finished), workers)

    patched = pytest.MonkeyPatch()
    patched.setattr(run_parts_module, "run_on_ray", run_and_kill)
    try:
        found = tlk.trace_facts("factlm", facts, runner="ray", workers=2, store=tmp_path / "ray", **settings)
    finally:
        patched.undo()
        ray.shutdown()
    assert killed
    assert len(parts(tmp_path / "ray")) == len(facts)
    assert_same(found, expected, 1e-6)  # float32, other numbers of threads
