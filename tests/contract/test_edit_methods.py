"""One contract for every editing method, on every architecture: the model is left alone, and an edit is the same however it is used.

The methods are those of the registry, each with its own small settings; a new method needs no line here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import get_type_hints

import pytest
import torch
from support import fingerprint, hooks_left, tokenizer_of_sixty_words
from support.edits import ready

import tl_knowledge as tlk
from tl_knowledge.cli.methods import method_argument
from tl_knowledge.editing import METHODS, Edit, EditMethod, LowRank, RereadEdit, ValueSettings, load_edit, method_class, method_for_model
from tl_knowledge.errors import ComponentError, InputError
from tl_knowledge.models.bundled import BUNDLED
from tl_knowledge.models.weights import output_weights
from tl_knowledge.published.workbench import Editor
from tl_knowledge.results.packing import packed_fields

ROME = tlk.ROME.small()
HOOKED = [name for name in METHODS if not issubclass(get_type_hints(method_class(name).plan)["return"], RereadEdit)]  # those: test_read_edits.py
SETTINGS = {name: method_class(name).small() for name in HOOKED} | {
    "rome, relation": replace(ROME, layer=2, at="relation"),
    "rome, meng2022_code": replace(ROME, variant="meng2022_code", at="subject_first"),
    "emmet, gupta2024": replace(tlk.EMMET.small(), variant="gupta2024"),
    "rome, erase": replace(ROME, objective=tlk.editing.Objective(erase=True)),
    "rome, force": replace(ROME, objective=tlk.editing.Objective(noise=tlk.GaussianNoise(sd=0.5, seed=0))),
    "ft, meng2022_code": replace(tlk.FineTune.small(), variant="meng2022_code", layer=(0, 2)),
    "cne, several states": replace(tlk.localised.CausalNeuronEdit.small(), k=3),
    "kn, meng2022_code": replace(tlk.localised.KnowledgeNeuronEdit.small(), variant="meng2022_code"),
    "grace, W_in": replace(tlk.editing.GRACE.small(), matrix="W_in", layer=2),
    "grace, warm": replace(tlk.editing.GRACE.small(), start="warm"),
    "t-patcher, gelu": replace(tlk.editing.TransformerPatcher.small(), nonlinearity="gelu"),
    "kn, dai2022": replace(tlk.localised.KnowledgeNeuronEdit.small(), variant="dai2022"),
}
LIKELIER = {
    "rome",
    "emmet",
    "ft",
    "ft+l",
    "grace",
    "grace, W_in",
    "grace, warm",
}  # what these write is surely likelier, with few steps and random weights too
FACT = tlk.Fact("w3 w9", "w1 {} w4 w8", " w7 w11", paraphrases=("w2 {} w4",)).retarget(" w9 w2")


def tensors(edit):
    """All that an edit holds, by its place."""
    held: dict[str, torch.Tensor] = {}
    packed_fields(edit, held)
    return held


def same_tensors(first, second) -> bool:
    """Whether two edits hold the same, bit for bit."""
    one, other = tensors(first), tensors(second)
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_method_keeps_the_contract(speaking, moments, name, tmp_path):
    method, before = ready(SETTINGS[name], speaking), fingerprint(speaking)
    weights = [output_weights(speaking, layer).detach().clone() for layer in range(4)]
    assert isinstance(method, EditMethod)
    edit = tlk.plan_edit(speaking, FACT, method, moments=moments)
    assert fingerprint(speaking) == before and hooks_left(speaking) == []
    assert tensors(edit) and all(bool(each.isfinite().all()) for each in tensors(edit).values())
    assert edit.stored_bytes == sum(each.numel() * each.element_size() for each in tensors(edit).values()) > 0

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
    if name in LIKELIER:
        likelier = (written - plain).double()[0, -1] - (written.logsumexp(-1) - plain.logsumexp(-1))[0, -1]
        assert float(likelier.detach()[prompt.target_token]) > 0

    with torch.no_grad():  # notebooks often switch gradients off at their top
        again = tlk.plan_edit(speaking, FACT, method, moments=moments)
    loaded = load_edit(edit.save(tmp_path / "edit"))
    assert same_tensors(again, edit) and same_tensors(loaded, edit)  # the same draws give the same edit, and a file gives it back
    assert type(loaded) is type(edit) is type(again)
    assert (loaded.method, loaded.settings, loaded.fingerprint) == (type(method).__name__, edit.settings, edit.fingerprint)
    assert json.loads(json.dumps(edit.provenance.to_dict()))["settings"]["method"] == loaded.method
    assert edit.method in repr(edit) and len(edit.top(1)) == 1 and edit.plot().data
    assert edit.health(speaking).stored_bytes == edit.stored_bytes and str(edit.health(speaking))
    loaded.write_into(speaking)
    assert torch.equal(speaking(prompt.tokens), written)
    loaded.revert(speaking)
    assert fingerprint(speaking) == before


@pytest.mark.parametrize("name", ["rome", "memit", "grace", "grace, W_in", "t-patcher"])
def test_generation_with_a_cache_is_the_same_each_way(speaking, moments, name):
    edit = tlk.plan_edit(speaking, FACT, SETTINGS[name], moments=moments)
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


@pytest.mark.parametrize("name", HOOKED)
def test_several_facts_go_into_one_edit(speaking, moments, name):
    facts = [FACT, tlk.Fact("w5", "w1 {} w4 w8", " w7").retarget(" w30")]
    before, method = fingerprint(speaking), ready(SETTINGS[name], speaking)
    try:
        edit = tlk.plan_edit(speaking, facts, method, moments=moments)
    except InputError as error:
        assert "edits one fact at a time, not 2" in str(error)
        return
    assert fingerprint(speaking) == before and tensors(edit)
    alone = tlk.plan_edit(speaking, facts[0], method, moments=moments)
    assert not same_tensors(edit, alone) or edit.notes[1]["stopped"] == "nothing was wrong"


@pytest.fixture
def small(gpt2, monkeypatch):
    """One architecture that can speak."""
    monkeypatch.setattr(gpt2, "tokenizer", tokenizer_of_sixty_words())
    return gpt2


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_evaluated_and_knows_its_moments(small, texts, name):
    method, moments = ready(method_class(name).small(), small), tlk.collect_key_moments(small, texts, progress=False)
    case = tlk.EditCase(FACT, " w12", (FACT.rephrase("w2 {} w4"),), (tlk.Fact("w5", "w1 {} w4 w8", " w7"),))
    layers = method.moment_layers
    assert bool(layers is None or layers) == method.needs_moments
    few = moments if layers is None else replace(moments, moments={layer: moments.moments[layer] for layer in layers}) if layers else None
    report = tlk.evaluate(small, case, method, moments=few, progress=False)
    assert report.method == type(method).__name__ and len(report.table) == 1
    if method.needs_moments:
        with pytest.raises(InputError, match="needs the second moments"):
            tlk.plan_edit(small, FACT, method)


@dataclass(frozen=True)
class Negate(EditMethod):
    """A method as a newcomer writes one."""

    layer: int

    def plan(self, model, facts, moments):
        weights = output_weights(model, self.layer).detach()
        return Edit.planned(model, self, {self.layer: LowRank(-2 * weights, torch.eye(weights.shape[1], dtype=weights.dtype))})


class Foreign:
    """A class with nothing but ``plan``."""

    def plan(self, model, facts, moments):
        return Negate(layer=2).plan(model, facts, moments)


def test_a_new_method_is_one_class_and_one_line(small, monkeypatch):
    monkeypatch.setitem(METHODS, "negate", f"{__name__}:Negate")
    method = method_for_model(small, "negate", layers=[2])
    assert method == Negate(layer=2) and Negate.small() == Negate(layer=1) and method.moment_layers == ()
    edit, foreign = (tlk.plan_edit(small, FACT, each) for each in (method, Foreign()))
    assert torch.equal(edit.factors[2].dense, foreign.factors[2].dense) and edit.settings == {"layer": 2}
    with edit.applied(small):
        assert float(output_weights(small, 2).detach().norm()) > 0
    with pytest.raises(InputError, match="edits one layer, not 2"):
        method_for_model(small, "negate", layers=[1, 2])
    with pytest.raises(ComponentError, match="layer 9 is outside"):
        method_for_model(small, "negate", layers=[9])
    with pytest.raises(InputError, match="nothing is published for"):
        method_for_model(small, "negate")
    with pytest.raises(InputError, match="chooses its layers itself"):
        method_for_model(small, "kn", layers=[1])
    with pytest.raises(InputError, match="did you mean 'rome'"):
        method_for_model(small, "rom")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_settings_for_the_bundled_model(factlm, name):
    assert isinstance(method_for_model(factlm, name), method_class(name))


def test_published_settings_are_the_papers(monkeypatch, factlm):
    monkeypatch.setattr(factlm.cfg, "model_name", "openai-community/gpt2-xl")
    monkeypatch.setattr(factlm.cfg, "n_layers", 48)
    memit, alphaedit = tlk.MEMIT.for_model(factlm), tlk.AlphaEdit.for_model(factlm)
    assert memit.layers == alphaedit.layers == (13, 14, 15, 16, 17) and memit.value == alphaedit.value
    assert (memit.value.steps, memit.value.clamp, memit.moment_weight, alphaedit.ridge, alphaedit.null_below) == (20, 0.75, 20_000, 10, 0.02)
    assert (tlk.ROME.for_model(factlm).layer, tlk.EMMET.for_model(factlm).layer, tlk.FineTune.for_model(factlm).layer) == (17, 17, 1)
    assert tlk.MEMIT.for_model(factlm, layers=[20, 21]).moment_weight == 20_000
    assert tlk.editing.FineTuneConstrained.for_model(factlm) == tlk.editing.FineTuneConstrained(layer=0, most_change=5e-4)
    attention = tlk.editing.FineTuneAttention.for_model(factlm)
    assert (attention.layer, attention.matrices, attention.most_change, attention.learning_rate) == (33, ("W_Q", "W_K", "W_V"), 1e-3, 1e-3)
    assert tlk.FineTune.for_model(factlm, layers=[3, 4]) == tlk.FineTune(layer=(3, 4))
    grace = tlk.editing.GRACE.for_model(factlm)
    assert (grace.layer, grace.matrix, grace.radius, grace.start, grace.steps, grace.learning_rate) == (35, "W_in", 1.0, "cold", 200, 1.0)
    emmet = tlk.EMMET.for_model(factlm, variant="gupta2024")
    assert (emmet.layer, emmet.damping, emmet.contexts, emmet.value) == (17, 100.0, ((10, 5),), memit.value)
    assert tlk.EMMET.for_model(factlm) == tlk.EMMET(layer=17)  # ours stays the default
    monkeypatch.setattr(factlm.cfg, "model_name", "gpt2-large")
    assert tlk.editing.FineTuneConstrained.for_model(factlm).most_change == 1e-3
    monkeypatch.setattr(factlm.cfg, "model_name", "EleutherAI/gpt-j-6B")
    assert (tlk.FineTune.for_model(factlm).layer, tlk.editing.FineTuneConstrained.for_model(factlm).most_change) == (21, 5e-5)
    assert tlk.editing.UltraEdit.for_model(factlm) == tlk.editing.UltraEdit(layers=tuple(range(18, 27)), learning_rate=1e-6)
    pmet, decayed = tlk.editing.PMET.for_model(factlm), tlk.editing.FineTuneDecayed.for_model(factlm, variant="meng2022_code")
    assert (pmet.layers, pmet.moment_weight, pmet.value.steps, pmet.value.learning_rate) == ((3, 4, 5, 6, 7, 8), 6_000, 30, 0.2)
    assert (decayed.layer, decayed.matrices, decayed.weight_decay, decayed.learning_rate) == (21, None, 0.0, 5e-4)
    monkeypatch.setattr(factlm.cfg, "model_name", "gpt2-medium")
    assert tlk.editing.FineTuneConstrained.for_model(factlm) == tlk.editing.FineTuneConstrained(layer=0, most_change=2e-3)
    with pytest.raises(InputError, match=r"nothing is published for 'gpt2-medium'; pass FineTune\(layer=\.\.\.\)"):
        method_for_model(factlm, "ft")  # and not ROME's layer
    assert tlk.ROME.for_model(factlm).value.clamp == 3
    assert tlk.ROME.for_model(factlm, variant="meng2022_code") == replace(tlk.ROME.for_model(factlm), variant="meng2022_code")
    monkeypatch.setattr(factlm.cfg, "n_layers", 24)
    assert tlk.ROME.last_for_model(factlm, variant="wen_bai") == replace(tlk.ROME.for_model(factlm, variant="wen_bai"), layer=22)
    with pytest.raises(InputError, match=r"nothing is published for 'gpt2-medium'; pass MEMIT\(layers=\.\.\.\)"):
        tlk.MEMIT.for_model(factlm)


@pytest.mark.parametrize("name", BUNDLED)
def test_a_named_variant_stops_where_its_program_does(monkeypatch, factlm, name):
    """What was tuned on a model is ours: whoever names a paper gets that program's numbers, also on the command line and in a published table."""
    monkeypatch.setattr(factlm.cfg, "model_name", name)
    assert tlk.ROME.for_model(factlm).value == ValueSettings(stop_below=0.5)
    for variant in ("gupta2024", "gupta2024_p", "meng2022_code", "wei2024"):
        assert tlk.ROME.for_model(factlm, variant=variant).value == ValueSettings()
    assert tlk.FineTune.for_model(factlm).stop_below == (0.1 if name == "factlm" else 0.01)
    for method in ("ft", "ft+l", "ft-attn", "ft-w"):
        assert method_for_model(factlm, method, variant="meng2022_code").stop_below == 0.01
    assert all(method_for_model(factlm, method).stop_below == 0.01 for method in ("ft+l", "ft-attn", "ft-w"))
    rome = tlk.ROME.for_model(factlm, variant="meng2022_code")
    assert method_argument(factlm, "rome", None, {"variant": "meng2022_code"}) == rome
    assert Editor("ROME", "rome", (("variant", "meng2022_code"),)).for_model(factlm) == rome


def test_variants_have_their_own_published_settings(monkeypatch, factlm):
    monkeypatch.setattr(factlm.cfg, "model_name", "gpt2")
    monkeypatch.setattr(factlm.cfg, "n_layers", 12)
    clamps = [tlk.ROME.for_model(factlm, variant=variant).value.clamp for variant in ("ours", "meng2022_code", "wen_bai")]
    assert clamps == [4, 4, 3] and tlk.ROME.last_for_model(factlm).layer == 10
    with pytest.raises(InputError, match=r"no settings of variant 'gupta2024' are published for 'gpt2'; .* Known: gpt2-xl, gpt-j-6b, factlm"):
        method_for_model(factlm, "emmet", variant="gupta2024")
    with pytest.raises(InputError, match="variant 'dai2022' is unknown"):
        tlk.ROME.for_model(factlm, variant="dai2022")
    with pytest.raises(InputError, match="AlphaEdit has no variants"):
        tlk.AlphaEdit.for_model(factlm, variant="meng2022_code")
    monkeypatch.setattr(factlm.cfg, "model_name", "EleutherAI/gpt-neox-20b")
    with pytest.raises(InputError, match=r"nothing is published for 'EleutherAI/gpt-neox-20b'; pass MEMIT"):  # the program has ROME's settings alone
        tlk.MEMIT.for_model(factlm)
    monkeypatch.setattr(factlm.cfg, "n_layers", 1)
    with pytest.raises(InputError, match="has one layer"):
        tlk.ROME.last_for_model(factlm)
