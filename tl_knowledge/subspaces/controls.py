"""Subspaces that nobody trained, to hold a trained one against."""

from __future__ import annotations

import torch
from jaxtyping import Float

from tl_knowledge.metrics import widened
from tl_knowledge.subspaces.training import random_basis
from tl_knowledge.subspaces.trials import Basis, Trials

__all__ = ["control_bases"]


def control_bases(trials: Trials, dims: int, seed: int) -> dict[str, Basis]:
    """By name, of as many dimensions:

    - ``random``: uniformly drawn;
    - ``variance``: the principal components of the pairs' states;
    - ``means``: the principal components of the answers' mean states, which for two answers is the difference of their means (Marks and Tegmark
      2024); left out where there are too few answers for so many dimensions.
    """
    states = widened(torch.cat([trials.own, trials.states]))
    answers = trials.answers.mT.flip(0).flatten()  # the bases' first
    bases = {"random": random_basis(states.shape[1], dims, seed, states.dtype).to(states.device)}
    means = torch.stack([states[answers == answer].mean(0) for answer in answers.unique()])
    for name, rows in (("variance", states), ("means", means)):
        found = _components(rows, dims)
        if found is not None:
            bases[name] = found
    return bases


def _components(rows: Float[torch.Tensor, "row d"], dims: int) -> Basis | None:
    """The directions along which rows vary most; ``None`` where they vary in fewer."""
    _, sizes, directions = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    varied = int((sizes > sizes[0] * max(rows.shape) * torch.finfo(rows.dtype).eps).sum())
    return directions[:dims].mT.contiguous() if varied >= dims else None
