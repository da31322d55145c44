"""Effects of scaling a fact's neurons, against the same written out by hand."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

import tl_knowledge as tlk
from tl_knowledge.errors import ComponentError, DataError, InputError


@pytest.fixture(scope="module")
def facts():
    return tlk.load_facts("factlm")[::280]


@pytest.fixture(scope="module")
def effects(factlm, facts):
    return tlk.neurons.measure_neuron_effects(factlm, facts, steps=5, unrelated=2, controls=2, seed=3, progress=False)


def test_every_number_by_hand(factlm, facts, effects):
    prompts = [tlk.Prompt.from_fact(factlm, fact) for fact in facts]

    def probability(prompt, hooks) -> float:
        with torch.no_grad():
            logits = factlm.run_with_hooks(prompt.tokens, fwd_hooks=hooks)
        return float(logits[0, -1].softmax(-1)[prompt.target_token])

    def change(prompt, hooks) -> float:
        return probability(prompt, hooks) / probability(prompt, []) - 1

    for i, (fact, row) in enumerate(zip(facts, effects.table.to_dict(orient="records"), strict=True)):
        scores = tlk.attribute_neurons(factlm, tlk.paraphrases(factlm, fact), steps=5, progress=False)
        neurons = tlk.select_neurons(scores, threshold=0.2, shared_by=0.5)
        assert row["neurons"] == len(neurons) and row["clean"] == pytest.approx(probability(prompts[i], []), abs=1e-6)
        if not len(neurons):
            assert np.isnan(row["own"])
            continue
        assert row["own"] == pytest.approx(change(prompts[i], neurons.suppress(positions=-1)), abs=1e-5)
        controls = [change(prompts[i], neurons.random_control(seed).suppress(positions=-1)) for seed in (3, 4)]
        assert row["control"] == pytest.approx(np.mean(controls), abs=1e-5)
        others = [k for k, other in enumerate(facts) if other.relation != fact.relation]
        drawn = random.Random(f"3/{fact.text}").sample(others, 2)
        assert row["unrelated"] == pytest.approx(np.mean([change(prompts[k], neurons.suppress(positions=-1)) for k in drawn]), abs=1e-5)


def test_absolute_changes_and_the_same_prompts(factlm, facts):
    some = facts[:3]
    effects = tlk.neurons.measure_neuron_effects(factlm, some, factor=2.0, steps=5, same_prompts=True, unrelated=1, controls=1, progress=False)

    def probability(prompt, hooks) -> float:
        with torch.no_grad():
            return float(factlm.run_with_hooks(prompt.tokens, fwd_hooks=hooks)[0, -1].softmax(-1)[prompt.target_token])

    for fact, row in zip(some, effects.table.to_dict(orient="records"), strict=True):
        prompts = tlk.neurons.fact_groups(factlm, fact)[0].prompts
        neurons = tlk.select_neurons(tlk.attribute_neurons(factlm, prompts, steps=5, progress=False))
        clean = np.array([probability(prompt, []) for prompt in prompts])
        after = np.array([probability(prompt, neurons.enhance(positions=-1)) for prompt in prompts])
        assert len(prompts) == 3 and row["clean"] == pytest.approx(clean.mean(), abs=1e-6)
        assert row["own_absolute"] == pytest.approx((after - clean).mean(), abs=1e-6)
        assert row["own"] == pytest.approx(((after - clean) / clean).mean(), abs=1e-5)
    summary = effects.summary(effect="absolute").set_index("what")
    assert summary.loc["unrelated facts", "change"] == pytest.approx(effects.table["unrelated_absolute"].mean())
    assert not np.allclose(effects.plot(effect="absolute").data[0].y, effects.plot().data[0].y)
    assert effects.plot(effect="absolute").layout.yaxis.title.text == "change of P(answer), absolute"
    with pytest.raises(InputError, match="effect 'both' is unknown"):
        effects.summary(effect="both")


def test_neurons_attributed_before_the_non_linearity_are_scaled_there(factlm, facts):
    effects = tlk.neurons.measure_neuron_effects(factlm, facts[:2], factor=2.0, variant="eleutherai2022", steps=5, progress=False)
    prompt = tlk.Prompt.from_fact(factlm, facts[0])
    scores = tlk.attribute_neurons(factlm, tlk.paraphrases(factlm, facts[0]), variant="eleutherai2022", steps=5, progress=False)
    neurons = tlk.select_neurons(scores)
    change = {}
    for before in (True, False):
        hooks = neurons.enhance(positions=-1, before_nonlinearity=before)
        assert {name.rsplit("_", 1)[1] for name, _ in hooks} == {"pre" if before else "post"}
        with torch.no_grad():
            clean, after = (factlm.run_with_hooks(prompt.tokens, fwd_hooks=some)[0, -1].softmax(-1)[prompt.target_token] for some in ([], hooks))
        change[before] = float(after / clean - 1)
    assert effects.table["own"][0] == pytest.approx(change[True], abs=1e-5) and change[True] != pytest.approx(change[False], rel=0.01)


def test_effects_layer_by_layer(facts, tmp_path):
    factlm = tlk.load_model("factlm", dtype=torch.float64)  # suppressing the look-up takes a third of P: single precision rounds that
    groups = tlk.neurons.fact_groups(factlm, facts, own_wording=False)
    located = tlk.locate_neurons(factlm, groups, steps=5, threshold=0.1, progress=False)
    elsewhere = [tlk.NeuronSet.of(factlm, [(3, 7), (1 + i % 5, i)]) for i in range(len(facts))]  # the method finds few layers
    located = replace(located, sets=tuple(some | more for some, more in zip(located.sets, elsewhere, strict=True)))
    effects = tlk.neurons.measure_layer_effects(factlm, facts, located, progress=False)
    asked = [(i, layer) for i, some in enumerate(located.sets) for layer in range(8) if some.layer_histogram()[layer]]
    assert list(zip(effects.table["subject"], effects.table["layer"], strict=True)) == [(facts[i].subject, layer) for i, layer in asked]
    assert len(set(effects.table["layer"])) > 1
    for (i, layer), row in zip(asked, effects.table.to_dict(orient="records"), strict=True):
        prompt, neurons = tlk.Prompt.from_fact(factlm, facts[i]), [pair for pair in located.sets[i] if pair[0] == layer]
        with torch.no_grad():
            clean, after = (
                float(factlm.run_with_hooks(prompt.tokens, fwd_hooks=hooks)[0, -1].softmax(-1)[prompt.target_token])
                for hooks in ([], tlk.scale_neurons(neurons, 0.0, positions=-1))
            )
        assert row["neurons"] == len(neurons) and row["absolute"] == pytest.approx(after - clean, abs=1e-6)
        assert row["relative"] == pytest.approx(after / clean - 1, abs=1e-5)
    summary = effects.summary(effect="absolute")
    assert list(summary["neurons"]) == [int(effects.table.loc[effects.table["layer"] == layer, "neurons"].sum()) for layer in summary["layer"]]
    np.testing.assert_allclose(summary["change"], effects.table.groupby("layer")["absolute"].mean())
    assert len(effects.plot().data[0].y) == 8
    again = tlk.neurons.LayerEffects.load(effects.save(tmp_path / "layers"))
    assert again.table.equals(effects.table) and (again.factor, again.facts, again.layers) == (0.0, len(facts), 8)
    with pytest.raises(InputError, match="are not these 1 fact"):
        tlk.neurons.measure_layer_effects(factlm, facts[1:2], located)
    empty = replace(located, sets=tuple(some - some for some in located.sets))
    with pytest.raises(DataError, match=f"none of {len(facts)} facts has neurons"):
        tlk.neurons.measure_layer_effects(factlm, facts, empty)


def test_summary_relations_and_figure(effects):
    summary = effects.summary().set_index("what")
    rows = effects.table[effects.table["neurons"] > 0]
    assert summary.loc["own fact", "change"] == pytest.approx(rows["own"].mean())
    assert np.isnan(summary.loc["own fact", "p_own_differs"]) and 0 <= summary.loc["random control", "p_own_differs"] <= 1
    by_relation = effects.by_relation()
    assert set(by_relation["what"]) == {"own fact", "random control", "unrelated facts"}
    figure = effects.plot()
    own = by_relation[by_relation["what"] == "own fact"]["change"]
    np.testing.assert_allclose(figure.data[0].y, sorted(own))
    assert [bar.name for bar in figure.data] == ["own fact", "random control", "unrelated facts"]
    assert effects.top(1)["own"].abs().item() == rows["own"].abs().max()


def test_save_and_load(tmp_path, effects):
    again = tlk.neurons.NeuronEffects.load(effects.save(tmp_path / "effects"))
    assert again.to_dataframe().equals(effects.to_dataframe())
    assert (again.factor, again.settings, again.provenance) == (0.0, effects.settings, effects.provenance)
    assert effects.settings == tlk.neurons.LocationSettings(tlk.neurons.AttributionSettings(steps=5))
    assert "own fact" in repr(effects) and "8 of 8 facts" in repr(effects)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"facts": []}, DataError, "pass facts of at least two"),
        ({"unrelated": 0}, InputError, "compare with nothing"),
        ({"factor": float("inf")}, ComponentError, "factor inf is not finite"),
        ({"facts": [tlk.Fact("a", "{} is", " b", "r"), tlk.Fact("c", "{} is", " d", "s")]}, DataError, "has no paraphrases"),
    ],
)
def test_bad_input(factlm, facts, change, error, message):
    with pytest.raises(error, match=message):
        tlk.neurons.measure_neuron_effects(factlm, **({"facts": facts, "steps": 1, "progress": False} | change))


@pytest.mark.slow
def test_on_factlm_the_neurons_of_the_subjects_last_token_carry_the_fact(factlm):
    """FactLM looks facts up at the subject's last token, so suppressing a fact's neurons there costs it, and it alone, a large part."""
    facts = tlk.sample_facts(tlk.known_facts(factlm, tlk.load_facts()), 30)
    effects = tlk.neurons.measure_neuron_effects(factlm, facts, at="subject", steps=10, progress=False)
    summary = effects.summary().set_index("what")
    assert summary.loc["own fact", "high"] < -0.05 < summary.loc["unrelated facts", "low"]
    assert (summary["p_own_differs"].drop("own fact") < 0.001).all()
    assert effects.settings.attribution.at == "subject" and "at the subject's last token" in effects.headline()
