"""Changes of every matrix of a block: the same as hooks and as weights, taken back bit for bit; gradient factors against autograd."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import pytest
import torch
from support import build, fingerprint, hooks_left
from support.edits import loss_of, weight_gradient
from support.models import BUILDERS, HARD_BUILDERS

import tl_knowledge as tlk
from tl_knowledge.editing import BlockMatrix, LowRank
from tl_knowledge.editing.optimise.gradient_factors import target_gradients
from tl_knowledge.errors import ComponentError, ModelStateError, NumericalError, UnsupportedModelError
from tl_knowledge.models.ledger import ledger_of, unedited_fingerprint
from tl_knowledge.models.matrices import MATRICES, held_matrix, matrix_weights
from tl_knowledge.models.matrix_sites import add_at, matrix_sites


def places_of(model, layers=(0, 2)):
    gated = "W_gate" if hasattr(model.blocks[0].mlp, "W_gate") and model.blocks[0].mlp.W_gate is not None else None
    return [BlockMatrix(layer, name) for layer in layers for name in MATRICES if name != "W_gate" or gated]


def edit_of(model, places, seed=1):
    draw = torch.Generator().manual_seed(seed)

    def change(place):
        d_in, d_out = matrix_weights(model, place).shape
        left = torch.randn(d_in, 2, dtype=torch.float64, generator=draw)
        return LowRank(left, torch.randn(2, d_out, dtype=torch.float64, generator=draw) / 20)

    return tlk.Edit.planned(model, None, {place: change(place) for place in places}, notes=[{}])


def test_hooks_applied_and_written_are_the_same(model, prompt):
    before, plain = fingerprint(model), model(prompt.tokens)
    for places in ([place] for place in places_of(model)):
        edit = edit_of(model, places)
        hooked = model.run_with_hooks(prompt.tokens, fwd_hooks=edit.hooks())
        with edit.applied(model):
            applied = model(prompt.tokens)
            assert unedited_fingerprint(model) == before != fingerprint(model)
        torch.testing.assert_close(hooked, applied, rtol=1e-9, atol=1e-10)
        assert float((applied - plain).detach().abs().max()) > 1e-4
        assert fingerprint(model) == before and torch.equal(model(prompt.tokens), plain) and hooks_left(model) == []


def test_all_matrices_at_once_save_load_and_leave_in_any_order(model, prompt, tmp_path):
    places = places_of(model)
    first, second = edit_of(model, places, 1), edit_of(model, places[::2], 2)
    originals, before = {place: held_matrix(model, place).detach().clone() for place in places}, fingerprint(model)
    loaded = tlk.Edit.load(first.save(tmp_path / "edit"))
    assert list(loaded.sites) == list(first.sites) and list(loaded.changes) == list(first.changes)
    assert set(first.to_dataframe()["matrix"]) == {place.name for place in places} and first.layers == (0, 2)
    for order in itertools.permutations((loaded, second)):
        for edit in (loaded, second):
            edit.write_into(model)
        written = model(prompt.tokens)
        order[0].revert(model)
        with order[0].applied(model):
            torch.testing.assert_close(model(prompt.tokens), written, rtol=1e-12, atol=1e-12)
        order[1].revert(model)
        assert all(torch.equal(held_matrix(model, place), weights) for place, weights in originals.items())
    assert fingerprint(model) == before and len(ledger_of(model)) == 0


def test_someone_elses_change_is_noticed(model):
    place = BlockMatrix(1, "W_Q")
    edit, before = edit_of(model, [place]), held_matrix(model, place).detach().clone()
    edit.write_into(model)
    written = held_matrix(model, place).detach().clone()
    with torch.no_grad():
        held_matrix(model, place).add_(1.0)
    with pytest.raises(ModelStateError, match="W_Q of layer 1 was changed by something else"):
        edit.revert(model)
    with torch.no_grad():
        held_matrix(model, place).copy_(written)
    edit.revert(model)
    assert torch.equal(held_matrix(model, place), before)


FACTS = [tlk.Fact("w3 w9", "w1 {} w4 w8", " w7 w11"), tlk.Fact("w5 w6", "w1 {} w4 w2", " w12 w13"), tlk.Fact("w5", "w20 w21 {}", " w30")]


def test_factors_multiply_to_the_gradient(speaking):
    """As autograd has it of the parameters themselves; prompts of one length run together, each has its own."""
    places = places_of(speaking, (1,))
    prompts = [tlk.Prompt.from_fact(speaking, fact) for fact in FACTS]
    before = fingerprint(speaking)
    found = target_gradients(speaking, prompts, places)
    assert fingerprint(speaking) == before and hooks_left(speaking) == []
    for prompt, gradient in zip(prompts, found, strict=True):
        assert gradient.loss == pytest.approx(float(loss_of(speaking, prompt)), rel=1e-7)
        for place in places:
            factors = gradient.factors[place]
            slow = weight_gradient(speaking, place, partial(loss_of, speaking, prompt))
            torch.testing.assert_close(factors.dense, slow, rtol=1e-6, atol=1e-8)
            assert len(factors.inputs) == len(factors.gradients) == len(prompt) + len(prompt.answer) - 1


def test_gradients_reach_the_factors_of_a_change(gpt2, prompt):
    place = BlockMatrix(2, "W_in")
    left = torch.zeros(16, 1, dtype=torch.float64, requires_grad=True)
    right = torch.ones(1, 24, dtype=torch.float64)
    logits = gpt2.run_with_hooks(prompt.tokens, fwd_hooks=add_at(matrix_sites(gpt2, place), left, right, str(place)))
    (gradient,) = torch.autograd.grad(logits[0, -1, 3], [left])
    assert float(gradient.abs().max()) > 1e-6


@pytest.mark.parametrize("name", [*BUILDERS, *HARD_BUILDERS])
def test_a_matrix_that_no_forward_reads_is_refused(name):
    """On every architecture each matrix is either changed exactly, or refused."""
    model = build(name)
    tokens = torch.arange(5, 11)[None]
    for place in places_of(model, (1,)):
        try:
            edit = edit_of(model, [place])
        except UnsupportedModelError as error:
            assert "cannot be changed" in str(error) or "no hook" in str(error)
            continue
        hooked = model.run_with_hooks(tokens, fwd_hooks=edit.hooks())
        with edit.applied(model):
            torch.testing.assert_close(model(tokens), hooked, rtol=1e-9, atol=1e-10)


def test_edits_of_another_shape_or_of_no_such_matrix_are_refused(gpt2):
    other = build("bridge-llama")
    edit = edit_of(other, [BlockMatrix(1, "W_K")])
    with pytest.raises(ComponentError, match="W_K of 16 x 8; this model's has 16 x 16"):
        edit.write_into(gpt2)
    with pytest.raises(ComponentError, match="matrix 'W_U' is unknown"):
        BlockMatrix.named("blocks.0.mlp.W_U")
    with pytest.raises(UnsupportedModelError, match=r"has no blocks\.1\.mlp\.W_gate"):
        edit_of(gpt2, [BlockMatrix(1, "W_gate")])
    with pytest.raises(NumericalError, match="edit of W_in of layer 1 is not finite"):
        tlk.Edit.planned(gpt2, None, {BlockMatrix(1, "W_in"): LowRank(torch.full((16, 1), torch.nan), torch.ones(1, 24))}, notes=[{}])


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_changes_go_into_hugging_faces_weights(kind, prompt):
    model = build(f"bridge-{kind}")
    places, plain = places_of(model), unedited_hugging_face(model)
    edit = edit_of(model, places)
    edit.to_hf(plain)
    with torch.no_grad():
        hooked = model.run_with_hooks(prompt.tokens, fwd_hooks=edit.hooks())
        torch.testing.assert_close(plain(prompt.tokens).logits, hooked, rtol=1e-5, atol=1e-6)


def unedited_hugging_face(model):
    """The Hugging Face model that a bridge was made of, as its own class loads it."""
    wrapped = model.original_model
    plain = type(wrapped)(wrapped.config).double().eval()
    plain.load_state_dict({name.replace("._original_component", ""): value for name, value in wrapped.state_dict().items()}, strict=False)
    return plain


def test_weights_that_hold_their_norm_do_not_go_to_hugging_face(factlm):
    edit = edit_of_float32(factlm, BlockMatrix(2, "W_in"))
    prompt = tlk.Prompt.from_text(factlm, "The capital of France is")
    hooked = factlm.run_with_hooks(prompt.tokens, fwd_hooks=edit.hooks())  # it is read behind the norm's gain and shift
    with edit.applied(factlm):
        torch.testing.assert_close(factlm(prompt.tokens), hooked, rtol=1e-4, atol=1e-4)
    edit = replace(edit, provenance=replace(edit.provenance, weight_processing={"fold_ln": True}))
    with pytest.raises(UnsupportedModelError, match="was edited with its norm folded into it"):
        edit.to_hf(torch.nn.Linear(1, 1))


def edit_of_float32(model, place):
    d_in, d_out = matrix_weights(model, place).shape
    return tlk.Edit.planned(model, None, {place: LowRank(torch.ones(d_in, 1), torch.ones(1, d_out) / 100)}, notes=[{}])
