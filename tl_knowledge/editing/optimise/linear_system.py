"""One linear system, or an error that says which."""

from __future__ import annotations

import torch
from jaxtyping import Float

from tl_knowledge.errors import NumericalError

__all__ = ["solved"]

POWERS = 3


def solved(matrix: Float[torch.Tensor, "n n"], right: Float[torch.Tensor, "n k"], what: str) -> Float[torch.Tensor, "n k"]:
    """``matrix^-1 right``; an unknown that no equation names is 0, as a neuron that never fires.

    Args:
        what: what the matrix is of, for an error.

    Raises:
        NumericalError: the matrix is singular, or is so but for rounding, of which the solution would be made.

    Example:
        >>> solved(torch.tensor([[2.0, 0.0], [0.0, 4.0]]), torch.ones(2, 1), "the keys").T
        tensor([[0.5000, 0.2500]])
    """
    named = matrix.any(0) | matrix.any(1) | right.any(1)
    if bool(named.any()) and not bool(named.all()):
        solution = torch.zeros_like(right)
        solution[named] = solved(matrix[named][:, named], right[named], what)
        return solution
    factors, pivots, failed = torch.linalg.lu_factor_ex(matrix)
    solution = torch.linalg.lu_solve(factors, pivots, right) if int(failed) == 0 else right
    if (
        int(failed) != 0
        or not bool(solution.isfinite().all())
        or _largest_inverse(factors, pivots) * _norm(matrix) > 1 / torch.finfo(matrix.dtype).eps
    ):
        raise NumericalError(
            f"{what} give a singular system of {len(matrix)} equations; collect key moments of more tokens (a neuron that no token makes fire has "
            "none), or leave out facts that are the same."
        )
    return solution


def _norm(matrix: torch.Tensor) -> float:
    """The largest sum of a row's sizes."""
    return float(matrix.abs().sum(1).max())


def _largest_inverse(factors: torch.Tensor, pivots: torch.Tensor) -> float:
    """How much the inverse stretches a direction at most, from below: some steps of the power method on it, from a random direction."""
    direction, stretched = torch.randn(len(factors), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(factors), 0.0
    for _ in range(POWERS):
        direction = torch.linalg.lu_solve(factors, pivots, direction / direction.norm())
        stretched = float(direction.norm())
    return stretched
