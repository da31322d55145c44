"""The check for an illusion in every precision: what W_out writes, and the verdict."""

from __future__ import annotations

import pytest
import torch
from support.places import FACTLM_LAYER

import tl_knowledge as tlk
from tl_knowledge.errors import NumericalError
from tl_knowledge.subspaces.illusion import written_parts
from tl_knowledge.subspaces.training import random_basis


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_halves_write_is_written(dtype):
    """A matrix of full rank has it in every precision; one that is centred in single precision lacks a direction."""
    draw = torch.Generator().manual_seed(0)
    weights = (torch.randn(256, 64, dtype=torch.float64, generator=draw) / 8).to(dtype)
    inside = torch.linalg.qr(weights.double()[:, :2]).Q
    parts = written_parts(inside, weights)
    assert parts.null_share < 1e-12 and parts.row_space.shape == (256, 2) and parts.null_space.shape == (256, 0)
    outside = random_basis(256, 250, 0, torch.float64)
    assert written_parts(outside, weights).row_space.shape == (256, 64)
    if dtype == torch.float32:
        assert written_parts(outside, weights - weights.mean(-1, keepdim=True)).row_space.shape == (256, 63)


def learnt_by_factlm(model):
    facts = tlk.datasets.of_relation(tlk.load_facts(), "P103")
    train, validation, held_out = tlk.subspaces.split_pairs(facts)
    training = tlk.subspaces.SubspaceSettings(steps=10)
    place = {"component": "neuron", "layer": FACTLM_LAYER, "at": "subject", "dims": 16, "training": training, "progress": False}
    return tlk.subspaces.learn_subspace(model, train, validation=validation, **place), held_out


def test_a_verdict_is_the_same_in_half_precision(monkeypatch):
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = tlk.load_model("factlm", dtype=dtype)
        subspace, held_out = learnt_by_factlm(model)
        found[dtype] = subspace.check_illusion(model, held_out)
    assert found[torch.bfloat16].verdict == found[torch.float32].verdict == "no illusion"
    assert found[torch.bfloat16].null_share == pytest.approx(found[torch.float32].null_share, abs=0.02)
    assert "by W_out's null space" in found[torch.float32].headline()
    blind = "tl_knowledge.subspaces.subspace.written_parts"
    monkeypatch.setattr(blind, lambda basis, weights: written_parts(basis, torch.zeros_like(weights)))
    with pytest.raises(NumericalError, match=f"null space of W_out of layer {FACTLM_LAYER} should change nothing, and has an effect of"):
        subspace.check_illusion(model, held_out)
