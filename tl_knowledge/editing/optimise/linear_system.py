"""One linear system, or an error that says which."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float

from tl_knowledge.errors import NumericalError

__all__ = ["solved"]

POWERS = 3


def solved(
    matrix: Float[torch.Tensor, "n n"], right: Float[torch.Tensor, "n k"], what: str, *, among: Bool[torch.Tensor, " n"] | None = None
) -> Float[torch.Tensor, "n k"]:
    """``matrix^-1 right``.

    Args:
        what: what the matrix is of, for an error.
        among: the unknowns and equations that take part, such as the neurons that ever fire; the other unknowns are 0. All when ``None``.

    Raises:
        NumericalError: the matrix is singular, or is so but for rounding, of which the solution would be made.

    Example:
        >>> solved(torch.tensor([[2.0, 0.0], [0.0, 4.0]]), torch.ones(2, 1), "the keys").T
        tensor([[0.5000, 0.2500]])
    """
    if among is not None and not bool(among.all()):
        solution = torch.zeros_like(right)
        solution[among] = solved(matrix[among][:, among], right[among], what)
        return solution
    factors, pivots, failed = torch.linalg.lu_factor_ex(matrix)
    solution = torch.linalg.lu_solve(factors, pivots, right) if int(failed) == 0 else right
    if (
        int(failed) != 0
        or not bool(solution.isfinite().all())
        or _largest_inverse(factors, pivots) * _norm(matrix) > 1 / torch.finfo(matrix.dtype).eps
    ):
        raise NumericalError(
            f"{what} give a singular system of {len(matrix)} equations; collect key moments of more tokens, or leave out facts that are the same."
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
