"""Agreement reliability and per-token effects, against the same done by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import tl_knowledge as tlk
from tl_knowledge.errors import ComponentError, DataError, InputError, TargetError
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.significance import paired_t_p_values

PARADIGM = "determiner_noun_agreement_1"
PROVENANCE = Provenance("m", "b", {}, False, "float32", "cpu", 0, "hooks", {})


@pytest.fixture(scope="module")
def pairs():
    return tlk.datasets.load_blimp(tlk.datasets.BLIMP_SAMPLE, paradigm=PARADIGM, limit=30)


@pytest.fixture(scope="module")
def located(factlm, pairs):
    groups = tlk.neurons.agreement_groups(factlm, pairs, by=tlk.neurons.determiner, limit=5)
    return tlk.locate_neurons(factlm, groups, threshold=0.1, shared_by=0.5, steps=5, progress=False)


def sentence_log_probability(model, text, hooks) -> float:
    tokens = tlk.Prompt.from_text(model, text).tokens
    with torch.no_grad():
        each = model.run_with_hooks(tokens, fwd_hooks=hooks)[0].double().log_softmax(-1)
    return sum(float(each[i, tokens[0, i + 1]]) for i in range(tokens.shape[1] - 1))


def test_reliability_is_the_difference_of_whole_sentences(factlm, pairs, located):
    reliability = tlk.neurons.measure_reliability(factlm, pairs, located, by=tlk.neurons.determiner)
    rows = reliability.table.set_index("good")
    assert set(rows.index) == {pair.good for pair in pairs}
    for pair in pairs[:3]:
        neurons = located[tlk.neurons.determiner(pair)]
        for column, hooks in (("before", []), ("after", neurons.suppress()), ("control", neurons.random_control(0).suppress())):
            expected = sentence_log_probability(factlm, pair.good, hooks) - sentence_log_probability(factlm, pair.bad, hooks)
            assert rows.loc[pair.good, column] == pytest.approx(expected, abs=2e-4), column
    assert len({trace.name for trace in reliability.plot().data}) == 3


def test_the_summary_counts_decisions_and_tests_their_change():
    before, after = [1.0] * 9 + [-1.0], [1.0] * 2 + [-1.0] * 7 + [1.0]
    table = pd.DataFrame({"paradigm": "p", "name": "n", "good": "g", "neurons": 1, "before": before, "after": after, "control": before})
    row = tlk.neurons.Reliability(table, 0.0, tlk.neurons.LocationSettings(), PROVENANCE).summary().iloc[0]
    assert (row["before"], row["after"], row["control"], row["pairs"]) == (0.9, 0.3, 0.9, 10)
    assert row["change"] == pytest.approx(-0.6) and row["low"] < -0.6 < row["high"]
    assert row["p"] == pytest.approx(stats.binomtest(7, 8).pvalue)


def test_pairs_without_neurons_are_unchanged(factlm, pairs, located):
    empty = replace(located, sets=tuple(neurons - neurons for neurons in located.sets))
    table = tlk.neurons.measure_reliability(factlm, pairs[:4], empty, by=tlk.neurons.determiner).table
    assert list(table["before"]) == list(table["after"]) == list(table["control"]) and set(table["neurons"]) == {0}


NEURONS = [(2, 333), (7, 428), (7, 495)]
"""Those that move the next word of `prompts` most."""
WORDS = {"singular": ["dog", "car", "book"], "plural": ["dogs", "cars"], "neutral": ["the"]}


@pytest.fixture(scope="module")
def prompts(factlm):
    return [tlk.Prompt.from_text(factlm, f"{name} {verb} these") for name in ("Anna", "Peter", "Maria") for verb in ("saw", "liked", "has seen")]


def test_token_effects_by_hand(factlm, prompts):
    neurons = tlk.NeuronSet.of(factlm, NEURONS)
    effects = tlk.neurons.measure_token_effects(factlm, prompts, WORDS, neurons, factor=2.0)
    token = tlk.Prompt.from_text(factlm, "a", target=" cars").target_token

    def probabilities(hooks):
        with torch.no_grad():
            return np.array([float(factlm.run_with_hooks(p.tokens, fwd_hooks=hooks)[0, -1].double().softmax(-1)[token]) for p in prompts])

    before, after = probabilities([]), probabilities(neurons.enhance(2.0, positions=-1))
    row = effects.table.set_index("word").loc["cars"]
    assert (row["before"], row["after"]) == (pytest.approx(before.mean(), rel=1e-4), pytest.approx(after.mean(), rel=1e-4))
    assert row["effect"] == pytest.approx((after.mean() - before.mean()) / min(after.mean(), before.mean()), rel=1e-3)
    assert row["p"] == pytest.approx(float(stats.ttest_rel(after, before).pvalue), rel=1e-2)
    assert (effects.table["corrected"] >= effects.table["p"] - 1e-12).all() and effects.prompts == 9
    assert list(effects.summary()["words"]) == [3, 2, 1]


def test_results_are_saved_and_shown(factlm, pairs, located, prompts, tmp_path):
    effects = tlk.neurons.measure_token_effects(factlm, prompts, WORDS, tlk.NeuronSet.of(factlm, NEURONS))
    reliability = tlk.neurons.measure_reliability(factlm, pairs[:4], located, by=tlk.neurons.determiner)
    gain = tlk.neurons.measure_context_gain(factlm, tlk.load_facts(limit=3), limit=2, pool=tlk.load_facts())
    for result, fields in ((effects, ("neurons", "factor", "prompts")), (reliability, ("factor", "settings")), (gain, ("limit", "separator"))):
        again = type(result).load(result.save(tmp_path / type(result).__name__))
        assert again.table.equals(result.table) and again.provenance == result.provenance
        assert [getattr(again, name) for name in fields] == [getattr(result, name) for name in fields]
        assert repr(result) == f"<{type(result).__name__}: {result.headline()}>" and "factlm" in repr(result) and "<table" in result._repr_html_()


def test_significant_words_are_red():
    table = pd.DataFrame({"category": ["a", "a", "b"], "word": ["x", "y", "z"], "before": 0.1, "after": 0.2, "effect": [1.0, -0.5, 0.1]})
    table = table.assign(p=[0.001, 0.5, 0.04], corrected=[0.003, 0.5, 0.06])
    effects = tlk.neurons.TokenEffects(table, tlk.NeuronSet(frozenset({(0, 1)}), 2, 4), 0.0, 7, "ours", PROVENANCE)
    points = [trace for trace in effects.plot().data if trace.mode == "markers"]
    assert [list(p.text) for p in points] == [["y", "x"], ["z"]]  # ordered by effect
    assert [[color == "#c1121f" for color in p.marker.color] for p in points] == [[False, True], [False]]
    assert list(effects.top(2)["word"]) == ["x", "y"] and list(effects.summary()["significant"]) == [1, 0]
    theirs = replace(effects, variant="niu2024")  # which do not correct
    assert list(theirs.summary()["significant"]) == [1, 1] and "2 of 3 words" in theirs.headline()
    assert "unpaired, uncorrected" in theirs.plot().layout.meta["subtitle"]


def test_niu_et_als_test_is_unpaired(factlm, prompts):
    neurons = tlk.NeuronSet.of(factlm, NEURONS)
    ours = tlk.neurons.measure_token_effects(factlm, prompts, WORDS, neurons, factor=2.0)
    theirs = tlk.neurons.measure_token_effects(factlm, prompts, WORDS, neurons, factor=2.0, variant="niu2024")
    pd.testing.assert_frame_equal(ours.table[["word", "before", "after", "effect"]], theirs.table[["word", "before", "after", "effect"]])
    token = tlk.Prompt.from_text(factlm, "a", target=" cars").target_token
    with torch.no_grad():
        before, after = (
            [float(factlm.run_with_hooks(p.tokens, fwd_hooks=hooks)[0, -1].double().softmax(-1)[token]) for p in prompts]
            for hooks in ([], neurons.enhance(2.0, positions=-1))
        )
    assert theirs.table.set_index("word").loc["cars", "p"] == pytest.approx(float(stats.ttest_ind(before, after).pvalue), rel=1e-3)
    assert not np.allclose(theirs.table["p"], ours.table["p"])
    with pytest.raises(InputError, match="variant 'niu' is unknown"):
        tlk.neurons.measure_token_effects(factlm, prompts, WORDS, neurons, variant="niu")


def test_word_lists_have_each_noun_in_both_numbers(factlm):
    words = tlk.neurons.NUMBER_WORDS
    assert len(words["singular"]) == len(words["plural"]) == 34 and len(set(sum(words.values(), ()))) == sum(map(len, words.values()))
    assert all(one != many and one[0] == many[0] for one, many in zip(words["singular"], words["plural"], strict=True))
    assert len(tlk.neurons.single_token_words(factlm, words["plural"])) > 5


def test_paired_t_equals_scipy():
    draws = np.random.default_rng(0).normal(size=(2, 12, 3))
    draws[1, :, 2] = draws[0, :, 2]
    raw, corrected = paired_t_p_values(*draws)
    assert raw[:2] == pytest.approx(stats.ttest_rel(*draws[:, :, :2]).pvalue) and raw[2] == 1
    assert corrected == pytest.approx(stats.false_discovery_control(raw))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, p, s: tlk.neurons.measure_token_effects(m, p, {"x": ["antidisestablishment"]}, s), TargetError, "tokens in this model"),
        (lambda m, p, s: tlk.neurons.measure_token_effects(m, p[:1], WORDS, s), InputError, "at least 2 prompts"),
        (lambda m, p, s: tlk.neurons.measure_token_effects(m, p, {}, s), DataError, "no word was given"),
        (lambda m, p, s: tlk.neurons.measure_token_effects(m, [], WORDS, s), DataError, "no prompt was given; pass at least 2"),
        (lambda m, p, s: tlk.neurons.measure_token_effects(m, p, WORDS, s - s), ComponentError, "the set has no neuron"),
        (lambda m, p, s: tlk.neurons.neuron_view(m, p, s - s), ComponentError, "a set of 0 neurons"),
        (lambda m, p, s: tlk.neurons.neuron_view(m, [], s), DataError, "no prompt was given"),
    ],
)
def test_bad_input(factlm, prompts, call, error, message):
    with pytest.raises(error, match=message):
        call(factlm, prompts, tlk.NeuronSet.of(factlm, NEURONS))


def test_a_pair_of_another_group_is_refused(factlm, located):
    other = tlk.datasets.MinimalPair("Anna saw this dog.", "Anna saw this dogs.", "another_paradigm")
    with pytest.raises(DataError, match="which was not located"):
        tlk.neurons.measure_reliability(factlm, [other], located, by=tlk.neurons.determiner)


def test_a_token_cannot_break_out_of_the_view(factlm, tmp_path):
    prompt = tlk.Prompt.from_tokens([1, 2], labels=["</script><b>", "x"])
    view = tlk.neurons.neuron_view(factlm, prompt, tlk.NeuronSet.of(factlm, [(0, 3), (5, 1)]))
    head, _, tail = view.source.rpartition("CircuitsVis.render(")
    assert tail.count("</script>") == 1 and "\\u003c/script\\u003e\\u003cb\\u003e" in tail and "https://unpkg" not in view.source
    assert head.endswith('"></div><script>') and '<div id="circuits-vis-' in head
    page = view.save(tmp_path / "view.html").read_text()
    assert "2 neurons, 1 prompt; factlm" in page and view._repr_html_().endswith("</div>")
