"""An edit as hooks, in a ``with`` and in the weights: the same each way, and taken back bit for bit."""

from __future__ import annotations

import itertools

import pytest
import torch
from support import build, fingerprint, hooks_left
from support.edits import random_edit
from transformers import GPT2LMHeadModel

import tl_knowledge as tlk
from tl_knowledge.errors import ComponentError, DataError, ModelStateError, NumericalError, UnsupportedModelError
from tl_knowledge.models.ledger import ledger_of, unedited_fingerprint
from tl_knowledge.models.weights import OutputBias, output_bias, output_weights


def test_hooks_applied_and_written_are_the_same(model, prompt):
    edit = random_edit(model, (0, 2), 1)
    before, plain = fingerprint(model), model(prompt.tokens)
    hooked = model.run_with_hooks(prompt.tokens, fwd_hooks=edit.hooks())
    with edit.applied(model):
        applied = model(prompt.tokens)
    assert fingerprint(model) == before
    edit.write_into(model)
    written = model(prompt.tokens)
    edit.revert(model)
    assert torch.equal(applied, written) and torch.equal(model(prompt.tokens), plain)
    torch.testing.assert_close(hooked, written, rtol=1e-9, atol=1e-10)
    assert float((hooked - plain).abs().max()) > 1e-3 and hooks_left(model) == []


def test_edits_stack_and_leave_in_any_order(model):
    edits = [random_edit(model, layers, seed) for seed, layers in enumerate([(0, 1), (1,), (1, 3)])]
    originals = [output_weights(model, layer).detach().clone() for layer in range(4)]
    for order in itertools.permutations(range(3)):
        for edit in edits:
            edit.write_into(model)
        edits[order[0]].revert(model)
        for layer in range(4):  # what the other two alone would have made
            left = [edits[k].factors[layer].dense for k in sorted(order[1:]) if layer in edits[k].factors]
            expected = originals[layer] if not left else originals[layer] + torch.stack(left).sum(0)
            assert torch.equal(output_weights(model, layer), expected)
        for k in order[1:]:
            edits[k].revert(model)
        assert all(torch.equal(output_weights(model, layer), original) for layer, original in enumerate(originals))


def test_an_exception_inside_leaves_the_weights_as_they_were(gpt2):
    before = [output_weights(gpt2, layer).detach().clone() for layer in range(4)]
    with pytest.raises(KeyboardInterrupt), random_edit(gpt2, (0,), 1).applied(gpt2):
        raise KeyboardInterrupt
    assert all(torch.equal(output_weights(gpt2, layer), weights) for layer, weights in enumerate(before))


def test_an_edit_saves_and_loads(gpt2, tmp_path):
    edit = random_edit(gpt2, (0, 3), 1)
    again = tlk.Edit.load(edit.save(tmp_path / "edit"))
    assert again.layers == (0, 3) and again.outputs == edit.outputs and again.provenance == edit.provenance
    assert torch.equal(again.factors[3].dense, edit.factors[3].dense)
    assert list(edit.to_dataframe()["rank"]) == [2, 2]
    with pytest.raises(DataError, match=r"written by Edit\.save"):
        tlk.Edit.load(tmp_path / "nothing")


def test_someone_elses_change_is_not_overwritten(gpt2):
    edit = random_edit(gpt2, (1,), 5)
    edit.write_into(gpt2)
    with torch.no_grad():
        output_weights(gpt2, 1).add_(1.0)
    with pytest.raises(ModelStateError, match="was changed by something else"):
        edit.revert(gpt2)
    with torch.no_grad():
        output_weights(gpt2, 1).copy_(output_weights(gpt2, 1) - 1.0)
        output_weights(gpt2, 1).copy_(ledger_of(gpt2)._state.written[1])
    edit.revert(gpt2)


def test_the_fingerprint_is_of_the_weights_without_edits(model):
    """An edit that comes and goes leaves it as it was; someone else's change meanwhile is noticed, however it was made."""
    first = unedited_fingerprint(model)
    edits = [random_edit(model, (0, 1), 1), random_edit(model, (1,), 2)]
    for _ in range(2):
        with edits[0].applied(model), edits[1].applied(model):
            assert unedited_fingerprint(model) == first != fingerprint(model)
        assert unedited_fingerprint(model) == first == fingerprint(model)
    parameter = next(iter(model.parameters()))
    kept = parameter.detach().clone()
    with edits[0].applied(model):
        parameter.data[0, 0] += 1.0  # torch counts no write through .data
    assert unedited_fingerprint(model) == fingerprint(model) != first
    parameter.data.copy_(kept)
    assert unedited_fingerprint(model) == first


def biased_edit(model, layer, seed):
    """A random edit of one layer that changes the bias too."""
    edit, draw = random_edit(model, (layer,), seed), torch.Generator().manual_seed(seed)
    change = torch.randn(edit.factors[layer].right.shape[1], dtype=torch.float64, generator=draw)
    return tlk.Edit.planned(model, None, edit.factors, notes=[{}], biases={layer: change})


def test_an_edit_of_the_bias_is_the_same_each_way_and_leaves_bit_for_bit(model, prompt, tmp_path):
    edit, before, plain = biased_edit(model, 2, 1), fingerprint(model), model(prompt.tokens)
    own = output_bias(model, 2)
    if own is None:
        with pytest.raises(ComponentError, match="changes the bias of W_out, which layer 2 of this model does not have"):
            edit.write_into(model)
        return
    start = own.detach().clone()
    hooked = model.run_with_hooks(prompt.tokens, fwd_hooks=edit.hooks())
    without = tlk.Edit.planned(model, None, edit.factors, notes=[{}])
    assert float((hooked - model.run_with_hooks(prompt.tokens, fwd_hooks=without.hooks())).abs().max()) > 1e-3
    second = biased_edit(model, 2, 2)
    edit.write_into(model)
    written = model(prompt.tokens)
    second.write_into(model)
    assert torch.equal(output_bias(model, 2), start + torch.stack([edit.biases[2], second.biases[2]]).sum(0))
    assert unedited_fingerprint(model) == before
    edit.revert(model)
    second.revert(model)
    torch.testing.assert_close(hooked, written, rtol=1e-9, atol=1e-10)
    assert torch.equal(output_bias(model, 2), start) and torch.equal(model(prompt.tokens), plain) and fingerprint(model) == before
    assert torch.equal(tlk.Edit.load(edit.save(tmp_path / "edit")).biases[2], edit.biases[2])
    edit.write_into(model)
    with torch.no_grad():
        own.add_(1.0)
    with pytest.raises(ModelStateError, match="the bias of W_out of layer 2 was changed by something else"):
        edit.revert(model)
    with torch.no_grad():
        own.copy_(ledger_of(model)._state.written[OutputBias(2)])
    edit.revert(model)
    assert fingerprint(model) == before


def test_a_change_of_the_bias_goes_into_hugging_faces_weights(gpt2, prompt):
    edit, module = biased_edit(gpt2, 1, 3), plain_gpt2()
    edit.to_hf(module)
    with torch.no_grad():
        hooked = gpt2.run_with_hooks(prompt.tokens, fwd_hooks=edit.hooks())
        torch.testing.assert_close(module(prompt.tokens).logits, hooked, rtol=1e-5, atol=1e-6)
    module.transformer.h[1].mlp.c_proj.bias = None
    with pytest.raises(UnsupportedModelError, match="no single bias of an output projection"):
        edit.to_hf(module)


def plain_gpt2():
    """The Hugging Face model that the fixture ``gpt2`` was made of."""
    wrapped = build("bridge-gpt2").original_model
    plain = GPT2LMHeadModel(wrapped.config).double().eval()
    plain.load_state_dict({name.replace("._original_component", ""): value for name, value in wrapped.state_dict().items()}, strict=False)
    return plain


def test_a_bias_that_is_not_finite_is_refused(gpt2):
    factors = random_edit(gpt2, (1,), 1).factors
    with pytest.raises(NumericalError, match="is not finite"):
        tlk.Edit.planned(gpt2, None, factors, biases={1: torch.full((16,), torch.nan)})
