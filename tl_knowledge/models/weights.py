"""``W_out`` and its bias: where they are, where their output is, and how a change of them goes into a Hugging Face model.

Changes of the model's own weights go through its ledger (`tl_knowledge.models.ledger`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float

from tl_knowledge.arrays import HookFn
from tl_knowledge.errors import UnsupportedModelError
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.protocol import HookedModel, as_rows, model_device, model_name

__all__ = [
    "OutputBias",
    "add_to_hugging_face",
    "output_bias",
    "output_hook",
    "output_weights",
]

OUTPUT_PROJECTIONS = ("c_proj", "down_proj", "dense_4h_to_h", "fc_out", "fc2", "Wo", "output.dense")  # of MLPs, as Hugging Face calls them

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
    with torch.no_grad():
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


def add_to_hugging_face(
    module: torch.nn.Module, deltas: Mapping[int, Delta], biases: Mapping[int, Float[torch.Tensor, " d_model"]] | None = None
) -> None:
    """Add to the MLPs' output projections of a Hugging Face model, in all layers or in none.

    Args:
        deltas: by layer, of the weights.
        biases: by layer, of the biases.

    Raises:
        UnsupportedModelError: a layer without such a projection of that shape, or one without a bias that should change.
    """
    changes: list[tuple[torch.Tensor, torch.Tensor]] = []
    of_biases = dict(biases or {})
    layers: set[int] = {*deltas, *of_biases}
    for layer in sorted(layers):
        part = _output_projection(module, layer)
        held: torch.Tensor | None = getattr(part, "weight", None)
        if layer in deltas:
            delta = deltas[layer] if type(part).__name__ == "Conv1D" else deltas[layer].T
            changes.append((_of_shape(held, delta, module, layer, "output projection"), delta))
        if layer in of_biases:
            bias = of_biases[layer]
            changes.append((_of_shape(getattr(part, "bias", None), bias, module, layer, "bias of an output projection"), bias))
    with torch.no_grad():
        for held, change in changes:
            held.copy_((held.double() + change.to(held.device).double()).to(held.dtype))


def _output_projection(module: torch.nn.Module, layer: int) -> torch.nn.Module | None:
    """A layer's only output projection, if there is just one; of an encoder with a decoder (T5), whose blocks are counted one after the other."""
    stacks = [getattr(getattr(module, side, None), "block", None) for side in ("encoder", "decoder")]
    if all(stack is not None for stack in stacks):
        blocks: list[Any] = [block for stack in stacks if stack is not None for block in stack]
        return getattr(blocks[layer].layer[-1].DenseReluDense, "wo", None) if layer < len(blocks) else None
    pattern = re.compile(rf"(^|\.){layer}\.(.*\.)?({'|'.join(OUTPUT_PROJECTIONS)})$")
    parts = [part for name, part in module.named_modules() if pattern.search(name) and "attn" not in name and "attention" not in name]
    return parts[0] if len(parts) == 1 else None


def _of_shape(held: torch.Tensor | None, change: torch.Tensor, module: torch.nn.Module, layer: int, what: str) -> torch.Tensor:
    """What a module holds, where it has the shape of what is to be added.

    Raises:
        UnsupportedModelError: it has not.
    """
    if held is None or held.shape != change.shape:
        there = "none" if held is None else str(tuple(held.shape))
        raise UnsupportedModelError(
            f"layer {layer} of {type(module).__name__} has no single {what} of {tuple(change.shape)} (there is: {there}); "
            "pass the Hugging Face model that the edited one was loaded from."
        )
    return held
