"""Location over many facts and grammatical groups, against the same done by hand."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from support import bert_directory

import tl_knowledge as tlk
from tl_knowledge.errors import DataError, InputError
from tl_knowledge.neurons.groups import masked_word

SETTINGS = {"threshold": 0.2, "kind": "max"}


@pytest.fixture(scope="module")
def facts():
    known = tlk.load_facts()
    relations = list(dict.fromkeys(fact.relation for fact in known))[:2]
    return [fact for relation in relations for fact in tlk.datasets.of_relation(known, relation)[:3]]


@pytest.fixture(scope="module")
def attributions(factlm, facts):
    groups = tlk.neurons.fact_groups(factlm, facts)
    return [tlk.attribute_neurons(factlm, group.prompts, steps=5, progress=False) for group in groups]


@pytest.fixture(scope="module")
def located(factlm, facts):
    return tlk.locate_neurons(factlm, facts, steps=5, shared_by=0.6, progress=False)


def test_every_set_is_what_the_fact_alone_gives(located, attributions, facts):
    assert [len(scores.prompts) for scores in attributions] == [1 + len(fact.paraphrases) for fact in facts]
    for neurons, scores in zip(located.sets, attributions, strict=True):
        assert neurons == tlk.select_neurons(scores, **SETTINGS, shared_by=0.6)
    assert list(located.table["neurons"]) == [len(neurons) for neurons in located.sets]
    assert set(located.table["share"]) == {0.6}


def test_shares_count_the_coarse_sets(located, attributions, facts):
    shares = located.shares()
    assert list(shares.columns) == ["relation", "name", "layer", "neuron", "share", "refined"]
    for fact, scores, kept in zip(facts, attributions, located.sets, strict=True):
        coarse = tlk.neurons.coarse_neurons(scores, **SETTINGS)
        rows = shares[(shares["name"] == fact.subject) & (shares["relation"] == fact.relation)]
        expected = {neuron: sum(neuron in some for some in coarse) / len(coarse) for some in coarse for neuron in some}
        assert dict(zip(zip(rows["layer"], rows["neuron"], strict=True), rows["share"], strict=True)) == expected
        assert list(rows["share"]) == sorted(rows["share"], reverse=True)
        assert {(row.layer, row.neuron) for row in rows[rows["refined"]].itertuples()} == kept.neurons
    with pytest.raises(DataError, match="saved without the shares"):
        replace(located, coarse=()).shares()


def test_group_scores_are_the_mean_over_the_groups_prompts(factlm, facts, located, attributions, tmp_path):
    scores = tlk.neurons.measure_group_scores(factlm, facts, located, progress=False)
    wanted = sorted(set().union(*(neurons.neurons for neurons in located.sets)))
    matrix = scores.matrix()
    assert list(matrix.index) == wanted and list(matrix.columns) == [f"{fact.relation}: {fact.subject}" for fact in facts]
    for column, attribution in zip(matrix.columns, attributions, strict=True):
        for layer, neuron in wanted:
            assert matrix.loc[(layer, neuron), column] == pytest.approx(float(attribution.mean_scores[layer, neuron]), rel=1e-3, abs=1e-7)
    rows = scores.table
    assert (rows["low"] <= rows["score"] + 1e-12).all() and (rows["score"] <= rows["high"] + 1e-12).all()
    assert len(rows) == len(wanted) * len(facts) and set(rows["prompts"]) == {3}
    one = tlk.neurons.measure_group_scores(factlm, facts[:3], located, progress=False)
    assert list(one.matrix().columns) == [fact.subject for fact in facts[:3]]  # of one relation
    assert tlk.neurons.GroupScores.load(scores.save(tmp_path / "scores")).table.equals(scores.table)
    assert np.shape(scores.plot().data[0].z) == matrix.shape
    with pytest.raises(DataError, match="no located group has a neuron"):
        tlk.neurons.measure_group_scores(factlm, facts, replace(located, sets=tuple(some - some for some in located.sets)))


def test_a_killed_location_goes_on_and_ends_the_same(factlm, facts, tmp_path, monkeypatch):
    module = sys.modules["tl_knowledge.neurons.locate"]
    monkeypatch.setattr(module, "GROUPS_PER_PART", 2)
    settings = {"steps": 3, "adapt": "relation", "mean_count": (1.0, 2.0), "progress": False}
    whole = tlk.locate_neurons(factlm, facts, **settings)
    attribute, attributed = module.attribute_neurons, []

    def killed(model, prompts, **kwargs):
        attributed.append(len(prompts))
        if len(attributed) == 2:
            raise KeyboardInterrupt
        return attribute(model, prompts, **kwargs)

    monkeypatch.setattr(module, "attribute_neurons", killed)
    with pytest.raises(KeyboardInterrupt):
        tlk.locate_neurons(factlm, facts, store=tmp_path / "run", **settings)
    again = tlk.locate_neurons(factlm, facts, store=tmp_path / "run", **settings)
    assert attributed == [6, 6, 6, 6]  # one part of three was finished
    pd.testing.assert_frame_equal(again.table, whole.table)
    assert (again.sets, again.coarse, again.settings) == (whole.sets, whole.coarse, whole.settings)
    other = tlk.locate_neurons(factlm, facts, store=tmp_path / "run", steps=3, shared_by=0.9, progress=False)
    assert len(attributed) == 4
    assert other.sets == tlk.locate_neurons(factlm, facts, steps=3, shared_by=0.9, progress=False).sets
    with pytest.raises(DataError, match="holds a run with other threshold"):
        tlk.locate_neurons(factlm, facts, store=tmp_path / "run", threshold=0.3, **settings)
    with pytest.raises(DataError, match="holds a run with other groups"):
        tlk.locate_neurons(factlm, facts[1:], store=tmp_path / "run", **settings)
    (tmp_path / "run" / "part-00001.parquet").write_bytes((tmp_path / "run" / "part-00000.parquet").read_bytes())
    with pytest.raises(DataError, match="has other groups than its place"):
        tlk.locate_neurons(factlm, facts, store=tmp_path / "run", **settings)


def test_r1_squared_is_the_singular_values(located, attributions):
    for value, scores in zip(located.table["r1_squared"], attributions, strict=True):
        rows = scores.scores.double().flatten(1).numpy()
        first = np.linalg.svd(rows / np.linalg.norm(rows, axis=1, keepdims=True), compute_uv=False)[0]
        assert value == pytest.approx((first**2 - 1) / (len(rows) - 1), rel=1e-5)


def test_r1_squared_of_one_pattern_and_of_orthogonal_ones(attributions):
    one = replace(attributions[0], scores=torch.ones(3, 8, 512))
    apart = replace(attributions[0], scores=torch.eye(3, 8)[:, :, None].repeat(1, 1, 512))
    assert one.r1_squared == pytest.approx(1) and apart.r1_squared == pytest.approx(0, abs=1e-9)
    assert np.isnan(one.of_prompts([0]).r1_squared) and np.isnan(replace(one, scores=torch.zeros(3, 8, 512)).r1_squared)


def test_sharing_adapts_by_group_and_by_relation(factlm, facts, attributions):
    settings = {"steps": 5, "shared_by": 0.6, "mean_count": (1.0, 2.0), "progress": False}
    alone = tlk.locate_neurons(factlm, facts, adapt="group", **settings)
    for k, scores in enumerate(attributions):
        (expected,), share = tlk.neurons.adapt_sharing([scores], shared_by=0.6, mean_count=(1.0, 2.0))
        assert (alone.sets[k], alone.table["share"][k]) == (expected, share)
    together = tlk.locate_neurons(factlm, facts, adapt="relation", **settings)
    for first in (0, 3):
        expected, share = tlk.neurons.adapt_sharing(attributions[first : first + 3], shared_by=0.6, mean_count=(1.0, 2.0))
        assert list(together.sets[first : first + 3]) == expected and set(together.table["share"][first : first + 3]) == {share}


def test_statistics_layers_and_overlap_by_hand(located):
    statistics = located.statistics()
    first, second = located.relations
    assert list(statistics["relation"]) == [first, second] and list(statistics["groups"]) == [3, 3]
    assert statistics["KN"][0] == pytest.approx(np.mean([len(s) for s in located.sets[:3]]))
    assert statistics["R1^2"][1] == pytest.approx(located.table["r1_squared"][3:].mean())
    layers = located.layer_distribution()
    assert layers["share"].sum() == pytest.approx(1)
    everything = [layer for neurons in located.sets for layer, _ in neurons]
    counts = [everything.count(layer) for layer in range(8)]
    assert list(layers["neurons"]) == counts and list(layers["share"]) == pytest.approx([count / len(everything) for count in counts])
    overlap = located.overlap()
    across = [a.jaccard(b) for a in located.sets[:3] for b in located.sets[3:]]
    within = [located.sets[i].jaccard(located.sets[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert overlap.loc[first, second] == pytest.approx(np.mean(across)) == overlap.loc[second, first]
    assert overlap.loc[first, first] == pytest.approx(np.mean(within))


def test_the_neurons_of_a_relation(located):
    first = located.relations[0]
    counts = {n: sum(n in s for s in located.sets[:3]) for s in located.sets[:3] for n in s}
    assert located.relation_neurons(first, shared_by=0.5).neurons == {n for n, count in counts.items() if count >= 2}
    assert located.top(1)["share"][0] == max(sum(n in s for s in located.sets) for n in counts) / 6


def test_save_load_and_figures(located, tmp_path):
    again = tlk.neurons.LocatedNeurons.load(located.save(tmp_path / "located"))
    assert again.sets == located.sets and again.provenance == located.provenance and again.settings == located.settings
    assert again.table.equals(located.table)
    assert repr(located) == f"<LocatedNeurons: {located.headline()}>" and "factlm" in located.headline() and "<table" in located._repr_html_()
    comparison = tlk.neurons.compare_layers({"facts": located, "again": again})
    figure = comparison.plot()
    assert [trace.name for trace in figure.data] == [f"{name} ({sum(map(len, located.sets))} neurons, 6 groups)" for name in ("facts", "again")]
    assert figure.data[0].y == pytest.approx(located.layer_distribution()["share"].to_numpy())
    assert located.plot_overlap().data[0].z.shape == (2, 2)


def test_a_layer_comparison_is_a_result(located, tmp_path):
    comparison = tlk.neurons.compare_layers({"facts": located, "again": located})
    again = tlk.neurons.LayerComparison.load(comparison.save(tmp_path / "layers"))
    assert again.table.equals(comparison.table) and again.groups == {"facts": 6, "again": 6}
    assert again.settings == {"facts": located.settings, "again": located.settings} and again.provenances == comparison.provenances
    assert list(comparison.to_dataframe().columns) == ["name", "layer", "share", "low", "high", "neurons"]
    summary, layers = comparison.summary(), located.layer_distribution()
    assert list(summary["layer"]) == [layers["neurons"].idxmax()] * 2 and summary["share"][0] == layers["share"].max()
    assert summary["mean_layer"][0] == pytest.approx((layers["layer"] * layers["share"]).sum())
    assert comparison.top(1)["share"][0] == layers["share"].max() and "facts" in repr(comparison)


def test_settings_are_values(factlm, facts, located, attributions):
    assert located.settings == tlk.neurons.LocationSettings(tlk.neurons.AttributionSettings(steps=5), shared_by=0.6)
    assert attributions[0].settings == located.settings.attribution != tlk.neurons.AttributionSettings()
    prompts = [tlk.Prompt.from_fact(factlm, fact) for fact in facts[:2]]
    start = tlk.neurons.mean_activation(factlm, prompts, progress=False)
    settings = [
        tlk.attribute_neurons(factlm, prompts[0], steps=2, baseline=baseline, progress=False).settings
        for baseline in ("zero", start, start.clone(), 2 * start)
    ]
    assert settings[1] == settings[2] and len(set(settings)) == 3


def test_a_models_name_is_a_model(factlm, facts):
    by_name = tlk.locate_neurons("factlm", facts[:1], steps=2, progress=False)
    assert by_name.sets == tlk.locate_neurons(factlm, facts[0], steps=2, progress=False).sets


def test_agreement_groups_ask_for_the_noun_after_the_prefix(factlm):
    pairs = tlk.datasets.load_blimp(tlk.datasets.BLIMP_SAMPLE, paradigm="determiner_noun_agreement_1")
    groups = tlk.neurons.agreement_groups(factlm, pairs, by=tlk.neurons.determiner, limit=7)
    assert {group.name for group in groups} == {"this", "that", "these", "those"} and {len(group.prompts) for group in groups} == {7}
    assert all(prompt.labels[-1].strip() == group.name for group in groups for prompt in group.prompts)
    assert groups[0].prompts[0].text == "Raymond is selling this" and groups[0].prompts[0].target == " sketch"
    by_word = tlk.neurons.agreement_groups(factlm, pairs)
    assert by_word[0].name == "sketch" and sum(len(group.prompts) for group in by_word) == 100


def test_two_prefixes_ask_for_the_noun_after_the_good_determiner(factlm):
    pairs = tlk.datasets.load_blimp(tlk.datasets.BLIMP_SAMPLE, paradigm="determiner_noun_agreement_2")
    assert (pairs[0].prefix, pairs[0].prefix_bad, pairs[0].word_good, pairs[0].word_bad) == (
        "Some dog stunned this",
        "Some dog stunned these",
        "committee",
        "committee",
    )
    groups = tlk.neurons.agreement_groups(factlm, pairs, by=tlk.neurons.determiner)
    assert {group.name for group in groups} == {"this", "that", "these", "those"} and sum(len(group.prompts) for group in groups) == 100
    for group in groups:
        assert all(prompt.text.split()[-1] == group.name or group.name in prompt.text.split() for prompt in group.prompts)
        assert all(prompt.target.startswith(" ") for prompt in group.prompts)
    first = next(group for group in groups if group.name == "this").prompts[0]
    assert (first.text, first.target) == ("Some dog stunned this", " committee")


def test_punctuation_groups_cut_the_mark_off(factlm):
    groups = tlk.neurons.punctuation_groups(factlm, ["Is it here?", "It is.", "Look!", "no mark", "It was."], limit=1)
    assert [(group.name, len(group.prompts)) for group in groups] == [(".", 1), ("!", 1), ("?", 1)]
    assert groups[2].prompts[0].text == "Is it here" and groups[2].prompts[0].target == "?"


def test_with_context_states_other_facts_of_the_relation():
    towns = ("Rome", "Oslo", "Lima", "Bonn", "Cork")
    facts = [tlk.Fact(f"Person {i}", "{} lives in", f" {towns[i % 5]}", "home", ("{} has a house in",)) for i in range(20)]
    shown = tlk.datasets.with_context(facts, limit=3, seed=3)
    for fact, longer in zip(facts, shown, strict=True):
        assert longer.target == fact.target
        for template, with_others in zip((fact.template, *fact.paraphrases), (longer.template, *longer.paraphrases), strict=True):
            *others, own = longer.rephrase(with_others).text.split("\n")
            stated = {template.replace("{}", f.subject) + f.target + "." for f in facts if f.target != fact.target}
            assert own == fact.rephrase(template).text and set(others) <= stated
            assert len({other.rsplit(" ", 1)[1] for other in others}) == 3
    assert any(longer.template.split(" lives")[0] != longer.paraphrases[0].split(" has")[0] for longer in shown)  # drawn for each prompt
    assert tlk.datasets.with_context(facts, limit=3, seed=3) == shown
    with pytest.raises(DataError, match="has 4 different objects beside that of 'Person 0', fewer than 5"):
        tlk.datasets.with_context(facts, limit=5)


def test_context_gain_is_the_probability_with_and_without(factlm, facts):
    pool = tlk.load_facts()
    gain = tlk.neurons.measure_context_gain(factlm, facts, limit=2, pool=pool)
    shown = tlk.datasets.with_context(facts, limit=2, pool=pool)
    for column, wordings in (("alone", facts), ("in_context", shown)):
        prompt = tlk.Prompt.from_fact(factlm, wordings[4])
        with torch.no_grad():
            expected = float(factlm(prompt.tokens)[0, -1].softmax(-1)[prompt.target_token])
        assert gain.table[column][4] == pytest.approx(expected, rel=1e-4)
    summary = gain.summary().set_index("what")
    assert summary.loc["difference", "mean"] == pytest.approx(gain.table["in_context"].mean() - gain.table["alone"].mean())
    assert [trace.name for trace in gain.plot().data] == ["fact alone", "after other facts"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, f: tlk.locate_neurons(m, []), DataError, "no fact or group was given"),
        (lambda m, f: tlk.locate_neurons(m, [tlk.Fact("a", "{} is", " b")]), DataError, "has no paraphrases"),
        (lambda m, f: tlk.locate_neurons(m, f, shared_by=1.5), InputError, "no share of the prompts"),
        (lambda m, f: tlk.locate_neurons(m, f, mean_count=(5.0, 2.0)), InputError, "no range of counts"),
        (
            lambda m, f: tlk.neurons.agreement_groups(m, tlk.datasets.MinimalPair("Who left?", "Whom left?", "wh")),
            DataError,
            "none of 1 pair",
        ),
        (lambda m, f: tlk.neurons.determiner(tlk.datasets.MinimalPair("A dog runs.", "A dog run.", "x")), InputError, "has no demonstrative"),
        (lambda m, f: tlk.neurons.punctuation_groups(m, ["no mark"]), DataError, "no sentence ends in any of"),
        (lambda m, f: tlk.neurons.shared_neurons([], shared_by=0.5), DataError, "no neuron set was given"),
        (lambda m, f: tlk.neurons.PromptGroup("relation", "name", ()), DataError, "has no prompts"),
        (lambda m, f: tlk.neurons.compare_layers({}), DataError, "no set of located neurons was given"),
    ],
)
def test_bad_input(factlm, facts, call, error, message):
    with pytest.raises(error, match=message):
        call(factlm, facts)


def test_a_word_that_differs_is_masked(tmp_path_factory):
    bert = tlk.load_model(bert_directory(tmp_path_factory.mktemp("bert")), backend="bridge")
    prompt = masked_word(bert, "the dog saw this city .", "the dog saw these city .")
    assert prompt is not None and prompt.target == "this" and prompt.labels[prompt.last.last] == "[MASK]"
    assert masked_word(bert, "the dog .", "a dog saw .") is None and masked_word(bert, "the unseen dog .", "the dog dog .") is None
