"""The maps of an MLP as places where an edit can act: the hook that shows a map's input, and the one that shows what it makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias
from weakref import WeakKeyDictionary

import torch

from tl_knowledge.arrays import HookFn
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
    query, output, neurons = mlp_input(model, layer), f"blocks.{layer}.mlp.hook_pre", component_hook("neuron", layer)
    remedy = "pass matrix='W_out'"
    if query is None or output not in model.hook_dict:
        raise UnsupportedModelError(f"{model_name(model)} does not show what W_in of layer {layer} reads and makes of it; {remedy}.")
    seen: dict[str, torch.Tensor] = {}

    def catch(name: str) -> HookFn:
        return lambda activation, *, hook: seen.__setitem__(name, activation.detach().flatten(0, -2))

    tokens = torch.arange(4, device=model_device(model))[None] % int(model.cfg.d_vocab)
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=[(query, catch(query)), (output, catch(output)), (neurons, catch(neurons))])
        plain = seen.pop(neurons, None)
        model.run_with_hooks(tokens, fwd_hooks=[(output, lambda x, *, hook: x + 1), (neurons, catch(neurons))])
    width = int(model.blocks[layer].mlp.W_out.shape[0])
    shown = {query, output, neurons} <= set(seen) and plain is not None and len(seen[query]) == len(seen[output])
    if not shown or seen[output].shape[-1] != width or torch.equal(seen[neurons], plain):  # pyright: ignore[reportArgumentType]
        raise UnsupportedModelError(f"what is written at {output} of {model_name(model)} is not what its neurons are made of; {remedy}.")
    return MLPMap("W_in", layer, query, output)
