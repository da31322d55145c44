"""The closed form of the answer's gradient equals autograd."""

from __future__ import annotations

import copy

import pytest
import torch
from support.architectures import build_architecture
from support.whole_forwards import attributed

import tl_knowledge as tlk
from tl_knowledge.models import unembedding
from tl_knowledge.models.unembedding import Unembedding


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("block", [7, 4096])
def test_gradient_equals_autograd(monkeypatch, cap, with_bias, block):
    monkeypatch.setattr(unembedding, "VOCABULARY_AT_ONCE", block)
    torch.manual_seed(0)
    states, weights = torch.randn(5, 6, dtype=torch.float64, requires_grad=True), 3 * torch.randn(6, 31, dtype=torch.float64)
    bias, answers = torch.randn(31, dtype=torch.float64) if with_bias else None, torch.tensor([0, 30, 7, 7, 12])
    probability, gradient = Unembedding(weights, bias, cap).answer_gradient(states, answers)
    logits = states @ weights + (0 if bias is None else bias)
    logits = logits if cap is None else cap * (logits / cap).tanh()
    expected = logits.softmax(-1)[torch.arange(5), answers]
    torch.testing.assert_close(probability, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), states)[0], rtol=1e-11, atol=1e-15)


def test_huge_logits_do_not_overflow():
    probability, gradient = Unembedding(1e4 * torch.eye(3)).answer_gradient(torch.eye(3), torch.tensor([0, 1, 0]))
    assert probability.tolist() == [1.0, 1.0, 0.0] and bool(gradient.isfinite().all())


def test_every_architecture_is_recognised(model):
    assert Unembedding.of(model) is not None


def test_a_model_that_does_more_is_found_out(gpt2, monkeypatch):
    unembedding._scales.pop(gpt2, None)
    monkeypatch.setattr(Unembedding, "_capped", lambda self, raw: (raw + raw.square(), None))
    assert Unembedding.of(gpt2) is None
    unembedding._scales.pop(gpt2, None)


@pytest.mark.parametrize("name", ["Granite", "Cohere"])
def test_a_scale_is_found_where_the_padding_token_has_no_embedding(name):
    """A zero state has zero logits, which fit any scale."""
    model, prompt = build_architecture(name), tlk.Prompt.from_tokens([7, 8, 9, 1, 2, 3, 4], subject=[3, 4], target=5)
    plain = Unembedding.of(model)
    unembedding._scales.pop(model)
    with torch.no_grad():
        model.original_model.get_input_embeddings().weight[0] = 0
    assert Unembedding.of(model).scale == pytest.approx(plain.scale, rel=1e-9) != 1
    scores = tlk.attribute_neurons(model, prompt, steps=3, progress=False).scores[0, 0]
    torch.testing.assert_close(scores, attributed(model, prompt.tokens, 5, 0, 3), rtol=1e-5, atol=1e-12)


def test_logits_of_zero_tell_no_scale(gpt2):
    model = copy.deepcopy(gpt2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert Unembedding.of(model) is None
