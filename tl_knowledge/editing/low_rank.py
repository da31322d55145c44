"""A matrix' change as two factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float

from tl_knowledge.door import public
from tl_knowledge.models.matrices import BlockMatrix

__all__ = ["BlockMatrix", "LowRank"]


@public
@dataclass(frozen=True, eq=False)
class LowRank:
    """``dW = left @ right``: the change of one matrix ``[d_in d_out]``; of ``W_out`` that is ``[d_mlp d_model]``."""

    left: Float[torch.Tensor, "d_in rank"]
    right: Float[torch.Tensor, "rank d_out"]

    @property
    def dense(self) -> Float[torch.Tensor, "d_in d_out"]:
        """The change itself."""
        return self.left @ self.right

    @property
    def rank(self) -> int:
        """Columns of the factors; the change's rank is at most this."""
        return self.left.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix it changes."""
        return self.left.shape[0], self.right.shape[1]
