"""The maps of an MLP as places where an edit can act: the hook that shows a map's input, and the one that shows what it makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from tl_knowledge.errors import UnsupportedModelError, check_choice
from tl_knowledge.models.hook_names import component_hook
from tl_knowledge.models.matrices import BlockMatrix, places_in
from tl_knowledge.models.matrix_sites import Sites, matrix_sites
from tl_knowledge.models.protocol import HookedModel, model_name
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


def mlp_map(model: HookedModel, matrix: MapName, layer: int) -> MLPMap:
    """Where a map's input and output are shown, so that what is written at the output reaches the rest of the model.

    On a ``HookedTransformer`` whose norms keep their gain the input is shown before it.

    Raises:
        InputError: no such map.
        UnsupportedModelError: the model shows its input or its output nowhere.
    """
    check_choice("matrix", matrix, MapName)
    if matrix == "W_out":
        return MLPMap(matrix, layer, component_hook("neuron", layer), output_hook(model, layer))
    sites = _first_map(model, layer)
    return MLPMap(matrix, layer, sites.reads, sites.writes if matrix == "W_in" else output_hook(model, layer))


def _first_map(model: HookedModel, layer: int) -> Sites:
    """The hooks around ``W_in``, or around the gate of a gated MLP."""
    gate = BlockMatrix(layer, "W_gate")
    place = gate if places_in(model, (layer,), None).count(gate) else BlockMatrix(layer, "W_in")
    try:
        return matrix_sites(model, place)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"the hooks of {model_name(model)} do not show what W_in of layer {layer} reads, and what it makes of that ({error}) "
            "GRACE can act at matrix='W_out' there."
        ) from error
