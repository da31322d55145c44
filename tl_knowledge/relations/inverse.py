"""The low-rank inverse of a relation's map (Hernandez et al. 2024, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float

from tl_knowledge.errors import ComponentError

__all__ = ["LowRankInverse"]


@dataclass(frozen=True, eq=False)
class LowRankInverse:
    """``V_r S_r^-1 U_r^T`` of a map's r largest singular values; the decomposition is made once for every r.

    Example:
        >>> inverse = LowRankInverse.of(torch.diag(torch.tensor([4.0, 2.0, 0.0])))
        >>> inverse.most, inverse.pull_back(torch.ones(3), 2)
        (2, tensor([0.2500, 0.5000, 0.0000]))
    """

    left: Float[torch.Tensor, "d_model direction"]
    values: Float[torch.Tensor, " direction"]
    right: Float[torch.Tensor, "direction d_model"]

    @classmethod
    def of(cls, weight: Float[torch.Tensor, "d_model d_model"]) -> LowRankInverse:
        """Of a map."""
        return cls(*torch.linalg.svd(weight))

    @property
    def most(self) -> int:
        """How many singular values stand above rounding."""
        return int((self.values > self.values[0] * len(self.values) * torch.finfo(self.values.dtype).eps).sum())

    def check(self, rank: int) -> None:
        """Refuse a rank below 1, or above the number of singular values that stand above rounding.

        Raises:
            ComponentError: such a rank, or a map that is zero.
        """
        if self.most == 0:
            raise ComponentError("the map is zero (nothing reads the subject's state after this layer), so it has no inverse; pass a lower layer.")
        if not 1 <= rank <= self.most:
            raise ComponentError(f"rank {rank} does not fit a map of rank {self.most}; pass 1 to {self.most}.")

    def pull_back(self, change: Float[torch.Tensor, "*row d_model"], rank: int) -> Float[torch.Tensor, "*row d_model"]:
        """What to add to the subject's state so that the object's state changes so.

        Raises:
            ComponentError: as `check`.
        """
        self.check(rank)
        return (change @ self.left[:, :rank] / self.values[:rank]) @ self.right[:rank]
