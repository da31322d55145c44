"""PyTorch forward hooks of somebody on a model's modules count positions: no fast engine may give them other rows than a forward of its own."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils import prune

import tl_knowledge as tlk
from tl_knowledge.engine.narrowing import may_narrow
from tl_knowledge.engine.prefix import freeze_prefix
from tl_knowledge.models.routed import module_hook

EXACT = 1e-12


def shift_second(module, given, out):
    """Change what one position leaves a module with."""
    states = (out[0] if isinstance(out, tuple) else out).clone()
    states[:, 1] += torch.linspace(-2, 2, states.shape[-1], dtype=states.dtype)
    return (states, *out[1:]) if isinstance(out, tuple) else states


def traces(model, prompt, **more):
    return (tlk.trace(model, prompt, 0.7, samples=2, positions=[3, 4, 6], engine=engine, **more) for engine in ("rows", "loop"))


@pytest.mark.parametrize("part", ["block", "attn", "mlp"])
def test_sweep_under_a_hook_is_the_loop(model, prompt, part):
    tlk.trace(model, prompt, 0.7, samples=2, layers=[1], positions=[6])  # the probes are believed before the hook comes
    assert module_hook(model) is None and may_narrow(model)
    block = model.blocks[1]
    with_hook = (block if part == "block" else getattr(block, part)).register_forward_hook(shift_second)
    try:
        swept, loop = traces(model, prompt)
        assert freeze_prefix(model, prompt.tokens).tokens.shape[1] == prompt.tokens.shape[1]
    finally:
        with_hook.remove()
    assert "PyTorch hook is on 'blocks.1" in swept.provenance.engine
    torch.testing.assert_close(swept.indirect_effect, loop.indirect_effect, rtol=0, atol=EXACT, equal_nan=True)
    assert float(loop.indirect_effect.nan_to_num().abs().max()) > 1e-6
    assert next(traces(model, prompt)).provenance.engine.startswith("rows")


def test_pre_hooks_and_raw_hooks_of_hook_points_count(gpt2):
    point = gpt2.hook_dict["blocks.0.hook_out"]
    for register in (gpt2.blocks[0].mlp.register_forward_pre_hook, point.register_forward_hook):
        handle = register(lambda *_: None)
        found = module_hook(gpt2)
        handle.remove()
        assert found in ("blocks.0.mlp", "blocks.0.hook_out")
        assert module_hook(gpt2) is None
    with gpt2.hooks(fwd_hooks=[("blocks.0.hook_resid_post", lambda x, hook: None)]):
        assert module_hook(gpt2) is None  # it is a hook point's own, and looked for there


def test_hooks_of_hook_points_see_no_packed_positions(model, prompt):
    """Inside an MLP, too, where the sweep leaves out what cannot differ."""

    def shift(x, hook):
        changed = x.clone()
        changed[:, 1] += torch.linspace(-2, 2, x.shape[-1], dtype=x.dtype)
        return changed

    name = next(name for name in model.hook_dict if name.startswith("blocks.1.mlp.") and name.endswith(("hook_post", "hook_out")))
    with model.hooks(fwd_hooks=[(name, shift)]):
        swept, loop = traces(model, prompt)
        assert not may_narrow(model)
        assert freeze_prefix(model, prompt.tokens).tokens.shape[1] == prompt.tokens.shape[1]
    torch.testing.assert_close(swept.indirect_effect, loop.indirect_effect, rtol=0, atol=EXACT, equal_nan=True)


def test_reparametrisations_only_set_weights(gpt2):
    norm = gpt2.original_model.transformer.ln_f
    linear = next(module for module in norm.modules() if "weight" in module._parameters)
    prune.identity(linear, "weight")
    assert linear._forward_pre_hooks and module_hook(gpt2) is None
    prune.remove(linear, "weight")
