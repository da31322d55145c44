"""The closed form of the answer's gradient equals autograd."""

from __future__ import annotations

import pytest
import torch

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
    monkeypatch.setattr(Unembedding, "_capped", lambda self, raw: (raw + 0.1 * raw.abs(), None))
    assert Unembedding.of(gpt2) is None
    unembedding._scales.pop(gpt2, None)
