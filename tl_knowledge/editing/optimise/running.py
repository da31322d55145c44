"""Mean and spread of rows that come batch by batch, each batch a value of its own (Welford; Chan et al. 1983)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float

__all__ = ["Spread", "pooled"]

LEAST_VARIANCE = 1e-8


@dataclass(frozen=True, eq=False)
class Spread:
    """Of some rows: how many, their mean, and the sum of their squared distances from it.

    Example:
        >>> rows = torch.tensor([[1.0], [2.0], [6.0]]).double()
        >>> pooled([Spread.of(rows[:1]), Spread.of(rows[1:])]).standardised(rows)[:, 0].round(decimals=3).tolist()
        [-0.756, -0.378, 1.134]
    """

    count: int
    mean: Float[torch.Tensor, " d"]
    squares: Float[torch.Tensor, " d"]

    @classmethod
    def of(cls, rows: Float[torch.Tensor, "row d"]) -> Spread:
        """The rows', in float64."""
        wide = rows.double()
        mean = wide.mean(0)
        return cls(len(rows), mean, (wide - mean).square().sum(0))

    @classmethod
    def unpacked(cls, packed: Float[torch.Tensor, "3 d"]) -> Spread:
        """What `packed` gave."""
        return cls(int(packed[0, 0]), packed[1], packed[2])

    @property
    def packed(self) -> Float[torch.Tensor, "3 d"]:
        """As one tensor, for a file."""
        return torch.stack([torch.full_like(self.mean, self.count), self.mean, self.squares])

    def standardised(self, rows: Float[torch.Tensor, "row d"]) -> Float[torch.Tensor, "row d"]:
        """Rows less the mean, in units of the (unbiased) standard deviation; of at least two rows."""
        return (rows.double() - self.mean) / (self.squares / (self.count - 1) + LEAST_VARIANCE).sqrt()


def pooled(parts: Iterable[Spread]) -> Spread:
    """What all rows together have."""
    first, *others = parts
    for other in others:
        count, apart = first.count + other.count, other.mean - first.mean
        mean = first.mean + apart * (other.count / count)
        first = Spread(count, mean, first.squares + other.squares + apart.square() * (first.count * other.count / count))
    return first
