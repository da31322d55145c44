"""Pure functions from tensors to tensors."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int

__all__ = ["answer_probability", "unlikelihood"]

ROWS_AT_ONCE = 256  # softmax copies the logits: a few rows at a time keep the copy small


def answer_probability(logits: Float[torch.Tensor, "row answer d_vocab"], answer: Int[torch.Tensor, "#row answer"]) -> Float[torch.Tensor, " row"]:
    """Probability of the answer: the product over its tokens of their softmax probabilities.

    Args:
        logits: at the positions that predict the answer's tokens, in order.
        answer: each row's answer, or one answer for all; one token for single-token answers.

    Returns:
        One probability for each row.

    Example:
        >>> answer_probability(torch.zeros(2, 1, 4), torch.tensor([[3]]))
        tensor([0.2500, 0.2500])
    """
    index = answer.to(logits.device)[..., None].expand(logits.shape[0], -1, 1)
    pieces = zip(logits.split(ROWS_AT_ONCE), index.split(ROWS_AT_ONCE), strict=True)
    return torch.cat([rows.softmax(dim=-1).gather(-1, at).squeeze(-1).prod(dim=-1) for rows, at in pieces])


def unlikelihood(log_probability: Float[torch.Tensor, "*row"]) -> Float[torch.Tensor, "*row"]:
    """``-log(1 - p)`` from ``log p``: the loss of something that should not be said; finite and with a gradient up to ``p = 1 - 1e-6``.

    Example:
        >>> unlikelihood(torch.tensor(0.5).log())
        tensor(0.6931)
    """
    return -torch.log(-torch.expm1(log_probability.clamp(max=-1e-6)))
