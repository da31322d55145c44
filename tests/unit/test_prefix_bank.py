"""Rows that begin at their restored position: when they may, and that nothing of it stays on the model."""

from __future__ import annotations

import pytest
import torch

import tl_knowledge as tlk
from tl_knowledge.engine import prefix_bank
from tl_knowledge.engine.fused import fused_activations
from tl_knowledge.engine.prefix_bank import bank_prefixes
from tl_knowledge.engine.recording import record
from tl_knowledge.models.hook_names import block_input
from tl_knowledge.tracing import engines
from tl_knowledge.tracing.sites import Site, group_sites

EXACT = 1e-12


def bank_of(model, tokens):
    entering = record(model, tokens, [], [block_input(0)])[block_input(0)]
    return bank_prefixes(model, tokens, entering)


def test_rows_begin_where_they_are_restored(gpt2, prompt, monkeypatch):
    """The sweep runs no token before the first restored position, and gives what whole rows give."""
    lengths: list[int] = []
    real = engines.run_rows

    def watched(model, tokens, hooks, **arguments):
        lengths.append(tokens.shape[1])
        return real(model, tokens, hooks, **arguments)

    monkeypatch.setattr(engines, "run_rows", watched)
    last = len(prompt) - 1
    late = tlk.trace(gpt2, prompt, 0.7, samples=2, positions=[last])
    assert lengths == [1]
    monkeypatch.setattr(engines, "bank_prefixes", lambda *_: None)
    whole = tlk.trace(gpt2, prompt, 0.7, samples=2, positions=[last])
    assert lengths == [1, len(prompt)]
    torch.testing.assert_close(late.indirect_effect, whole.indirect_effect, rtol=0, atol=EXACT, equal_nan=True)


def test_hooks_of_somebody_else_see_whole_rows(gpt2, prompt):
    """A hook that counts positions would act on another token behind a prefix."""
    assert bank_of(gpt2, prompt.tokens) is not None

    def double_third(x, hook):
        changed = x.clone()
        changed[:, 3] *= 2
        return changed

    with gpt2.hooks(fwd_hooks=[("blocks.1.hook_resid_post", double_third)]):
        assert bank_of(gpt2, prompt.tokens) is None
        swept, loop = (tlk.trace(gpt2, prompt, 0.7, samples=2, engine=engine) for engine in ("rows", "loop"))
    torch.testing.assert_close(swept.indirect_effect, loop.indirect_effect, rtol=0, atol=EXACT, equal_nan=True)


def test_a_refusal_falls_back_to_whole_rows(gpt2, prompt, monkeypatch):
    expected = tlk.trace(gpt2, prompt, 0.7, samples=2)
    monkeypatch.setattr(prefix_bank._CUTTING, "refusal", lambda model: "other logits")
    assert bank_of(gpt2, prompt.tokens) is None
    torch.testing.assert_close(tlk.trace(gpt2, prompt, 0.7, samples=2).indirect_effect, expected.indirect_effect, rtol=0, atol=EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_activations_are_the_same_and_leave_nothing(gpt2, prompt, dtype):
    gpt2 = gpt2.to(dtype)
    before = [(module, dict(vars(module))) for module in gpt2.modules()]
    plain = gpt2(prompt.tokens)
    with pytest.raises(KeyboardInterrupt), fused_activations(gpt2):
        fused = gpt2(prompt.tokens)
        swapped = [
            module
            for module, own in before
            if vars(module).get("forward") is not own.get("forward") or vars(module).get("act_fn") is not own.get("act_fn")
        ]
        raise KeyboardInterrupt
    assert len(swapped) == gpt2.cfg.n_layers
    torch.testing.assert_close(fused, plain, rtol=0, atol=100 * torch.finfo(dtype).eps * float(plain.abs().max()))
    assert all(vars(module).keys() == own.keys() and vars(module).get("act_fn") is own.get("act_fn") for module, own in before)
    assert torch.equal(gpt2(prompt.tokens), plain)


def test_half_precision_is_left_alone(gpt2):
    own = [dict(vars(module)) for module in gpt2.to(torch.bfloat16).modules()]
    with fused_activations(gpt2):
        assert all(now.keys() == vars(module).keys() for now, module in zip(own, gpt2.modules(), strict=True))
        assert not any("gelu" in repr(vars(module).get("forward", "")) for module in gpt2.modules())


def test_groups_are_neighbours_and_hold_every_site_once():
    sites = [Site("resid_post", layer, pos, None, layer, layer, born_at=layer) for pos in (1, 2, 5, 30) for layer in range(4)]
    groups = group_sites(sites, length=31, n_layers=4, samples=10)
    assert sorted(k for _, group in groups for k in group) == list(range(len(sites)))
    for start, group in groups:
        assert start == min(sites[k].pos for k in group)
    ends = [max(sites[k].pos for k in group) for _, group in groups]
    assert all(end < start for end, (start, _) in zip(ends, groups[1:], strict=False))
    assert len(group_sites(sites, length=31, n_layers=4, samples=1)) <= len(groups)
