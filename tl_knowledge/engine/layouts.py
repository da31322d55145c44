"""Weights laid out as they are multiplied, for as long as several forwards read them.

``HookedTransformer`` keeps attention's weights by head, and copies them into one matrix before every product; it copies the unembedding, turned
round, before every answer. For the length of a ``with`` the attention reads copies that lie as these matrices do, with the same values bit for bit,
and the unembedding is multiplied as it lies, in single and double precision and where that gives the same to rounding.

No parameter is touched: what is read instead lies in the modules' own dictionaries, and is taken out again whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from tl_knowledge.engine.proof import Proof, same
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.routed import is_bare

__all__ = ["laid_out_weights", "layout_room"]

EXACT_IN = (torch.float32, torch.float64)

PROBED = 3  # states that are unembedded in both ways

_READ_AS: dict[str, tuple[int, int, int]] = {"W_Q": (0, 2, 1), "W_K": (0, 2, 1), "W_V": (0, 2, 1), "W_O": (2, 0, 1)}
"""The order of their axes, ``[head d_model d_head]`` or ``[head d_head d_model]``, in which attention's weights become one matrix."""


@contextmanager
def laid_out_weights(model: HookedModel, most: float) -> Generator[None]:
    """For the length of a ``with``, spare a ``HookedTransformer`` the copies that it makes of weights in every forward.

    Args:
        most: bytes that the copies may take; where they are too many the first layers have some.
    """
    read: list[tuple[dict[str, Any], str]] = []
    try:
        try:
            if _may(model):
                _put_in(model, most, read)
            yield
        finally:
            _take_out(read)
    except BaseException:  # an interrupt does not stop it half-way
        _take_out(read)
        raise


def layout_room(model: HookedModel, memory_budget: float) -> int:
    """Bytes of a memory budget to leave for the copies: what all of them take, or nothing where that is over half of it."""
    if not _may(model):
        return 0
    room = sum(weights.nbytes for _, _, weights in _copied(model))
    return room if 2 * room <= memory_budget else 0


def _may(model: HookedModel) -> bool:
    return next(iter(model.parameters())).dtype in EXACT_IN and is_bare(model)


def _put_in(model: HookedModel, most: float, read: list[tuple[dict[str, Any], str]]) -> None:
    """Note each name, then put in what is read there."""
    unembed: Any = getattr(model, "unembed", None)
    if _copies(unembed) and not _UNEMBEDDING.refusal(model):
        read.append((vars(unembed), "forward"))
        vars(unembed)["forward"] = partial(_unembed, unembed)
    left = most
    for attention, name, weights in _copied(model):
        left -= weights.nbytes
        if left < 0:
            return
        read.append((vars(attention), name))
        vars(attention)[name] = _laid_out(weights.detach(), _READ_AS[name])


def _copied(model: HookedModel) -> Iterator[tuple[Any, str, torch.Tensor]]:
    """Attention's weights that every forward copies: the module, their name and themselves."""
    for block in model.blocks:
        attention: Any = getattr(block, "attn", None)
        for name in _READ_AS if _by_head(attention) else ():
            weights = vars(attention)["_parameters"].get(name)
            if weights is not None and weights.ndim == 3 and name not in vars(attention):
                yield attention, name, weights


def _take_out(read: list[tuple[dict[str, Any], str]]) -> None:
    for own, name in read:
        own.pop(name, None)


def _laid_out(weights: torch.Tensor, order: tuple[int, int, int]) -> torch.Tensor:
    """The same values in the same places, of which the axes in another order lie side by side in memory."""
    back = sorted(range(3), key=order.__getitem__)
    return weights.permute(order).contiguous().permute(back)


def _by_head(attention: Any) -> bool:
    """Of ``HookedTransformer``, whose weights are no views of Hugging Face's."""
    return hasattr(attention, "calculate_qkv_matrices") and not hasattr(attention, "original_component")


def _copies(unembed: Any) -> bool:
    """Of ``HookedTransformer``, and nobody's."""
    own = vars(unembed) if isinstance(unembed, torch.nn.Module) else {}
    return type(unembed).__name__ == "Unembed" and {"W_U", "b_U"} <= own["_parameters"].keys() and "forward" not in own


def _unembed(unembed: Any, residual: torch.Tensor) -> torch.Tensor:
    """What its own ``forward`` computes."""
    logits = torch.nn.functional.linear(unembed.hook_in(residual), unembed.W_U.T, unembed.b_U)
    return unembed.hook_out(logits)


def _probe(model: HookedModel) -> str:
    unembed: Any = getattr(model, "unembed", None)
    weights = unembed.W_U
    states = torch.linspace(-2, 3, PROBED * len(weights), dtype=weights.dtype, device=weights.device).cos().view(1, PROBED, -1)
    forward: Callable[[torch.Tensor], torch.Tensor] = unembed.forward
    return "" if same(_unembed(unembed, states), forward(states), strict=True) else "the unembedding does something else"


_UNEMBEDDING = Proof("unembedding without a copy", _probe, instead="")
