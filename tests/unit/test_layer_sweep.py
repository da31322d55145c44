"""Sweeps of layers: their scores by hand, their store, and what is read off them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import tl_knowledge as tlk
from tl_knowledge.errors import DataError, InputError
from tl_knowledge.localised import LayerSweep, SweepSettings, compare_sweeps, layers_around, sweep_layers
from tl_knowledge.results.provenance import Provenance

MADE = Provenance("m", "b", {}, False, "float64", "cpu", 0, "e", {})
NOISE = 0.5


@pytest.fixture(scope="module")
def factlm64():
    return tlk.load_model("factlm", dtype=torch.float64)


def tuned(layer, objective):
    return tlk.FineTune(layer=layer, objective=replace(objective, variant="ours"), steps=3, learning_rate=1e-2)


def probability(model, prompt, target, noise=None) -> float:
    """Of a whole target after one prompt, token by token, each with a forward of its own."""
    answer, p = model.tokenizer(target, add_special_tokens=False)["input_ids"], 1.0
    for k, token in enumerate(answer):
        tokens = torch.cat([prompt.tokens, torch.tensor([answer[:k]], dtype=torch.long)], dim=1)
        hooks = tlk.corrupt(prompt.subject, noise) if noise else []
        with torch.no_grad():
            p *= float(model.run_with_hooks(tokens, fwd_hooks=hooks)[0, len(prompt) - 1 + k].softmax(-1)[token])
    return p


def by_hand(model, case, fact, objective, edit, variant) -> dict[str, float]:
    """The three scores of one edit, each prompt by itself."""

    def change(prompt, written, own, neighbour=False):
        noise = None if neighbour else objective.noise
        read = own if neighbour and variant == "ours" else written
        p = probability(model, prompt, read, noise)
        with edit.applied(model):
            now = probability(model, prompt, read, noise)
        if neighbour:
            return 1 - abs(now - p) / (0.5 + abs(p - 0.5))
        score = (p - now) / p if objective.erase else (now - p) / (1 - p)
        return max(score, 0 if objective.erase else 2e-8) if variant == "hase2023" else score

    most = 1 if variant == "hase2023" else None
    scores = {"score": change(tlk.Prompt.from_fact(model, fact), fact.target, fact.target)}
    around = [change(tlk.Prompt.from_fact(model, each), fact.target, fact.target) for each in case.paraphrases[:most]]
    near = [change(tlk.Prompt.from_fact(model, each), fact.target, each.target, neighbour=True) for each in case.neighbourhood[:most]]
    scores |= {"paraphrase": float(np.mean(around)), "neighbourhood": float(np.mean(near))}
    return scores | {"overall": sum(scores.values()) / 3}


@pytest.mark.parametrize("problem", ["error_injection", "fact_erasure", "fact_forcing"])
@pytest.mark.parametrize("variant", ["ours", "hase2023"])
def test_every_score_and_effect_by_hand(factlm64, problem, variant):
    case = tlk.load_edit_cases()[2]  # three tokens of a true object
    assert len(tlk.Prompt.from_fact(factlm64, case.fact).answer) == 3
    made = sweep_layers(factlm64, case, tuned, problem=problem, noise=NOISE, layers=[1, 6], samples=3, variant=variant, progress=False)
    fact, objective = tlk.localised.editing_problem(factlm64, case, problem, noise=NOISE, variant=variant)
    program = "ours" if variant == "ours" else "meng2022_code"
    traced = tlk.trace(
        factlm64, tlk.Prompt.from_fact(factlm64, case.fact), NOISE, component="mlp_out", window=5, samples=3, layers=[1, 6],
        engine="loop", multi_token=True, variant=program, progress=False,
    )  # fmt: skip
    effects = traced.mean_effect.nan_to_num(-1).amax(1) / traced.total_effect.mean()
    assert traced.clean_probability == pytest.approx(probability(factlm64, tlk.Prompt.from_fact(factlm64, case.fact), case.fact.target))
    for k, row in made.table.iterrows():
        edit = tlk.plan_edit(factlm64, fact, tuned(row["layer"], objective), progress=False)
        expected = by_hand(factlm64, case, fact, objective, edit, variant)
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-8, abs=1e-12)
        assert row["fraction_restored"] == pytest.approx(max(float(effects[k]), 0), rel=1e-9)
        assert row["tracing_effect"] == min(row["fraction_restored"], 1)


def test_methods_of_several_layers(factlm64):
    assert layers_around(factlm64, 0) == (0, 1, 2) and layers_around(factlm64, 7) == (5, 6, 7) and layers_around(factlm64, 3, window=1) == (3,)
    cases, asked = tlk.load_edit_cases()[:2], []
    moments = tlk.collect_key_moments(factlm64, tlk.load_corpus()[:40], progress=False)

    def memit(layer, objective):
        asked.append(layer)
        return tlk.MEMIT(layers=layers_around(factlm64, layer), objective=objective, contexts=(), value=tlk.editing.ValueSettings(steps=2))

    sweep = sweep_layers(factlm64, cases, memit, moments=moments, layers=[0, 4], samples=2, progress=False)
    assert sweep.settings.method == "MEMIT, 5 layers" and set(asked) == {0, 4}
    edit = tlk.plan_edit(factlm64, cases[0].rewrite, memit(4, tlk.editing.Objective()), moments=moments, progress=False)
    expected = by_hand(factlm64, cases[0], cases[0].rewrite, tlk.editing.Objective(), edit, "ours")
    assert sweep.table.iloc[1][list(expected)].to_dict() == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_a_method_says_how_many_layers_it_edits(factlm64):
    @dataclass(frozen=True)
    class Several(tlk.FineTune):
        """Layers in the place of a layer, as some methods take them."""

        layer: int | tuple[int, ...] = 0

        def plan(self, model, facts, moments):
            return tlk.FineTune(layer=self.layer[0], steps=1).plan(model, facts, moments)

    several = sweep_layers(factlm64, tlk.load_edit_cases()[0], lambda layer, _: Several(layer=(layer, 5)), layers=2, samples=2, progress=False)
    assert several.settings.method == "Several, 2 layers"


def test_fine_tuning_does_not_pass_for_the_programs(factlm64):
    with pytest.raises(InputError, match="replace\\(objective, variant='ours'\\)"):
        sweep_layers(factlm64, tlk.load_edit_cases()[0], lambda layer, o: tlk.FineTune(layer=layer, objective=o), variant="hase2023", progress=False)


def made_sweep(problem="error_injection", method="ROME", slope=0.5, seed=0) -> LayerSweep:
    draw, rows = np.random.default_rng(seed), []
    for case in range(30):
        for layer in (0, 4, 8):
            effect = abs(float(draw.standard_cauchy())) * 0.4
            score = slope * min(effect, 1) * (layer == 4) + 0.05 * layer + 0.1 * float(draw.normal())
            scores = {"score": score, "paraphrase": 0.5 * score, "neighbourhood": 1.0, "overall": score / 2 + 1 / 3}
            rows.append({"case_id": str(case), "layer": layer} | scores | {"tracing_effect": min(effect, 1), "fraction_restored": effect})
    return LayerSweep(pd.DataFrame(rows), {}, SweepSettings(method, problem, (0, 4, 8)), MADE)


def test_correlations_by_layer_are_scipys(tmp_path):
    sweep = made_sweep()
    found = sweep.correlation_by_layer(outcome="paraphrase")
    for _, row in found.table.iterrows():
        own = sweep.table[sweep.table["layer"] == row["layer"]]
        result = stats.pearsonr(own["tracing_effect"], own["paraphrase"])
        low, high = result.confidence_interval()
        assert tuple(row[["correlation", "p", "low", "high"]]) == pytest.approx((result.statistic, result.pvalue, low, high), rel=1e-6)
        assert row["rank_correlation"] == pytest.approx(stats.spearmanr(own["tracing_effect"], own["paraphrase"]).statistic) and row["facts"] == 30
    assert found.top(1).iloc[0]["layer"] == 4
    uncapped = sweep.correlation_by_layer(variant="hase2023").table["correlation"]
    assert not np.allclose(uncapped, sweep.correlation_by_layer().table["correlation"])
    figure = found.plot()
    assert "paraphrase score" in figure.layout.meta["title"] and list(figure.data[1].y) == pytest.approx(found.table["correlation"].tolist())
    again = tlk.localised.LayerCorrelations.load(found.save(tmp_path / "correlations"))
    pd.testing.assert_frame_equal(again.table, found.table, check_dtype=False)
    assert repr(again) == repr(found) == "<LayerCorrelations: ROME, error injection, paraphrase: up to 30 facts a layer; m>"
    flat = sweep.correlation_by_layer(outcome="neighbourhood").table
    assert flat["correlation"].isna().all() and (flat["facts"] == 30).all()
    with pytest.raises(InputError, match="outcome"):
        sweep.correlation_by_layer(outcome="essence")


def test_a_scatter_has_a_group_for_each_layer():
    sweep = made_sweep()
    figure = sweep.plot_scatter(outcome="overall")
    assert [group.name for group in figure.data] == ["layer 0", "layer 4", "layer 8"]
    for group, layer in zip(figure.data, (0, 4, 8), strict=True):
        own = sweep.table[sweep.table["layer"] == layer]
        assert list(group.x) == own["tracing_effect"].tolist() and list(group.y) == own["overall"].tolist()
    assert f"layer {sweep.regressions(outcome='overall').first:.3f}" in figure.layout.meta["subtitle"]
    assert list(sweep.plot_scatter(variant="hase2023").data[0].x) == sweep.table[sweep.table["layer"] == 0]["fraction_restored"].tolist()


def test_a_score_that_does_not_vary_is_drawn_and_said():
    """As where a method has nothing to do: the figures of the other sweeps of a page are not lost by it."""
    sweep = made_sweep()
    flat = LayerSweep(sweep.table.assign(score=0.0), {}, sweep.settings, MADE)
    with pytest.raises(InputError, match="y does not vary"):
        flat.regressions()
    for figure in (flat.plot(), flat.plot_scatter(), sweep.plot_scatter(outcome="neighbourhood")):
        assert figure.data and figure.layout.meta["subtitle"].endswith("the score has no R²: it does not vary, or the facts are too few")
    assert "R² of the score: layer" in sweep.plot().layout.meta["subtitle"]


def test_cases_without_a_kind_of_prompt_are_left_out():
    sweep = made_sweep()
    some = sweep.table.assign(paraphrase=sweep.table["paraphrase"].where(sweep.table["case_id"].astype(int) < 20))
    fewer = LayerSweep(some, {}, sweep.settings, MADE)
    only = LayerSweep(some.dropna(), {}, sweep.settings, MADE)
    assert fewer.regressions(outcome="paraphrase") == only.regressions(outcome="paraphrase")
    assert (fewer.correlation_by_layer(outcome="paraphrase").table["facts"] == 20).all()
    none = LayerSweep(some.assign(paraphrase=None), {}, sweep.settings, MADE)
    with pytest.raises(InputError, match="no case has a score"):
        none.correlation_by_layer(outcome="paraphrase")
    assert none.summary()["paraphrase"].isna().all()


def test_sweeps_side_by_side(tmp_path):
    sweeps = [
        made_sweep(problem, method, seed=n) for n, (problem, method) in enumerate((p, m) for p in PROBLEMS for m in ("ROME", "MEMIT, 5 layers"))
    ]
    gain = compare_sweeps(*sweeps, variant="hase2023")
    assert len(gain.table) == 4 * 4
    for sweep in sweeps:
        row = gain.table[(gain.table["problem"] == sweep.settings.problem) & (gain.table["method"] == sweep.settings.method)].iloc[1]
        fit = sweep.regressions(outcome="paraphrase", variant="hase2023")
        assert row["outcome"] == "paraphrase" and tuple(row[["layer", "both", "gain", "p"]]) == (fit.first, fit.both, fit.both - fit.first, fit.p)
    assert gain.table[gain.table["outcome"] == "neighbourhood"]["gain"].isna().all()  # the same everywhere
    figure = gain.plot(outcome="paraphrase")
    assert [bars.name for bars in figure.data] == ["ROME", "MEMIT, 5 layers"] and list(figure.layout.xaxis.ticktext) == [
        "error injection",
        "fact erasure",
    ]
    rows = gain.table[gain.table["outcome"] == "paraphrase"]
    assert f"{(rows['p'] < 0.05).sum()} of 4 gains have p &lt; .05" in figure.layout.meta["subtitle"]
    assert [list(bars.y) for bars in figure.data] == [rows[rows["method"] == name]["gain"].tolist() for name in ("ROME", "MEMIT, 5 layers")]
    again = tlk.localised.TracingGain.load(gain.save(tmp_path / "gain"))
    pd.testing.assert_frame_equal(again.table, gain.table, check_dtype=False)
    with pytest.raises(InputError, match="different names="):
        compare_sweeps(sweeps[0], sweeps[0])
    assert list(compare_sweeps(sweeps[0], sweeps[0], names=("a", "b")).table["method"].unique()) == ["a", "b"]
    with pytest.raises(DataError):
        compare_sweeps()


PROBLEMS = ("error_injection", "fact_erasure")

SCRIPT = """
import sys, time
import tl_knowledge as tlk
def tuned(layer, objective):
    time.sleep(0.2)  # so that there is time to kill it
    return tlk.FineTune(layer=layer, objective=objective, steps=3, learning_rate=1e-2)
arguments = {"problem": "fact_erasure", "layers": [0, 4], "samples": 2, "progress": False}
tlk.localised.sweep_layers("factlm", tlk.load_edit_cases()[:6], tuned, store=sys.argv[1], **arguments)
"""


def test_a_killed_sweep_goes_on(tmp_path):
    store, asked = tmp_path / "store", []
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(SCRIPT), str(store)], env=os.environ)
    deadline = time.monotonic() + 120
    while len(list(store.glob("part-*.parquet"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    there = len(list(store.glob("part-*.parquet")))
    assert 2 <= there < 6

    def counted(layer, objective):
        asked.append(objective.erase)
        return tuned(layer, objective)

    cases = tlk.load_edit_cases()[:6]
    arguments = {"problem": "fact_erasure", "layers": [0, 4], "samples": 2, "progress": False}
    plain = sweep_layers("factlm", cases, tuned, **arguments)
    again = sweep_layers("factlm", cases, counted, store=store, **arguments)
    pd.testing.assert_frame_equal(again.table, plain.table, rtol=1e-5)
    left = [str(n) for n in range(there, 6)]
    assert sum(asked) == 2 * sum((case.case_id or str(n)) not in plain.skipped for n, case in enumerate(cases) if str(n) in left)
    assert again.skipped == plain.skipped and again.settings == plain.settings
    asked.clear()
    sweep_layers("factlm", cases, counted, store=store, **arguments)
    assert not any(asked)  # all is there
    with pytest.raises(DataError, match="samples"):
        sweep_layers("factlm", cases, tuned, store=store, **arguments | {"samples": 3})
    with pytest.raises(DataError, match="methods"):
        sweep_layers("factlm", cases, lambda layer, o: tlk.FineTune(layer=layer, objective=o, steps=4), store=store, **arguments)
    with pytest.raises(DataError, match="cases"):
        sweep_layers("factlm", cases[:5], tuned, store=store, **arguments)
    (store / "part-00000.parquet").write_bytes((store / "part-00001.parquet").read_bytes())
    with pytest.raises(DataError, match="another case or other settings"):
        sweep_layers("factlm", cases, tuned, store=store, **arguments)


def test_a_case_that_is_skipped_is_kept_too(factlm64, tmp_path):
    good, unknown = tlk.load_edit_cases()[0], tlk.load_edit_cases()[1]
    unknown = tlk.EditCase(unknown.rewrite, unknown.fact.target, (), (), case_id="never said")
    arguments = {"problem": "fact_erasure", "layers": 2, "samples": 2, "store": tmp_path / "s", "progress": False}
    first = sweep_layers(factlm64, [unknown, good], tuned, **arguments)
    again = sweep_layers(factlm64, [unknown, good], tuned, **arguments)
    assert list(first.skipped) == ["never said"] == list(again.skipped) and len(list((tmp_path / "s").glob("part-*"))) == 2
    pd.testing.assert_frame_equal(again.table, first.table)
