"""Names for the arrays and hooks that the whole package passes around.

Axes are TransformerLens' words: ``batch pos head d_model d_mlp layer d_vocab``. A ``row`` is a batch row of a growing batch, a ``sample`` one
draw of the corrupting noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int

__all__ = ["Embeddings", "FloatArray", "HookFn", "Hooks", "Logits", "Residual", "SampleProbability", "Tokens", "as_pairs", "as_positions"]

HookFn: TypeAlias = Callable[..., torch.Tensor | None]
"""``fn(activation, *, hook)``: returns the new activation, or ``None`` to leave it alone."""

Hooks: TypeAlias = list[tuple[str, HookFn]]
"""What ``model.run_with_hooks(fwd_hooks=...)`` takes; lists compose with ``+``."""

Tokens: TypeAlias = Int[torch.Tensor, "batch pos"]
Embeddings: TypeAlias = Float[torch.Tensor, "batch pos d_model"]
Residual: TypeAlias = Float[torch.Tensor, "row pos d_model"]
Logits: TypeAlias = Float[torch.Tensor, "row answer d_vocab"]
SampleProbability: TypeAlias = Float[torch.Tensor, " sample"]

FloatArray: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
"""NumPy's ``NDArray[np.float64]``, which since NumPy 2.5 is a name that what reads annotations at run time does not see through."""

Second = TypeVar("Second")


def as_positions(value: Any) -> tuple[int, ...]:
    """Positions from an int or anything that iterates over ints (a ``Span``, a ``range``, a list)."""
    if isinstance(value, int):
        return (value,)
    positions: Sequence[Any] = list(value)
    return tuple(int(p) for p in positions)


def as_pairs(pairs: tuple[int, Second] | Iterable[tuple[int, Second]] | None) -> list[tuple[int, Second]]:
    """No pair, one or several, as a list.

    Example:
        >>> as_pairs((3, 1)), as_pairs([(3, 1), (4, 0)]), as_pairs(None)
        ([(3, 1)], [(3, 1), (4, 0)], [])
    """
    listed: list[Any] = list(pairs or ())
    return [cast("tuple[int, Second]", tuple(listed))] if listed and isinstance(listed[0], int) else listed
