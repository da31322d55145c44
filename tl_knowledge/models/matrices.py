"""Every ``[in, out]`` matrix of a block, and where the model holds it.

``W_out`` is held by its layer's number elsewhere (`tl_knowledge.models.weights`); here are the others, and it among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float

from tl_knowledge.errors import ComponentError, InputError, UnsupportedModelError, check_choice
from tl_knowledge.models.protocol import HookedModel, model_name

__all__ = [
    "ATTENTION",
    "MATRICES",
    "BlockMatrix",
    "Matrix",
    "as_held",
    "check_matrices",
    "held_matrix",
    "matrix_weights",
    "memory_like",
    "parameters_sharing",
    "part_of",
    "places_in",
]

Matrix: TypeAlias = Literal["W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out"]
"""A block's matrices, as TransformerLens names them; those of attention stand for all heads side by side."""

MATRICES: tuple[Matrix, ...] = get_args(Matrix)

ATTENTION = ("W_Q", "W_K", "W_V", "W_O")

Weights: TypeAlias = Float[torch.Tensor, "d_in d_out"]


@dataclass(frozen=True, order=True)
class BlockMatrix:
    """One block's matrix.

    Example:
        >>> str(BlockMatrix(3, "W_in")), BlockMatrix.named("blocks.0.attn.W_Q")
        ('blocks.3.mlp.W_in', BlockMatrix(layer=0, name='W_Q'))
    """

    layer: int
    name: Matrix

    def __post_init__(self) -> None:
        check_choice("matrix", self.name, MATRICES, ComponentError)

    def __str__(self) -> str:
        return f"blocks.{self.layer}.{'attn' if self.name in ATTENTION else 'mlp'}.{self.name}"

    @classmethod
    def named(cls, name: str) -> BlockMatrix:
        """The matrix that TransformerLens calls so."""
        _, layer, _, matrix = name.split(".")
        check_choice("matrix", matrix, MATRICES, ComponentError)
        return cls(int(layer), matrix)  # pyright: ignore[reportArgumentType]  # checked


def held_matrix(model: HookedModel, place: BlockMatrix) -> torch.Tensor:
    """What the model holds: ``[d_in d_out]`` of an MLP, ``[head d_in d_out]`` of attention.

    Raises:
        UnsupportedModelError: the model has no such matrix.
    """
    held = _held(model, place)
    if held is not None:
        return held
    raise UnsupportedModelError(f"{model_name(model)} has no {place}; a model without a gated MLP has no W_gate, for example.")


def _held(model: HookedModel, place: BlockMatrix) -> torch.Tensor | None:
    block = model.blocks[place.layer]
    part = getattr(block, "attn" if place.name in ATTENTION else "mlp", None)
    for name in (f"_{place.name}", place.name):  # HookedTransformer holds the fewer keys and values of grouped heads under an underscore
        weights = getattr(part, name, None)
        if isinstance(weights, torch.Tensor):
            return weights
    return None


def matrix_weights(model: HookedModel, place: BlockMatrix) -> Weights:
    """The matrix as ``[d_in, d_out]``: of attention all heads side by side (``W_O``: one under the other)."""
    held = held_matrix(model, place)
    if held.ndim == 2:
        return held
    return held.flatten(0, 1) if place.name == "W_O" else held.transpose(0, 1).flatten(1)


def check_matrices(matrices: Sequence[str]) -> None:
    """Refuse names that are no matrices, none at all, or one twice.

    Raises:
        ComponentError: an unknown matrix.
        InputError: none, or one twice.
    """
    for name in matrices:
        check_choice("matrix", name, MATRICES, ComponentError)
    if not matrices or len(set(matrices)) < len(matrices):
        raise InputError(f"matrices={tuple(matrices)} names no matrix, or one twice; pass each once, such as ('W_out',).")


def places_in(model: HookedModel, layers: Sequence[int], matrices: Sequence[Matrix] | None) -> list[BlockMatrix]:
    """Some matrices of some blocks, in that order; ``None``: all that each block has.

    Example:
        >>> import tl_knowledge as tlk
        >>> [str(place) for place in places_in(tlk.load_model("factlm"), (0,), None)][-2:]
        ['blocks.0.mlp.W_in', 'blocks.0.mlp.W_out']

    Raises:
        UnsupportedModelError: a matrix that was named, and that the model does not have.
    """
    places = [BlockMatrix(layer, name) for layer in layers for name in (MATRICES if matrices is None else matrices)]
    if matrices is None:
        return [place for place in places if _held(model, place) is not None]
    for place in places:
        held_matrix(model, place)
    return places


def as_held(change: Weights, held: torch.Tensor, place: BlockMatrix) -> torch.Tensor:
    """A change ``[d_in, d_out]`` in the shape that the model holds."""
    if held.ndim == 2:
        return change
    heads = held.shape[0]
    return change.unflatten(0, (heads, -1)) if place.name == "W_O" else change.unflatten(1, (heads, -1)).transpose(0, 1)


def parameters_sharing(model: HookedModel, held: torch.Tensor) -> dict[str, torch.Tensor]:
    """The parameters that lie in the same memory as some weights, by name: bridges show a fused ``qkv`` and its parts; none for a copy."""
    pointer = held.untyped_storage().data_ptr()
    return {str(name): each for name, each in model.named_parameters() if each.untyped_storage().data_ptr() == pointer}


def memory_like(held: torch.Tensor) -> torch.Tensor:
    """Zeros for all the memory that some weights are a part of, in one row."""
    return held.new_zeros(held.untyped_storage().nbytes() // held.element_size())


def part_of(memory: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The part of such a row that a tensor is of its own memory.

    Example:
        >>> weights = torch.arange(6.0).reshape(2, 3)
        >>> part_of(10 * torch.arange(6.0), weights[:, 1:].T)
        tensor([[10., 40.],
                [20., 50.]])
    """
    return memory.as_strided(like.size(), like.stride(), like.storage_offset())
