"""What is read of every token of some texts equals one plain forward a text, on every architecture."""

from __future__ import annotations

import pytest
import torch
from support import fingerprint, hooks_left
from torch.utils._python_dispatch import TorchDispatchMode

from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.protocol import layer_count
from tl_knowledge.runs import corpus_tokens
from tl_knowledge.runs.corpus_tokens import activations_of

LENGTHS = (3, 6, 1, 4)


def texts(model):
    return [(torch.arange(length)[None] * (3 + i) + i) % int(model.cfg.d_vocab) for i, length in enumerate(LENGTHS)]


@pytest.mark.parametrize("components", [("neuron",), ("attn_out", "mlp_out", "resid_post"), ("head", "neuron", "resid_pre")])
def test_activations_of_texts_equal_one_forward_each(model, components):
    before, last = fingerprint(model), layer_count(model) - 1
    names = [component_hook(component, layer) for layer in range(last + 1) for component in components]
    read = activations_of(model, texts(model), names, names[-1] if components != ("head", "neuron", "resid_pre") else component_hook("neuron", last))
    caches = [model.run_with_cache(text, names_filter=names)[1] for text in texts(model)]
    for name in names:
        shape = read[name].shape
        plain = torch.cat([cache[name].reshape(length, *shape[1:]) for cache, length in zip(caches, LENGTHS, strict=True)])
        torch.testing.assert_close(read[name], plain.to(read[name]), rtol=0, atol=1e-10 * float(plain.abs().max()))
    assert fingerprint(model) == before and not hooks_left(model)


class Products(TorchDispatchMode):
    """The shapes of all matrix products."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.shapes.add(tuple(out.shape))
        return out


def test_padding_is_left_out_of_the_mlps(gpt2, monkeypatch):
    """An MLP is given the texts' own tokens only; where modules may not be narrowed the padding, too, and the result is the same."""
    name, d_mlp = component_hook("neuron", 1), int(gpt2.cfg.d_mlp)
    activations_of(gpt2, texts(gpt2), [name], name)  # the model's probes
    with Products() as packed:
        narrowed = activations_of(gpt2, texts(gpt2), [name], name)
    monkeypatch.setattr(corpus_tokens, "may_narrow", lambda model: False)
    with Products() as padded:
        whole = activations_of(gpt2, texts(gpt2), [name], name)
    assert {rows for rows, width in packed.shapes if width == d_mlp} == {sum(LENGTHS)}
    assert {rows for rows, width in padded.shapes if width == d_mlp} == {len(LENGTHS) * max(LENGTHS)}
    torch.testing.assert_close(narrowed[name], whole[name], rtol=0, atol=1e-10 * float(whole[name].abs().max()))
