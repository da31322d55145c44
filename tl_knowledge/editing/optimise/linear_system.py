"""One linear system, or an error that says which."""

from __future__ import annotations

import torch
from jaxtyping import Float

from tl_knowledge.errors import NumericalError

__all__ = ["solved"]


def solved(matrix: Float[torch.Tensor, "n n"], right: Float[torch.Tensor, "n k"], what: str) -> Float[torch.Tensor, "n k"]:
    """``matrix^-1 right``.

    Args:
        what: what the matrix is of, for an error.

    Raises:
        NumericalError: the matrix is singular.
    """
    solution, failed = torch.linalg.solve_ex(matrix, right)
    if int(failed) != 0 or not bool(solution.isfinite().all()):
        raise NumericalError(
            f"{what} give a singular system of {len(matrix)} equations; collect key moments of more tokens (a neuron that no token makes fire has "
            "none), or leave out facts that are the same."
        )
    return solution
