"""``W_out`` and its bias: where they are, and where their output is.

Changes of the model's own weights go through its ledger (`tl_knowledge.models.ledger`).
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float

from tl_knowledge.arrays import HookFn
from tl_knowledge.errors import UnsupportedModelError
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.protocol import HookedModel, as_rows, model_device, model_name
from tl_knowledge.models.reread import as_it_is

__all__ = [
    "OutputBias",
    "output_bias",
    "output_hook",
    "output_weights",
]

_output_hooks: WeakKeyDictionary[object, dict[int, str]] = WeakKeyDictionary()

Delta = Float[torch.Tensor, "d_mlp d_model"]


def output_weights(model: HookedModel, layer: int) -> Delta:
    """A block's ``W_out``, as the model holds it."""
    weights: torch.Tensor = model.blocks[layer].mlp.W_out
    return weights


@dataclass(frozen=True)
class OutputBias:
    """The bias that a block adds to what ``W_out`` makes, as a place that can be changed; the place of ``W_out`` is its layer's number."""

    layer: int


def output_bias(model: HookedModel, layer: int) -> Float[torch.Tensor, " d_model"] | None:
    """The bias of a block's ``W_out``, as the model holds it; ``None`` where it has none."""
    bias: torch.Tensor | None = getattr(model.blocks[layer].mlp, "b_out", None)
    return bias


def output_hook(model: HookedModel, layer: int) -> str:
    """The hook of ``W_out``'s own output, before any norm or residual.

    Found by a probe: what is recorded there is ``x @ W_out + b``, with the key ``x`` from ``mlp.hook_post``.

    Raises:
        UnsupportedModelError: no hook shows it, because the model normalises or scales the MLP's output first.
    """
    known = _output_hooks.setdefault(model, {})
    if layer not in known:
        known[layer] = _find_output_hook(model, layer)
    return known[layer]


def _find_output_hook(model: HookedModel, layer: int) -> str:
    key_site = component_hook("neuron", layer)
    candidates = [name for name in (f"blocks.{layer}.mlp.out.hook_out", component_hook("mlp_out", layer)) if name in model.hook_dict]
    seen: dict[str, torch.Tensor] = {}

    def catch(name: str) -> HookFn:
        return lambda activation, *, hook: seen.__setitem__(name, activation.detach().flatten(0, -2))

    tokens = as_rows(model, torch.arange(4, device=model_device(model))[None] % int(model.cfg.d_vocab))
    with torch.no_grad(), as_it_is(model):
        model.run_with_hooks(tokens, fwd_hooks=[(name, catch(name)) for name in (key_site, *candidates)])
    weights = output_weights(model, layer).detach()
    for name in candidates:
        if key_site in seen and name in seen and _differs_by_a_bias(seen[name], seen[key_site] @ weights):
            return name
    raise UnsupportedModelError(
        f"no hook of {model_name(model)} shows what W_out of layer {layer} makes of its neurons ({key_site} @ W_out + b): "
        "the model normalises or scales it first. Load the model with backend='bridge', which shows W_out's own output."
    )


def _differs_by_a_bias(output: torch.Tensor, product: torch.Tensor) -> bool:
    """Whether what is added to the product is the same for every token."""
    if output.shape != product.shape:
        return False
    bias, rounding = output - product, 1e-8 if output.dtype == torch.float64 else 5e-2  # what a norm does is larger than either
    return bool((bias - bias[:1]).abs().max() <= rounding * torch.maximum(product.abs().max(), output.abs().max()))
