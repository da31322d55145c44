"""One contract for every editing method, on every architecture: the model is left alone, and an edit is the same however it is used."""

from __future__ import annotations

import json

import pytest
import torch
from support import fingerprint, hooks_left

import tl_knowledge as tlk
from tl_knowledge.models.weights import output_weights

SHORT = ((3, 2),)
VALUE = tlk.editing.ValueSettings(steps=4)
METHODS = {
    "ROME": tlk.ROME(layer=1, contexts=SHORT, value=VALUE),
    "ROME, relation": tlk.ROME(layer=2, at="relation", contexts=SHORT, value=VALUE),
    "ROME, erase": tlk.ROME(layer=1, contexts=SHORT, value=VALUE, objective=tlk.editing.Objective(erase=True)),
    "ROME, force": tlk.ROME(layer=1, contexts=SHORT, value=VALUE, objective=tlk.editing.Objective(noise=tlk.GaussianNoise(sd=0.5, seed=0))),
    "MEMIT": tlk.MEMIT(layers=(0, 2), moment_weight=2.0, contexts=SHORT, value=VALUE),
    "EMMET": tlk.EMMET(layer=1, contexts=SHORT, value=VALUE),
    "AlphaEdit": tlk.AlphaEdit(layers=(0, 2), null_below=100.0, ridge=0.5, contexts=SHORT, value=VALUE),
    "FT": tlk.FineTune(layer=1, steps=3, learning_rate=1e-2),
    "FT+L": tlk.editing.FineTuneConstrained(layer=1, steps=3, learning_rate=1e-2, most_change=5e-3),
    "KN": tlk.localised.KnowledgeNeuronEdit(steps=4, threshold=0.1, shared_by=0.1),
    "KN, Dai": tlk.localised.KnowledgeNeuronEdit(steps=4, threshold=0.1, shared_by=0.1, variant="dai2022"),
    "CNE": tlk.localised.CausalNeuronEdit(samples=2, noise=0.5),
}
OPTIMISING = {"ROME", "EMMET", "FT", "FT+L"}
FACT = tlk.Fact("w3 w9", "w1 {} w4 w8", " w7 w11", paraphrases=("w2 {} w4",)).retarget(" w9 w2")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_the_contract(speaking, moments, name, tmp_path):
    method, before = METHODS[name], fingerprint(speaking)
    weights = [output_weights(speaking, layer).detach().clone() for layer in range(4)]
    assert isinstance(method, tlk.editing.EditMethod)
    edit = tlk.plan_edit(speaking, FACT, method, moments=moments)
    assert fingerprint(speaking) == before and hooks_left(speaking) == []
    assert all(bool(edit.factors[layer].dense.isfinite().all()) for layer in edit.layers)

    prompt = tlk.Prompt.from_fact(speaking, FACT)
    plain, hooked = speaking(prompt.tokens), speaking.run_with_hooks(prompt.tokens, fwd_hooks=edit.hooks())
    with edit.applied(speaking):
        applied = speaking(prompt.tokens)
    edit.write_into(speaking)
    written = speaking(prompt.tokens)
    edit.revert(speaking)
    assert torch.equal(applied, written) and torch.equal(speaking(prompt.tokens), plain)
    torch.testing.assert_close(hooked, written, rtol=1e-7, atol=1e-8)
    assert float((written - plain).detach().abs().max()) > 1e-6
    assert all(torch.equal(output_weights(speaking, layer), weights[layer]) for layer in range(4))
    if name in OPTIMISING:
        likelier = (written - plain).double()[0, -1] - (written.logsumexp(-1) - plain.logsumexp(-1))[0, -1]
        assert float(likelier[prompt.target_token]) > 0

    with torch.no_grad():  # notebooks often switch gradients off at their top
        again = tlk.plan_edit(speaking, FACT, method, moments=moments)
    loaded = tlk.Edit.load(edit.save(tmp_path / "edit"))
    for layer in edit.layers:  # the same draws give the same edit, and a file gives it back
        assert torch.equal(again.factors[layer].dense, edit.factors[layer].dense)
        assert torch.equal(loaded.factors[layer].dense, edit.factors[layer].dense)
        assert layer not in edit.keys or torch.equal(loaded.keys[layer], edit.keys[layer])
    assert json.loads(json.dumps(edit.provenance.to_dict()))["settings"]["fingerprint"]
    assert loaded.provenance.settings["method"] == type(method).__name__
    loaded.write_into(speaking)
    assert torch.equal(speaking(prompt.tokens), written)
    loaded.revert(speaking)
    assert fingerprint(speaking) == before


@pytest.mark.parametrize("name", ["ROME", "MEMIT"])
def test_generation_with_a_cache_is_the_same_each_way(speaking, moments, name):
    edit = tlk.plan_edit(speaking, FACT, METHODS[name], moments=moments)
    tokens = tlk.Prompt.from_fact(speaking, FACT).tokens
    settings = {"max_new_tokens": 6, "do_sample": False, "stop_at_eos": False, "return_type": "tokens", "verbose": False}

    def generated() -> torch.Tensor:
        return speaking.generate(tokens, use_past_kv_cache=True, **settings)

    with speaking.hooks(fwd_hooks=edit.hooks()):
        hooked = generated()
    with edit.applied(speaking):
        applied = generated()
        slow = tokens
        for _ in range(6):
            slow = torch.cat([slow, speaking(slow)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(hooked, applied) and torch.equal(applied, slow)


@pytest.mark.parametrize("name", ["FT", "MEMIT", "EMMET", "AlphaEdit", "KN", "CNE"])
def test_several_facts_go_into_one_edit(speaking, moments, name):
    facts = [FACT, tlk.Fact("w5", "w1 {} w4 w8", " w7").retarget(" w30")]
    before = fingerprint(speaking)
    edit = tlk.plan_edit(speaking, facts, METHODS[name], moments=moments)
    assert fingerprint(speaking) == before and edit.factors
    alone = tlk.plan_edit(speaking, facts[0], METHODS[name], moments=moments)
    assert edit.layers != alone.layers or any(not torch.equal(edit.factors[k].dense, alone.factors[k].dense) for k in edit.layers)
