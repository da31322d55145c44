"""Learnt subspaces: which pairs are drawn and taken, what a training keeps, what it leaves behind, and what its results say."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from support import build, fingerprint, hooks_left, tokenizer_of_sixty_words

import tl_knowledge as tlk
from tl_knowledge.errors import DataError, InputError, ModelStateError
from tl_knowledge.results.statistics import ratio_interval, share_interval
from tl_knowledge.subspaces.controls import control_bases
from tl_knowledge.subspaces.illusion import IllusionCheck
from tl_knowledge.subspaces.training import orthonormal, random_basis
from tl_knowledge.subspaces.trials import Site, as_prompts, read_trials

pytestmark = pytest.mark.touches_model

FACTS = [tlk.Fact(f"w{k} w9", "w1 {} w4", f" w{k % 3 + 40}", relation="r") for k in range(12)]
MORE = [tlk.Fact(f"w{k} w9", "w1 {} w4", f" w{k % 5 + 40}", relation="r") for k in range(20)]
TRAIN, VALIDATION = tlk.subspaces.draw_pairs(FACTS[:6]), tlk.subspaces.draw_pairs(FACTS[6:])
QUICK = tlk.subspaces.SubspaceSettings(steps=6, validate_every=2)
PLACE = {"component": "resid_post", "layer": 1, "at": "subject", "dims": 2, "known_only": False, "progress": False, "training": QUICK}


@pytest.fixture
def small(gpt2, monkeypatch):
    monkeypatch.setattr(gpt2, "tokenizer", tokenizer_of_sixty_words())
    return gpt2


def learn(model, **more):
    return tlk.subspaces.learn_subspace(model, TRAIN, validation=VALIDATION, **PLACE | more)


def test_every_fact_is_a_base_once_and_sources_are_used_equally_often():
    facts = [tlk.Fact(f"s{k}", "{} is", f" o{k % 4}", relation=f"r{k % 2}") for k in range(40)]
    pairs = tlk.subspaces.draw_pairs(facts, seed=3)
    assert [base for base, _ in pairs] == facts
    assert all(base.relation == source.relation and base.subject != source.subject and base.target != source.target for base, source in pairs)
    assert max(Counter(source for _, source in pairs).values()) <= 2
    assert pairs == tlk.subspaces.draw_pairs(facts, seed=3) != tlk.subspaces.draw_pairs(facts, seed=4)


def test_pairs_of_one_subject_have_two_relations():
    facts = [tlk.Fact(f"s{k // 2}", "{} is", f" o{k}", relation=f"r{k % 2}") for k in range(8)] + [tlk.Fact("alone", "{} is", " o", relation="r0")]
    pairs = tlk.subspaces.draw_pairs(facts, by="subject")
    assert len(pairs) == 8 and all(base.subject == source.subject and base.relation != source.relation for base, source in pairs)


def test_no_subject_is_in_two_parts():
    facts = [tlk.Fact(f"s{k // 2}", "{} is", f" o{k}", relation=f"r{k % 2}") for k in range(60)]
    parts = tlk.subspaces.split_pairs(facts, seed=1)
    subjects = [{side.subject for pair in part for side in pair} for part in parts]
    assert [len(each) for each in subjects] == [18, 6, 6] and not subjects[0] & subjects[1] | subjects[0] & subjects[2] | subjects[1] & subjects[2]


def test_pairs_that_cannot_say_anything_are_counted(small):
    """Of one answer, and of answers that the model does not say."""
    prompts = as_prompts(small, [*TRAIN, (FACTS[0], FACTS[3])])
    with torch.no_grad():
        says = {prompt: int(small(prompt.tokens)[0, -1].argmax()) for pair in prompts for prompt in pair}
    known = [(replace(base, answer=(says[base],)), replace(source, answer=(says[source],))) for base, source in prompts[:6]]
    differing = [pair for pair in known if pair[0].target_token != pair[1].target_token]
    site = Site("resid_post", 1, "subject")
    everything = read_trials(small, prompts, site, known_only=False)
    assert (len(everything), everything.left_out) == (6, {"one answer": 1, "not known": 0})
    if differing:
        trials = read_trials(small, [*differing, *prompts[:6]], site, known_only=True)
        assert len(trials) >= len(differing) and trials.left_out["not known"] == len(differing) + 6 - len(trials)
    with pytest.raises(DataError, match="6 whose answers the model does not say, 1 whose"):
        read_trials(small, prompts, site, known_only=True)


def test_a_training_is_the_same_again_and_leaves_nothing_behind(small):
    before, random_state = fingerprint(small), torch.random.get_rng_state()
    one, again, other = learn(small), learn(small), learn(small, training=replace(QUICK, seed=1))
    assert torch.equal(one.basis, again.basis) and one.curve.equals(again.curve) and not torch.equal(one.basis, other.basis)
    torch.testing.assert_close(one.basis.mT @ one.basis, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-12)
    assert fingerprint(small) == before and not hooks_left(small) and torch.equal(torch.random.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in small.parameters())


def test_the_best_step_is_kept_and_patience_ends_a_training(small):
    found = learn(small, training=tlk.subspaces.SubspaceSettings(steps=400, learning_rate=3.0, validate_every=1, patience=2))
    curve = found.curve
    assert found.best_step == int(curve.loc[curve["validation"].idxmax(), "step"]) and len(curve) < 401
    assert int(curve["step"].iloc[-1]) == found.best_step + 2 or int(curve["step"].iloc[-1]) == 400
    prompts = as_prompts(small, VALIDATION)
    value = 0.0
    for base, source in prompts:
        hooks = found.hooks(small, source, positions=base.subject.last)
        with torch.no_grad():
            value += float(small.run_with_hooks(base.tokens, fwd_hooks=hooks)[0, -1].log_softmax(-1)[source.target_token]) / len(prompts)
    assert value == pytest.approx(curve["validation"].max(), abs=1e-12)


def test_training_raises_the_metric_on_what_it_is_trained_on(small):
    for metric, more in (("log_probability", {}), ("kl", {}), ("probability", {}), ("logit_difference", {"against": "w50"})):
        curve = learn(small, training=tlk.subspaces.SubspaceSettings(steps=30, patience=30), metric=metric, **more).curve
        assert curve["trained"].iloc[-1] > curve["trained"].iloc[1], metric


def test_a_function_is_a_metric(small):
    by_word, by_function = learn(small, metric="kl"), learn(small, metric=lambda logits: -logits.square().sum(-1))
    assert by_function.metric.kind == "function" and not torch.equal(by_word.basis, by_function.basis)
    with pytest.raises(InputError, match="no gradient in the logits"):
        learn(small, metric=lambda logits: logits.detach().sum(-1))


def test_an_interrupt_leaves_the_model_as_it_was(small):
    before, count = fingerprint(small), [0]

    def interrupt(logits):
        count[0] += 1
        if count[0] > 8:
            raise KeyboardInterrupt
        return logits.sum(-1)

    with pytest.raises(KeyboardInterrupt):
        learn(small, metric=interrupt)
    assert fingerprint(small) == before and not hooks_left(small) and torch.is_grad_enabled()


def test_it_is_bound_to_the_weights_it_was_trained_for(small):
    found = learn(small)
    edit = tlk.plan_edit(small, FACTS[0], tlk.FineTune(1, steps=2), progress=False)
    edit.write_into(small)
    try:
        assert len(found.score(small, VALIDATION, known_only=False).table) == 5 * 6  # what an edit does to it is worth knowing
        with pytest.raises(ModelStateError, match="edits are written into this model"):
            learn(small)
    finally:
        edit.revert(small)
    with pytest.raises(ModelStateError, match="trained for other weights"):
        found.check(build("bridge-gptneox"))


def test_the_sources_target_may_be_another(small):
    """What the interchanged run should say may be what neither prompt does."""
    pairs = [(base, source.retarget(" w33")) for base, source in TRAIN]
    prompts = as_prompts(small, pairs)
    assert {source.target_token for _, source in prompts} == {33}
    assert tlk.subspaces.learn_subspace(small, pairs, validation=VALIDATION, **PLACE).pairs == 6


def test_scores_are_counts_with_wilson_intervals(small):
    scores = learn(small).score(small, VALIDATION, known_only=False)
    frame = scores.by_layer().set_index("subspace")
    assert frame.index.tolist() == ["learned", "random", "variance", "means", "whole"] and (frame["pairs"] == 6).all()
    for name, group in scores.table.groupby("subspace"):
        assert frame.loc[name, "said"] == group["said"].mean()
        assert (frame.loc[name, "said_low"], frame.loc[name, "said_high"]) == share_interval(int(group["said"].sum()), 6)
        assert frame.loc[name, "effect_low"] <= frame.loc[name, "effect"] <= frame.loc[name, "effect_high"]


def test_controls_are_what_they_are_called(small):
    trials = read_trials(small, as_prompts(small, TRAIN), Site("resid_post", 1, "subject"), known_only=False)
    bases = control_bases(trials, 2, 0)
    states = torch.cat([trials.own, trials.states])
    answers = torch.tensor([side.target_token for one in (0, 1) for pair in trials.pairs for side in (pair[one],)])
    means = torch.stack([states[answers == a].mean(0) for a in answers.unique()])
    for name, rows in (("variance", states), ("means", means)):
        values, vectors = torch.linalg.eigh((rows - rows.mean(0)).mT @ (rows - rows.mean(0)))
        torch.testing.assert_close(bases[name] @ bases[name].mT, vectors[:, -2:] @ vectors[:, -2:].mT, rtol=0, atol=1e-8)
        assert values[-3] < values[-2]
    assert set(control_bases(trials, 3, 0)) == {"random", "variance"}  # three answers differ in two directions
    two = read_trials(small, as_prompts(small, [(FACTS[0], FACTS[1])]), Site("resid_post", 1, "subject"), known_only=False)
    difference = torch.nn.functional.normalize((two.states - two.own)[0], dim=0)
    assert abs(float(control_bases(two, 1, 0)["means"][:, 0] @ difference)) == pytest.approx(1, abs=1e-12)


def test_a_layer_from_which_nothing_reaches_the_answer_is_left_out(small):
    place = {name: value for name, value in PLACE.items() if name != "layer"}
    scores = tlk.subspaces.measure_subspaces(small, MORE, layers=[1, 3], **place)
    assert scores.by_layer()["layer"].unique().tolist() == [1] and "layer 3, which does not reach the answer" in scores.left_out
    with pytest.raises(DataError, match="reaches the answer at any of these layers"):
        tlk.subspaces.measure_subspaces(small, MORE, layers=[3], **place)


def test_a_sweep_is_the_learnt_subspaces_on_the_third_part(small):
    place = {name: value for name, value in PLACE.items() if name != "layer"}
    scores = tlk.subspaces.measure_subspaces(small, MORE, layers=[0, 1], **place)
    train, validation, held_out = tlk.subspaces.split_pairs(MORE)
    alone = tlk.subspaces.learn_subspace(small, train, validation=validation, **PLACE).score(small, held_out, known_only=False)
    pd.testing.assert_frame_equal(scores.table[scores.table["layer"] == 1].reset_index(drop=True), alone.table)
    assert scores.plot().data and len(scores.plot().data) != len(alone.plot().data)


def check_of(effects, retained):
    rows = [{"part": part, "base": "", "source": "", "target": "", "says": "", "said": 0, "effect": e} for part, e in effects for _ in range(9)]
    return IllusionCheck(pd.DataFrame(rows), 0.5, dict.fromkeys(dict(effects), 1.0), retained, 0, "last", {}, None)


@pytest.mark.parametrize(
    ("effect", "retained", "verdict"),
    [
        (2.0, (0.1, 0.0, 0.4), "illusion"),
        (2.0, (0.9, 0.6, 1.1), "no illusion"),
        (2.0, (0.5, 0.2, 0.8), "undecided"),
        (2.0, (float("nan"),) * 3, "undecided"),
        (0.0, (0.1, 0.0, 0.4), "no effect"),
        (-1.0, (0.9, 0.6, 1.1), "no effect"),
    ],
)
def test_a_verdict_is_read_off_the_intervals(effect, retained, verdict):
    assert check_of([("subspace", effect), ("row_space", 0.0), ("null_space", 0.0), ("whole", 0.0)], retained).verdict == verdict


def test_a_ratio_of_sums_has_an_interval_over_facts():
    draw = np.random.default_rng(0)
    wholes = draw.uniform(1, 2, 200)
    parts = 0.3 * wholes + 0.1 * draw.normal(size=200)
    share, low, high = ratio_interval(parts.tolist(), wholes.tolist())
    assert share == pytest.approx(parts.sum() / wholes.sum()) and low < share < high and high - low < 0.05
    assert np.isnan(ratio_interval([1.0], [2.0])[1]) and ratio_interval([1.0], [2.0])[0] == 0.5


def test_an_orthonormal_matrix_is_its_own_q():
    basis = random_basis(16, 4, 0, torch.float64)
    torch.testing.assert_close(orthonormal(basis), basis, rtol=0, atol=1e-14)
    assert torch.equal(random_basis(16, 4, 0, torch.float32), basis.float())


def test_columns_that_depend_on_each_other_still_give_orthonormal_directions():
    """Where ``R`` has a 0 on its diagonal no direction may be lost."""
    matrix = torch.zeros(5, 3, dtype=torch.float64)
    matrix[0, 0], matrix[1, 2] = -2.0, 3.0  # the second column is 0
    basis = orthonormal(matrix)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(orthonormal(basis), basis, rtol=0, atol=1e-14)


def test_a_pair_that_is_trained_on_is_no_validation_either_way_round(small):
    for given, count in (([TRAIN[0]], 1), ([TRAIN[0][::-1], TRAIN[1][::-1], VALIDATION[0]], 2)):
        with pytest.raises(InputError, match=f"{count} of {len(given)} validation pairs are among"):
            tlk.subspaces.learn_subspace(small, TRAIN, validation=given, **PLACE)
