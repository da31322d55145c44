"""Lenses: what carries states of earlier layers to where the last one's are, so that the unembedding reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float

from tl_knowledge.arrays import as_positions
from tl_knowledge.errors import ComponentError, UnsupportedModelError
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.hook_names import EMBEDDINGS
from tl_knowledge.models.protocol import HookedModel, layer_count, model_name

__all__ = ["StateLens", "carried", "check_lens", "lens_name", "lens_target", "read_layers", "state_layers"]


@runtime_checkable
class StateLens(Protocol):
    """What carries states of earlier layers to where the last one's are: a `TunedLens`, affine maps, TransformerLens' ``JacobianLens``."""

    @property
    def source_layers(self) -> Iterable[int]:
        """The layers after which it takes states; ``-1`` is the embeddings."""
        ...

    def transport(self, residual: torch.Tensor, layer: int) -> torch.Tensor:
        """States ``[... d_model]`` of a layer, carried."""
        ...


def lens_name(lens: object) -> str:
    """A lens' class in words.

    Example:
        >>> lens_name(type("TunedLens", (), {})())
        'tuned lens'
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(lens).__name__).lower()


def carried(lens: StateLens | None, states: Float[torch.Tensor, "*state d_model"], layer: int) -> Float[torch.Tensor, "*state d_model"]:
    """States of a layer as a lens carries them; as they are without one, and where it does not take that layer's.

    Raises:
        ComponentError: it gives another shape.
    """
    if lens is None or layer not in set(lens.source_layers):
        return states
    moved = lens.transport(states, layer).detach().to(states)
    if moved.shape != states.shape:
        raise ComponentError(
            f"{type(lens).__name__} makes {tuple(moved.shape)} of states {tuple(states.shape)} after layer {layer}; pass one of this model."
        )
    return moved


def check_lens(model: HookedModel, lens: StateLens) -> None:
    """Have a lens refuse a model that it was not made for, where it can: ours have ``check``, TransformerLens' ``validate_model``.

    Raises:
        ModelStateError: another model.
        UnsupportedModelError: one that TransformerLens' lens does not read.
        ComponentError: a layer that this model does not have.
    """
    own: Any = getattr(lens, "check", None)
    theirs: Any = getattr(lens, "validate_model", None)
    if own is not None:
        own(model)
    elif theirs is not None:
        try:
            theirs(model)
        except (TypeError, ValueError) as error:
            raise UnsupportedModelError(f"{type(lens).__name__} does not read {model_name(model)}: {error}") from error
    state_layers(model, [*lens.source_layers])


def lens_target(model: HookedModel, lens: StateLens) -> int | None:
    """Where a lens carries states: to the last layer unless it says otherwise (``into_layer``); ``None`` where each stays in its own."""
    return getattr(lens, "into_layer", layer_count(model) - 1)


def read_layers(model: HookedModel, lens: StateLens | None) -> tuple[int, ...]:
    """The layers whose states the unembedding can read: those that a lens takes and the last one; all without a lens.

    Raises:
        ComponentError: a lens that carries states elsewhere than to the last layer.
    """
    last = layer_count(model) - 1
    if lens is None:
        return state_layers(model, None)
    check_lens(model, lens)
    target = lens_target(model, lens)
    if target != last:
        where = "to their own layers" if target is None else f"to layer {target}"
        raise ComponentError(
            f"{type(lens).__name__} carries states {where}, and the unembedding reads layer {last}; pass one that carries them there."
        )
    return state_layers(model, {*lens.source_layers, last})


def state_layers(model: HookedModel, layers: int | Iterable[int] | None) -> tuple[int, ...]:
    """The layers after which states are read, ascending, the embeddings (``-1``) among them; all for ``None``.

    Raises:
        ComponentError: no layer, or one that the model does not have.
    """
    if layers is None:
        return (EMBEDDINGS, *check_layers(model, None))
    asked = as_positions(layers)
    blocks = [layer for layer in asked if layer != EMBEDDINGS]
    known = check_layers(model, blocks) if blocks or not asked else ()
    return tuple(sorted({*known, *({EMBEDDINGS} & {*asked})}))
