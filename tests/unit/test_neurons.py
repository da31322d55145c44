"""Neuron sets and their selection."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from support import build

import tl_knowledge as tlk
from tl_knowledge.errors import ComponentError, DataError, InputError
from tl_knowledge.neurons import NeuronSet  # imported here, because hypothesis times the first call
from tl_knowledge.results.provenance import Provenance

PAIRS = st.frozensets(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=12)


def neurons(pairs) -> NeuronSet:
    return NeuronSet(frozenset(pairs), 4, 10)


def attribution(scores) -> tlk.neurons.NeuronAttribution:
    settings, provenance = tlk.neurons.AttributionSettings(), Provenance("m", "b", {}, False, "float32", "cpu", 0, "rows")
    values = torch.tensor(scores)
    count = values.shape[0]
    texts = (("p",) * count, ("t",) * count)
    return tlk.neurons.NeuronAttribution(values, torch.zeros(count, 2), torch.ones(count), (1, 3), 4, *texts, settings, provenance)


@given(PAIRS, PAIRS)
def test_set_algebra_is_that_of_sets(first, second):
    a, b = neurons(first), neurons(second)
    assert (a | b).neurons == first | second and (a & b).neurons == first & second
    assert (a - b).neurons == first - second and (a ^ b).neurons == first ^ second
    assert len(a) == len(first) and list(a) == sorted(first) and all(pair in a for pair in first)
    assert sum(a.layer_histogram()) == len(first)
    if first | second:
        assert a.jaccard(b) == len(first & second) / len(first | second)


@given(PAIRS, st.integers(0, 3))
def test_the_random_control_has_the_same_layers_and_other_neurons(pairs, seed):
    some = neurons(pairs)
    if max(some.layer_histogram()) > 5:
        with pytest.raises(ComponentError, match="fewer than the"):
            some.random_control(seed)
        return
    control = some.random_control(seed)
    assert control.layer_histogram() == some.layer_histogram() and not control.neurons & some.neurons
    assert control == some.random_control(seed)


@given(PAIRS, st.sets(st.integers(0, 3)))
def test_of_layers_keeps_the_layers(pairs, layers):
    assert neurons(pairs).of_layers(layers).neurons == {(layer, number) for layer, number in pairs if layer in layers}


def test_hooks_scale_what_they_say(model, prompt):
    some = NeuronSet.of(model, [(0, 3), (2, 5), (2, 7)])
    names = ["blocks.0.mlp.hook_post", "blocks.2.mlp.hook_post"]
    seen: dict[str, torch.Tensor] = {}

    def record(name):
        return (name, lambda x, *, hook: seen.__setitem__(name, x.detach().clone()))

    def run(hooks):
        model.run_with_hooks(prompt.batch(2), fwd_hooks=hooks + [record(name) for name in names])
        return dict(seen)

    plain = run([])
    everywhere, last = run(some.suppress()), run(some.enhance(3.0, positions=-1))
    assert float(everywhere[names[0]][:, :, 3].abs().max()) == 0 and float(everywhere[names[1]][..., [5, 7]].abs().max()) == 0
    torch.testing.assert_close(last[names[0]][:, -1, 3], 3 * plain[names[0]][:, -1, 3])
    torch.testing.assert_close(last[names[0]][:, :-1], plain[names[0]][:, :-1], rtol=0, atol=0)
    torch.testing.assert_close(everywhere[names[0]][..., :3], plain[names[0]][..., :3], rtol=0, atol=0)


def test_coarse_sets_by_each_kind_of_threshold():
    scores = attribution([[[0.0, 1.0, 10.0], [2.0, 1.9, -5.0]]])
    assert tlk.neurons.coarse_neurons(scores, threshold=0.2)[0].neurons == {(1, 2), (3, 0)}
    assert tlk.neurons.coarse_neurons(scores, threshold=1.5, kind="absolute")[0].neurons == {(1, 2), (3, 0), (3, 1)}
    assert tlk.neurons.coarse_neurons(scores, threshold=1.0, kind="quantile")[0].neurons == {(1, 2)}


def test_a_prompt_without_a_positive_score_has_no_neurons():
    assert len(tlk.neurons.coarse_neurons(attribution([[[-1.0], [0.0]]]))[0]) == 0


def test_refinement_keeps_what_more_than_a_share_have():
    rows = [[[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]] * 2]
    scores = attribution(rows)  # (1, 0) and (1, 1) in three of four; (3, 0) in two; (3, 1) in one
    assert tlk.select_neurons(scores, shared_by=0.7).neurons == {(1, 0), (1, 1)}
    assert tlk.select_neurons(scores, shared_by=0.75).neurons == frozenset()  # "more than"
    assert tlk.select_neurons(scores, shared_by=0.4).neurons == {(1, 0), (1, 1), (3, 0)}
    assert tlk.select_neurons(attribution(rows[:1] * 3), shared_by=1.0).neurons == {(1, 0), (1, 1)}


def test_dai_et_als_rule_takes_at_least_the_share_and_at_least_three():
    sets = [neurons({(0, k) for k in range(10) if i < k}) for i in range(6)]  # neuron k is in k sets, 6 at most
    share = tlk.neurons.shared_neurons
    assert {k for _, k in share(sets, shared_by=0.5)} == {4, 5, 6, 7, 8, 9}  # more than 3
    assert {k for _, k in share(sets, shared_by=0.5, variant="dai2022")} == {3, 4, 5, 6, 7, 8, 9}
    assert share(sets, shared_by=0.1, variant="dai2022") == share(sets, shared_by=0.5, variant="dai2022")


def test_one_prompt_is_not_refined_by_any_rule():
    for variant in ("ours", "dai2022", "niu2024"):
        one = replace(attribution([[[1.0, 0.1, 0.5], [0.0, 0.0, 0.0]]]), settings=tlk.neurons.AttributionSettings(variant=variant))
        assert tlk.select_neurons(one, shared_by=0.7).neurons == {(1, 0), (1, 2)}
        two = replace(attribution([[[1.0, 0.1, 0.5], [0.0, 0.0, 0.0]]] * 2), settings=one.settings)
        assert len(tlk.select_neurons(two, shared_by=0.7)) == (0 if variant == "dai2022" else 2)  # in three sets or more


def test_the_share_is_a_decimal_and_not_what_floating_point_makes_of_it():
    sets = [neurons({(0, 1)} if i < 29 else set()) for i in range(100)]  # 0.29 * 100 is 28.999999999999996
    assert len(tlk.neurons.shared_neurons(sets, shared_by=0.29)) == 0
    assert len(tlk.neurons.shared_neurons(sets, shared_by=0.29, variant="niu2024")) == 1


def test_some_programs_take_scores_above_the_threshold_only():
    scores = attribution([[[1.0, 0.5, 0.25], [0.0, 0.0, 0.0]]])
    assert tlk.neurons.coarse_neurons(scores, threshold=0.5)[0].neurons == {(1, 0), (1, 1)}
    theirs = replace(scores, settings=tlk.neurons.AttributionSettings(variant="eleutherai2022"))
    assert tlk.neurons.coarse_neurons(theirs, threshold=0.5)[0].neurons == {(1, 0)}
    assert tlk.select_neurons(theirs, threshold=0.5).neurons == {(1, 0)}


def test_sharing_adapts_until_the_mean_count_fits():
    many = attribution([[[1.0] * 10, [1.0] * 10] if i % 2 else [[1.0] * 4 + [0.0] * 6, [0.0] * 10] for i in range(10)])
    sets, share = tlk.neurons.adapt_sharing([many, many], shared_by=0.3, mean_count=(2.0, 5.0))
    assert share == 0.5 and [len(group) for group in sets] == [4, 4]
    sets, share = tlk.neurons.adapt_sharing([many], shared_by=0.9, mean_count=(10.0, 30.0))
    assert share == pytest.approx(0.45) and len(sets[0]) == 20


def test_on_factlm_suppressing_a_facts_neurons_hurts_it_more_than_a_control(factlm):
    fact = tlk.load_facts()[40]
    prompts = [tlk.Prompt.from_fact(factlm, fact.rephrase(t)) for t in (fact.template, *fact.paraphrases)]
    own = tlk.select_neurons(tlk.attribute_neurons(factlm, prompts, progress=False), threshold=0.2, shared_by=0.5)
    prompt = prompts[0]

    def probability(hooks) -> float:
        with torch.no_grad():
            logits = factlm.run_with_hooks(prompt.tokens, fwd_hooks=hooks)
        return float(logits[0, -1].softmax(-1)[prompt.target_token])

    clean = probability([])
    controls = [clean - probability(own.random_control(seed).suppress(positions=-1)) for seed in range(5)]
    assert clean - probability(own.suppress(positions=-1)) > max(controls)


def test_a_layer_that_is_not_there():
    with pytest.raises(ComponentError, match="layer 4 is outside the model's 4 layers"):
        neurons({(0, 3)}).of_layers([0, 4])


def test_save_and_load(tmp_path):
    some = neurons({(0, 3), (3, 9)})
    assert NeuronSet.load(some.save(tmp_path / "set")) == some
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(DataError, match=r"written by NeuronSet\.save"):
        NeuronSet.load(tmp_path / "bad.json")
    assert list(some.to_dataframe()["neuron"]) == [3, 9]
    assert list(some.plot().data[0].x) == [1, 0, 0, 1]


def test_a_set_shows_itself_as_results_do():
    some = neurons({(0, 3), (3, 9), (3, 2)})
    assert repr(some) == "<NeuronSet: 3 neurons of 4 layers x 10>"
    assert some.summary().to_dict(orient="records") == [{"layer": 0, "neurons": 1, "numbers": "3"}, {"layer": 3, "neurons": 2, "numbers": "2, 9"}]
    assert "<table" in some._repr_html_() and list(neurons(()).summary().columns) == ["layer", "neurons", "numbers"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: neurons({(4, 0)}), ComponentError, "neuron 0 of layer 4 is outside"),
        (lambda: neurons(()).suppress(), ComponentError, "the set has no neuron"),
        (lambda: neurons({(0, 1)}).enhance(float("nan")), ComponentError, "factor nan is not finite"),
        (lambda: neurons({(0, 1)}) | NeuronSet(frozenset(), 5, 10), ComponentError, "do not combine"),
        (lambda: tlk.select_neurons(attribution([[[1.0], [0.0]]]), threshold=1.5), InputError, "threshold=1.5 does not fit"),
        (lambda: tlk.select_neurons(attribution([[[1.0], [0.0]]]), threshold=0.0), InputError, "threshold=0.0 does not fit"),
        (lambda: tlk.select_neurons(attribution([[[1.0], [0.0]]]), shared_by=0.0), InputError, "no share of the prompts"),
        (lambda: tlk.neurons.adapt_sharing([]), DataError, "no attribution was given; pass one for each fact"),
        (lambda: tlk.neurons.AttributionSettings(variant="dai"), InputError, "variant 'dai' is unknown, did you mean 'dai2022'"),
        (lambda: tlk.neurons.LocationSettings(adapt="groups"), InputError, "adapt 'groups' is unknown, did you mean 'group'"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_neuron_outside_the_activation_is_refused_when_run(prompt):
    with pytest.raises(ComponentError, match="not all inside the layer's 24"):
        build("bridge-gpt2").run_with_hooks(prompt.tokens, fwd_hooks=tlk.scale_neurons([(0, 24)], 0.0))
