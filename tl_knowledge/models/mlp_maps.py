"""The maps of an MLP as places where an edit can act: the hook that shows a map's input, and the one that shows what it makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias
from weakref import WeakKeyDictionary

import torch

from tl_knowledge.arrays import HookFn, Hooks
from tl_knowledge.errors import UnsupportedModelError, check_choice
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.protocol import HookedModel, mlp_input, model_device, model_name
from tl_knowledge.models.weights import output_hook

__all__ = ["MLPMap", "MapName", "Matrix", "mlp_map"]

Matrix: TypeAlias = Literal["W_in", "W_out"]
"""A block's up-projection (of a gated MLP: the gate), or its down-projection."""

MapName: TypeAlias = Literal["W_in", "W_out", "MLP"]
"""One of them, or the whole MLP, from what the first reads to what the last makes."""


@dataclass(frozen=True)
class MLPMap:
    """A map by the hooks of its input and of its output.

    Attributes:
        matrix: which of the block's.
        layer: the block.
        query: the hook of the input.
        output: the hook of the output.
    """

    matrix: MapName
    layer: int
    query: str
    output: str


_probed: WeakKeyDictionary[object, dict[int, MLPMap]] = WeakKeyDictionary()


def mlp_map(model: HookedModel, matrix: MapName, layer: int) -> MLPMap:
    """Where a map's input and output are shown, so that what is written at the output reaches the rest of the model.

    Raises:
        InputError: no such map.
        UnsupportedModelError: the model shows its input or its output nowhere.
    """
    check_choice("matrix", matrix, MapName)
    if matrix == "W_out":
        return MLPMap(matrix, layer, component_hook("neuron", layer), output_hook(model, layer))
    known = _probed.setdefault(model, {})
    if layer not in known:
        known[layer] = _up_projection(model, layer)
    return known[layer] if matrix == "W_in" else MLPMap(matrix, layer, known[layer].query, output_hook(model, layer))


def _up_projection(model: HookedModel, layer: int) -> MLPMap:
    """``W_in`` of a block, proved by a probe: where other values are written at its output, the neurons are others."""
    output, neurons = f"blocks.{layer}.mlp.hook_pre", component_hook("neuron", layer)
    inputs = [name for name in (mlp_input(model, layer), f"blocks.{layer}.mlp.in.hook_in") if name is not None and name in model.hook_dict]
    remedy = "GRACE can act at matrix='W_out' there"
    if output not in model.hook_dict:
        raise UnsupportedModelError(f"{model_name(model)} does not show what W_in of layer {layer} makes of its input; {remedy}.")
    tokens = torch.arange(4, device=model_device(model))[None] % int(model.cfg.d_vocab)
    seen = _seen(model, tokens, [*inputs, output, neurons])
    other = _seen(model, tokens, [neurons], [(output, lambda x, *, hook: x + 1)])
    fitting = [name for name in inputs if name in seen and output in seen and len(seen[name]) == len(seen[output])]
    reaches = neurons in seen and not torch.equal(seen[neurons], other[neurons])
    if not fitting or not reaches or seen[output].shape[-1] != int(model.blocks[layer].mlp.W_out.shape[0]):
        raise UnsupportedModelError(
            f"the hooks of {model_name(model)} do not show what W_in of layer {layer} reads, or what is written at {output} is not what its "
            f"neurons are made of; {remedy}."
        )
    return MLPMap("W_in", layer, fitting[0], output)


def _seen(model: HookedModel, tokens: torch.Tensor, names: Sequence[str], hooks: Hooks | None = None) -> dict[str, torch.Tensor]:
    """What some hooks show, positions flat, of those that are called."""
    seen: dict[str, torch.Tensor] = {}

    def catch(name: str) -> HookFn:
        return lambda activation, *, hook: seen.__setitem__(name, activation.detach().flatten(0, -2))

    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=[*(hooks or []), *((name, catch(name)) for name in names)])
    return seen
