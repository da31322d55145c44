"""AlphaEdit, objectives, neuron edits and the rest of the family against the obvious programs, on every architecture in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support import build, fingerprint, hooks_left, tokenizer_of_sixty_words
from support.edits import random_edit, slow_value
from support.models import HARD_BUILDERS

import tl_knowledge as tlk
from tl_knowledge.editing.methods.alphaedit import free_directions
from tl_knowledge.editing.optimise.contexts import context_templates
from tl_knowledge.editing.optimise.fact_rows import at_positions, rows_of
from tl_knowledge.editing.optimise.values import optimise_values
from tl_knowledge.errors import ModelStateError, NumericalError, UnsupportedModelError
from tl_knowledge.models.hook_names import block_output, component_hook
from tl_knowledge.models.protocol import embedding_matrix
from tl_knowledge.models.weights import output_hook, output_weights

FACTS = [tlk.Fact("w3 w9", "w1 {} w4 w8", " w7 w11"), tlk.Fact("w5", "w1 {} w4 w8", " w7"), tlk.Fact("w30 w31", "w2 {} w8", " w9")]
SHORT = ((3, 2),)
VALUE = tlk.editing.ValueSettings(steps=4, clamp=0.75)
NOISE = tlk.GaussianNoise(sd=0.5, seed=3)


def keys_and_changes(model, facts, layer):
    """Keys (the bare prompt weighs half) and optimised changes of facts, read off plain runs."""
    keys, changes, site = [], [], component_hook("neuron", layer)
    for fact in facts:
        rows = rows_of(model, fact, context_templates(model, SHORT), "subject")
        _, cache = model.run_with_cache(rows.tokens, names_filter=[site])
        each = at_positions(cache[site].detach(), rows.edited)[:-1]
        keys.append((each[0] + each[1:].mean(0)) / 2)
        changes.append(optimise_values(model, [rows], layer, block_output(layer), VALUE)[0].delta)
    return torch.stack(keys), torch.stack(changes)


def middle(moments, layer):
    """A bound that leaves half of the directions free."""
    return float(torch.linalg.eigvalsh(moments.moments[layer]).median())


def test_alphaedit_is_the_projected_solution_and_spares_other_text(speaking, moments):
    method = tlk.AlphaEdit(layers=(1,), null_below=middle(moments, 1), ridge=0.5, contexts=SHORT, value=VALUE)
    edit = tlk.plan_edit(speaking, FACTS, method, moments=moments)
    keys, changes = keys_and_changes(speaking, FACTS, 1)
    values, vectors = torch.linalg.eigh(moments.moments[1])
    free = values < method.null_below
    projection = vectors[:, free] @ vectors[:, free].T
    system = projection @ keys.T @ keys + 0.5 * torch.eye(24, dtype=torch.float64)
    torch.testing.assert_close(edit.factors[1].dense, torch.linalg.solve(system, projection @ keys.T @ changes), rtol=1e-5, atol=1e-7)
    kept = torch.randn(5, int((~free).sum()), dtype=torch.float64) @ vectors[:, ~free].T  # keys of the preserved directions
    assert float((kept @ edit.factors[1].dense).abs().max()) < 1e-9 * float(edit.factors[1].dense.abs().max())


def test_alphaedit_spares_the_edits_that_are_written(speaking, moments):
    """The history's keys enter the system, whatever method wrote them, and leave it with their edit."""
    method = tlk.AlphaEdit(layers=(1,), null_below=middle(moments, 1), ridge=0.5, contexts=SHORT, value=VALUE)
    first = tlk.plan_edit(speaking, FACTS[:1], method, moments=moments)
    alone = tlk.plan_edit(speaking, FACTS[1:], method, moments=moments)
    with first.applied(speaking):
        second = tlk.plan_edit(speaking, FACTS[1:], method, moments=moments)
        keys, changes = keys_and_changes(speaking, FACTS[1:], 1)
    basis = free_directions(moments, 1, method.null_below)
    both = torch.cat([keys, first.keys[1]])
    projection = basis @ basis.T
    system = projection @ both.T @ both + 0.5 * torch.eye(24, dtype=torch.float64)
    torch.testing.assert_close(second.factors[1].dense, torch.linalg.solve(system, projection @ keys.T @ changes), rtol=1e-5, atol=1e-7)
    again = tlk.plan_edit(speaking, FACTS[1:], method, moments=moments)
    assert torch.equal(again.factors[1].dense, alone.factors[1].dense)
    with pytest.raises(NumericalError, match="raise null_below"):
        tlk.plan_edit(speaking, FACTS, tlk.AlphaEdit(layers=(1,), null_below=1e-30), moments=moments)


@pytest.mark.parametrize("objective", [tlk.editing.Objective(erase=True), tlk.editing.Objective(noise=NOISE)], ids=["erase", "force"])
def test_objectives_equal_whole_forwards(speaking, objective):
    rows = rows_of(speaking, FACTS[0], ("{}", "w5 w6 {}", "w2 w2 w40 {}"), "subject", objective)
    value = optimise_values(speaking, [rows], 1, output_hook(speaking, 1), VALUE)[0]
    delta, losses = slow_value(speaking, rows, 1, VALUE)
    assert value.losses == pytest.approx(losses, rel=1e-8)
    torch.testing.assert_close(value.delta, delta, rtol=1e-7, atol=1e-9)


def test_knowledge_neuron_edit_writes_embeddings_on_rows(speaking):
    fact = FACTS[0].retarget(" w30")
    edit = tlk.plan_edit(speaking, fact, tlk.localised.KnowledgeNeuronEdit(steps=4))
    neurons = edit.notes[0]["neurons"]
    scores = tlk.attribute_neurons(speaking, tlk.Prompt.from_fact(speaking, FACTS[0].retarget(" w7")), steps=4)
    assert neurons == sorted(tlk.select_neurons(scores, threshold=0.2, shared_by=0.5))
    embeddings = embedding_matrix(speaking)
    for layer in edit.layers:
        rows = [neuron for own, neuron in neurons if own == layer]
        expected = torch.zeros(24, 16, dtype=torch.float64)
        expected[rows] = 8 * embeddings[30] - embeddings[7]
        torch.testing.assert_close(edit.factors[layer].dense, expected)
    dai = tlk.plan_edit(speaking, fact, tlk.localised.KnowledgeNeuronEdit(steps=4, variant="dai2022"))
    layer, neuron = neurons[0]
    length = output_weights(speaking, layer)[neuron].detach().norm()
    expected = length * (8 * embeddings[30] / embeddings[30].norm() - embeddings[7] / embeddings[7].norm())
    torch.testing.assert_close(dai.factors[layer].dense[neuron], expected)
    strict = tlk.plan_edit(speaking, fact, tlk.localised.KnowledgeNeuronEdit(steps=4, variant="wen_bai"))
    assert strict.notes[0]["neurons"] == sorted(tlk.select_neurons(scores, threshold=0.3, shared_by=0.5))
    program = tlk.plan_edit(speaking, fact, tlk.localised.KnowledgeNeuronEdit(steps=4, variant="eleutherai2022"))
    (layer, neuron), said = program.notes[0]["neurons"][0], int(speaking(tlk.Prompt.from_fact(speaking, fact).tokens)[0, -1].argmax())
    assert program.notes[0]["old_token"] == said != 7
    torch.testing.assert_close(program.factors[layer].dense[neuron], 2 * embeddings[30] - 2 * embeddings[said])
    erased = tlk.plan_edit(speaking, fact, tlk.localised.KnowledgeNeuronEdit(steps=4, erase=True))
    with erased.applied(speaking):
        assert all(float(output_weights(speaking, layer)[neuron].abs().max()) < 1e-12 for layer, neuron in neurons)


def test_cne_moves_the_causal_state_by_the_objects(speaking):
    fact = FACTS[0].retarget(" w30")
    edit = tlk.plan_edit(speaking, fact, tlk.localised.CausalNeuronEdit(samples=2, noise=0.5))
    layer, pos = edit.notes[0]["layer"], edit.notes[0]["pos"]
    prompt = tlk.Prompt.from_fact(speaking, fact)
    traced = tlk.trace(speaking, prompt, 0.5, component="mlp_out", window=1, target=7, samples=2, seed=0)
    assert traced.causal_state == (pos, layer)
    wide = tlk.plan_edit(speaking, fact, tlk.localised.CausalNeuronEdit(variant="wen_bai", samples=2, noise=0.5)).notes[0]
    traced = tlk.trace(speaking, prompt, 0.5, component="mlp_out", window=4, target=7, samples=2, seed=0)  # 10 layers, of 4
    assert traced.causal_state == (wide["pos"], wide["layer"])
    site = output_hook(speaking, layer)
    _, before = speaking.run_with_cache(prompt.tokens, names_filter=[site])
    with edit.applied(speaking):
        _, after = speaking.run_with_cache(prompt.tokens, names_filter=[site])
    embeddings = embedding_matrix(speaking)
    torch.testing.assert_close((after[site] - before[site])[0, pos].detach(), 8 * embeddings[30] - embeddings[7], rtol=1e-6, atol=1e-7)


def test_cne_moves_several_causal_states_at_once(speaking):
    """The states of the largest effects by a sort of their own; every one of their keys moves by the objects' shift, and the first is k=1's."""
    fact, prompt = FACTS[0].retarget(" w30"), tlk.Prompt.from_fact(speaking, FACTS[0])
    method = tlk.localised.CausalNeuronEdit(samples=2, noise=0.5, k=5)
    edit = tlk.plan_edit(speaking, fact, method)
    traced = tlk.trace(speaking, prompt, 0.5, component="mlp_out", window=1, target=7, samples=2, seed=0)
    effects = {(pos, layer): float(traced.mean_effect[layer, pos]) for pos in range(len(prompt)) for layer in range(4)}
    best = sorted((site for site in effects if effects[site] == effects[site]), key=lambda site: -effects[site])[:5]
    assert sorted((each["pos"], each["layer"]) for each in edit.notes[0]["states"]) == sorted(best)
    one = tlk.plan_edit(speaking, fact, replace(method, k=1)).notes[0]
    assert edit.notes[0]["states"][0] == one["states"][0] and len(one["states"]) == 1
    embeddings, sites = embedding_matrix(speaking), [component_hook("neuron", layer) for layer in range(4)]
    _, cache = speaking.run_with_cache(prompt.tokens, names_filter=sites)
    for pos, layer in best:
        moved = cache[component_hook("neuron", layer)][0, pos].detach() @ edit.factors[layer].dense
        torch.testing.assert_close(moved, 8 * embeddings[30] - embeddings[7], rtol=1e-6, atol=1e-8)


HUGGING_FACE = ["bridge-gpt2", "bridge-llama", "bridge-gptneox", "bridge-gptj", "bridge-gemma2"]


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_an_edit_goes_into_the_hugging_face_model(name, prompt):
    model = build(name)
    wrapped = model.original_model  # whose modules the bridge has wrapped: a plain model is made of the same weights
    plain = type(wrapped)(wrapped.config).double().eval()
    state = {key.replace("._original_component", ""): value for key, value in wrapped.state_dict().items()}
    missing = plain.load_state_dict(state, strict=False).missing_keys
    assert missing in ([], ["lm_head.weight"])
    edit = random_edit(model, (0, 2), 1)
    torch.testing.assert_close(plain(prompt.tokens).logits, model(prompt.tokens), rtol=1e-5, atol=1e-6)
    edit.to_hf(plain)
    with edit.applied(model):
        torch.testing.assert_close(plain(prompt.tokens).logits, model(prompt.tokens), rtol=1e-5, atol=1e-6)
    before = [parameter.detach().clone() for parameter in plain.parameters()]
    with pytest.raises(UnsupportedModelError, match="layer 9 of"):
        replace(edit, factors={0: edit.factors[0], 9: edit.factors[2]}).to_hf(plain)
    assert all(map(torch.equal, plain.parameters(), before))
    weights = fingerprint(model)
    for held in (model, wrapped):
        with pytest.raises(UnsupportedModelError, match=r"that a TransformerLens model computes with .*edit\.write_into\(model\), or pass to_hf"):
            edit.to_hf(held)
    assert fingerprint(model) == weights


def test_health_measures_the_change_and_the_text(speaking, moments, texts):
    edit = tlk.plan_edit(speaking, FACTS[1], tlk.ROME(layer=1, contexts=SHORT, value=VALUE), moments=moments)
    health = edit.health(speaking, texts, limit=10)
    assert (health.matrices[0].layer, health.matrices[0].rank) == (1, 1)
    assert health.matrices[0].relative_norm == pytest.approx(float(edit.factors[1].dense.norm() / output_weights(speaking, 1).detach().norm()))
    for hooks, value in (([], health.perplexity_before), (edit.hooks(), health.perplexity_after)):
        total, count = 0.0, 0
        for text in texts[:10]:
            tokens = torch.tensor([[int(word[1:]) for word in text.split()]])
            log_p = speaking.run_with_hooks(tokens, fwd_hooks=hooks)[0].log_softmax(-1)
            total -= float(log_p[:-1].gather(-1, tokens[0, 1:, None]).sum())
            count += tokens.shape[1] - 1
        assert value == pytest.approx(math.exp(total / count), rel=1e-5)
    assert math.isnan(edit.health(speaking).perplexity_before) and not edit.health(speaking).disabling
    assert ("DISABLING" in str(health)) == health.disabling == (health.perplexity_ratio >= 2)
    assert health.clamped == (("w5",) if edit.notes[0]["clamped"] else ())
    edit.write_into(speaking)
    with pytest.raises(ModelStateError, match=r"revert\(model\) first"):
        edit.health(speaking)
    edit.revert(speaking)


def test_a_loss_that_is_not_finite_stops_the_plan(speaking, moments):
    before = fingerprint(speaking)
    poison = [("blocks.3.hook_mlp_out", lambda x, *, hook: x * float("nan"))]
    for method in (tlk.ROME(layer=1, contexts=SHORT), tlk.MEMIT(layers=(1,), contexts=SHORT), tlk.FineTune(layer=1)):
        tlk.plan_edit(speaking, FACTS[1], method, moments=moments)  # the contexts are drawn before the poison
        with speaking.hooks(fwd_hooks=poison), pytest.raises(NumericalError, match="the loss is nan at step 0"):
            tlk.plan_edit(speaking, FACTS[1], method, moments=moments)
    assert fingerprint(speaking) == before and hooks_left(speaking) == []


class Killed(Exception):  # noqa: N818
    pass


def test_moments_are_cached_and_a_killed_pass_goes_on(speaking, texts, tmp_path, monkeypatch):
    from tl_knowledge.editing import collect

    monkeypatch.setattr(collect, "TEXTS_AT_ONCE", 4)
    monkeypatch.setattr(collect, "BATCHES_A_CHECKPOINT", 2)
    whole = tlk.collect_key_moments(speaking, texts, layers=[0, 2], tokens=400, progress=False)
    run, calls = collect.activations_of, []

    def kill(*args, **kwargs):
        calls.append(1)
        if len(calls) == 6:
            raise Killed
        return run(*args, **kwargs)

    monkeypatch.setattr(collect, "activations_of", kill)
    with pytest.raises(Killed):
        tlk.collect_key_moments(speaking, texts, layers=[0, 2], tokens=400, store=tmp_path, progress=False)
    done, calls[:] = 4, [1] * 100  # five batches ran, four were kept
    resumed = tlk.collect_key_moments(speaking, texts, layers=[0, 2], tokens=400, store=tmp_path, progress=False)
    from_cache, extra = len(calls), tlk.collect_key_moments(speaking, iter(texts), layers=[2], tokens=400, store=tmp_path, progress=False)
    assert len(calls) == from_cache and from_cache - 100 == math.ceil(len([*_rows(speaking, texts, 400)]) / 4) - done
    for layer in (0, 2):
        assert torch.equal(resumed.moments[layer], whole.moments[layer]) and resumed.change[layer] == whole.change[layer]
    assert torch.equal(extra.moments[2], whole.moments[2]) and (extra.tokens, extra.corpus) == (whole.tokens, whole.corpus)
    other = tlk.collect_key_moments(speaking, texts[1:], layers=[2], tokens=400, store=tmp_path, progress=False)
    assert len(calls) > from_cache and not torch.equal(other.moments[2], whole.moments[2])


def _rows(model, texts, tokens):
    from tl_knowledge.runs.corpus_tokens import token_rows

    return token_rows(model, texts, tokens)


def test_neurons_of_a_relu_that_never_fire_stop_no_edit():
    """Whether or not they are in the moments; those that only a fact makes fire are named."""
    model = HARD_BUILDERS["bridge-opt"]()
    model.tokenizer = tokenizer_of_sixty_words()
    texts = [f"w{i} w{(7 * i) % 60} w{(11 * i + 3) % 60} w{(13 * i + 5) % 60} w{(i * i) % 60}" for i in range(60)]
    moments = tlk.collect_key_moments(model, texts, layers=(0, 1, 2), progress=False)
    few = tlk.collect_key_moments(model, ["w1 w2 w3 w4 w5 w6"], layers=(0, 1, 2), progress=False)
    silent = {layer: moment.diagonal() == 0 for layer, moment in moments.moments.items()}
    for method in (tlk.MEMIT.small(), tlk.editing.PMET.small()):
        edit = tlk.plan_edit(model, FACTS[0], method, moments=moments)
        for layer in edit.layers:
            assert not edit.factors[layer].dense[silent[layer]].any() and edit.factors[layer].dense.any()
        with pytest.raises(NumericalError, match=r"neuron \d+ of layer \d fires for a fact, but for none of the moments' 6 tokens"):
            tlk.plan_edit(model, FACTS[0], method, moments=few)
