"""Five editing problems, and localisation against editing, on FactLM."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from support import fingerprint, hooks_left
from support.places import FACTLM_LAYER

import tl_knowledge as tlk
from tl_knowledge.errors import DataError, InputError, TargetError
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.significance import compare_regressions


@pytest.fixture(scope="module")
def moments(factlm):
    return tlk.collect_key_moments(factlm, tlk.load_corpus(), layers=[FACTLM_LAYER, 4], progress=False)


@pytest.fixture
def case():
    return tlk.load_edit_cases()[0]


def probability(model, fact, hooks=()) -> float:
    prompt = tlk.Prompt.from_fact(model, fact)
    with torch.no_grad():
        return float(model.run_with_hooks(prompt.tokens, fwd_hooks=list(hooks))[0, -1].softmax(-1)[prompt.target_token])


def test_five_problems_are_asked_and_solved(factlm, moments, case):
    before, noise = fingerprint(factlm), tlk.GaussianNoise(sd=0.5, seed=3)
    prompt = tlk.Prompt.from_fact(factlm, case.fact)
    corrupted = tlk.corrupt(prompt.subject, noise)
    said = int(factlm.run_with_hooks(prompt.tokens, fwd_hooks=corrupted)[0, -1].argmax())
    assert said != prompt.target_token
    for problem in ("error_injection", "tracing_reversal", "fact_erasure", "fact_amplification", "fact_forcing"):
        fact, objective = tlk.localised.editing_problem(factlm, case, problem, noise=noise, seed=3)
        edit = tlk.plan_edit(factlm, fact, tlk.ROME(layer=FACTLM_LAYER, objective=objective, contexts=((4, 2),)), moments=moments)
        hooks = edit.hooks()
        if problem == "error_injection":
            assert fact == case.rewrite and probability(factlm, fact, hooks) > 0.5 > probability(factlm, fact)
        elif problem == "tracing_reversal":
            assert tlk.Prompt.from_fact(factlm, fact).target_token == said and probability(factlm, fact, hooks) > 0.5
        elif problem == "fact_erasure":
            assert fact == case.fact and probability(factlm, case.fact, hooks) < 0.2 < probability(factlm, case.fact)
        elif problem == "fact_amplification":
            assert probability(factlm, case.fact, hooks) >= probability(factlm, case.fact) - 0.01
        else:
            assert probability(factlm, case.fact, corrupted + hooks) > 0.5 > probability(factlm, case.fact, corrupted)
    assert fingerprint(factlm) == before and hooks_left(factlm) == []


def test_the_programs_objectives_run_on_and_go_further(factlm, moments, case):
    """Amplification by ours stops at once where the model is sure; the program's never stops, and its noise is new at each step."""

    def noted(problem, variant):
        fact, objective = tlk.localised.editing_problem(factlm, case, problem, noise=0.5, variant=variant)
        edit = tlk.plan_edit(
            factlm, fact, tlk.ROME(layer=FACTLM_LAYER, objective=objective, contexts=(), value=tlk.editing.ValueSettings(steps=6)), moments=moments
        )
        return edit.notes[0]

    for problem in ("fact_amplification", "fact_erasure", "fact_forcing"):
        theirs = noted(problem, "hase2023")
        assert len(theirs["losses"]) == 6 and theirs["stopped"] == "steps"
    assert theirs["losses"] != noted("fact_forcing", "ours")["losses"]
    ours = noted("fact_amplification", "ours")
    assert ours["stopped"] == "loss" and len(ours["losses"]) < 6
    with pytest.raises(InputError, match="draws none; pass GaussianNoise"):
        tlk.editing.Objective(noise=tlk.PromptSwap(tlk.Prompt.from_fact(factlm, case.fact)), variant="hase2023")
    with pytest.raises(InputError, match="variant"):
        tlk.editing.Objective(variant="hase2022")


def test_problems_that_do_not_apply(factlm, case):
    unknown = tlk.EditCase(case.rewrite, case.fact.target, (), ())
    with pytest.raises(TargetError, match="nothing to erase"):
        tlk.localised.editing_problem(factlm, unknown, "fact_erasure")
    with pytest.raises(TargetError, match="raise the noise"):
        tlk.localised.editing_problem(factlm, case, "tracing_reversal", noise=1e-9)


def test_regressions_equal_the_textbook():
    """R^2 and F by the normal equations, written out."""
    draw = np.random.default_rng(0)
    layers, trace = np.repeat(np.arange(4), 10), draw.normal(size=40)
    y = 0.5 * layers + 0.2 * trace + draw.normal(size=40)
    factor = (layers[:, None] == np.arange(4)[None]).astype(float)
    fit = compare_regressions(y, factor, trace[:, None])

    def rest(columns):
        return float(((y - columns @ np.linalg.pinv(columns) @ y) ** 2).sum())

    total, one = float(((y - y.mean()) ** 2).sum()), np.ones((40, 1))
    assert fit.first == pytest.approx(1 - rest(factor) / total)
    assert fit.second == pytest.approx(1 - rest(np.hstack([one, trace[:, None]])) / total)
    full = rest(np.hstack([factor, trace[:, None]]))
    assert fit.both == pytest.approx(1 - full / total)
    assert fit.f == pytest.approx((rest(factor) - full) / (full / (40 - 5)))
    assert 0 < fit.p < 1
    assert compare_regressions(y, factor, factor).p == 1.0  # the same columns add nothing
    with pytest.raises(InputError, match="cannot be regressed"):
        compare_regressions(np.ones(5), np.arange(5.0)[:, None], np.ones((5, 1)))
    slopes = compare_regressions(y, factor, trace[:, None], interactions=True)
    alone = sum(rest_of(y[layers == n], trace[layers == n]) for n in range(4))  # a line in each layer by itself
    assert (slopes.first, slopes.second) == (fit.first, fit.second) and slopes.both == pytest.approx(1 - alone / total)
    assert slopes.f == pytest.approx(((rest(factor) - alone) / 4) / (alone / (40 - 8)))


def rest_of(y, x) -> float:
    """The squared residual of one line, by its textbook slope."""
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    return float(((y - y.mean() - slope * (x - x.mean())) ** 2).sum())


@pytest.mark.slow
def test_a_sweep_edits_and_traces_every_layer(factlm, moments, tmp_path):
    cases, before = tlk.load_edit_cases()[:4], fingerprint(factlm)
    sweep = tlk.localised.sweep_layers(
        factlm,
        cases,
        lambda layer, objective: tlk.ROME(layer=layer, objective=objective, contexts=((4, 2),)),
        moments=moments,
        layers=[FACTLM_LAYER, 4],
        samples=3,
        progress=False,
    )
    assert fingerprint(factlm) == before and len(sweep.table) == 8 - 2 * len(sweep.skipped)
    first = sweep.table.iloc[0]
    edit = tlk.plan_edit(factlm, cases[0].rewrite, tlk.ROME(layer=FACTLM_LAYER, contexts=((4, 2),)), moments=moments)
    old, new = probability(factlm, cases[0].rewrite), probability(factlm, cases[0].rewrite, edit.hooks())
    if len(tlk.Prompt.from_fact(factlm, cases[0].rewrite).answer) == 1:
        assert first["score"] == pytest.approx((new - old) / (1 - old), rel=1e-4)
    prompt = tlk.Prompt.from_fact(factlm, cases[0].fact)
    traced = tlk.trace(factlm, prompt, component="mlp_out", window=5, samples=3, seed=0, layers=[FACTLM_LAYER, 4], progress=False)
    effect = float(traced.mean_effect[0].nan_to_num(-1).max() / traced.total_effect.mean())
    assert first["tracing_effect"] == pytest.approx(min(max(effect, 0), 1), rel=1e-6)
    assert first["fraction_restored"] == pytest.approx(max(effect, 0), rel=1e-6)
    again = tlk.localised.LayerSweep.load(sweep.save(tmp_path / "sweep"))
    pd.testing.assert_frame_equal(again.table, sweep.table)
    assert again.settings == sweep.settings and sweep.settings.samples == 3
    assert (sweep.settings.method, sweep.settings.layers) == ("ROME", (FACTLM_LAYER, 4))
    assert list(sweep.summary()["layer"]) == [FACTLM_LAYER, 4] and "ROME, error injection" in repr(sweep)
    assert len(sweep.top(3)) == 3 and "R²" in sweep.plot().layout.meta["subtitle"]


def test_a_figure_says_what_the_regressions_found():
    draw = np.random.default_rng(1)
    rows = [
        {"case_id": str(c), "layer": layer, "score": 1 - 0.2 * layer + 0.01 * draw.normal(), "tracing_effect": draw.random()}
        for c in range(20)
        for layer in range(4)
    ]
    settings = tlk.localised.SweepSettings("ROME", "fact_erasure", (0, 1, 2, 3))
    sweep = tlk.localised.LayerSweep(pd.DataFrame(rows), {}, settings, Provenance("m", "b", {}, False, "float32", "cpu", 0, "e", {}))
    fit = sweep.regressions()
    assert fit.first > 0.98 and fit.second < 0.2
    with pytest.raises(InputError, match="no column 'fraction_restored'"):
        sweep.regressions(variant="hase2023")
    assert f"layer {fit.first:.3f}" in sweep.plot().layout.meta["subtitle"] and "fact erasure" in sweep.plot().layout.meta["title"]


def test_no_case_left(factlm, case):
    unknown = tlk.EditCase(case.rewrite, case.fact.target, (), ())
    with pytest.raises(DataError, match="no case is left of 1"):
        tlk.localised.sweep_layers(factlm, [unknown], lambda layer, o: tlk.ROME(layer=layer, objective=o), problem="fact_erasure", progress=False)


def test_objects_that_begin_with_a_bare_space_can_be_edited(factlm):
    """Some objects' first token is a space alone, which is no text for a target."""
    tokens = ((case, tlk.Prompt.from_fact(factlm, case.fact).target_token) for case in tlk.load_edit_cases())
    case = next(case for case, token in tokens if not factlm.tokenizer.decode([token]).strip())
    for method in (tlk.localised.KnowledgeNeuronEdit(steps=3), tlk.localised.CausalNeuronEdit(samples=2)):
        edit = tlk.plan_edit(factlm, case.rewrite, method)
        assert edit.layers and edit.notes[0]["subject"] == case.fact.subject
