"""Pure functions from tensors to tensors."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int

__all__ = ["answer_log_probability", "answer_probability", "unlikelihood"]

ROWS_AT_ONCE = 256  # softmax copies the logits; a few rows at a time keep the copy small


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
    pieces = _few_rows(logits, answer)
    return torch.cat([rows.softmax(dim=-1).gather(-1, at).squeeze(-1).prod(dim=-1) for rows, at in pieces])


def answer_log_probability(
    logits: Float[torch.Tensor, "row answer d_vocab"], answer: Int[torch.Tensor, "#row answer"]
) -> Float[torch.Tensor, " row"]:
    """Log-probability of an answer in every row, in nats: finite where the probability itself would be rounded to zero.

    Args:
        logits, answer: as in `answer_probability`.

    Example:
        >>> answer_log_probability(torch.zeros(2, 1, 4), torch.tensor([[3]])).exp()
        tensor([0.2500, 0.2500])
    """
    pieces = _few_rows(logits, answer)
    return torch.cat([rows.log_softmax(dim=-1).gather(-1, at).squeeze(-1).sum(dim=-1) for rows, at in pieces])


def unlikelihood(log_probability: Float[torch.Tensor, "*row"]) -> Float[torch.Tensor, "*row"]:
    """``-log(1 - p)`` from ``log p``: the loss of an answer that should not be given; finite, and with a gradient up to ``p = 1 - 1e-6``.

    Example:
        >>> unlikelihood(torch.tensor(0.5).log())
        tensor(0.6931)
    """
    return -torch.log(-torch.expm1(log_probability.clamp(max=-1e-6)))


def _few_rows(logits: torch.Tensor, answer: torch.Tensor) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """Logits and the indices of the answers in them, a few rows at a time."""
    index = answer.to(logits.device)[..., None].expand(logits.shape[0], -1, 1)
    return zip(logits.split(ROWS_AT_ONCE), index.split(ROWS_AT_ONCE), strict=True)
