"""Pure functions from tensors to tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int

__all__ = [
    "answer_log_probability",
    "answer_logit",
    "answer_probability",
    "answer_rank",
    "divergence_from",
    "next_log_probabilities",
    "unlikelihood",
    "widened",
]

ROWS_AT_ONCE = 256  # softmax copies the logits; a few rows at a time keep the copy small


def answer_probability(logits: Float[torch.Tensor, "row answer d_vocab"], answer: Int[torch.Tensor, "#row answer"]) -> Float[torch.Tensor, " row"]:
    """Probability of the answer: the product over its tokens of their softmax probabilities.

    Args:
        logits: at the positions that predict the answer's tokens, in order.
        answer: each row's answer, or one answer for all; one token for single-token answers.

    Returns:
        One probability for each row, in at least single precision.

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


def answer_logit(
    logits: Float[torch.Tensor, "row answer d_vocab"], answer: Int[torch.Tensor, "#row answer"], against: Sequence[int] = ()
) -> Float[torch.Tensor, " row"]:
    """Logit of an answer's first token in every row, less the mean logit of other tokens where some are given.

    Args:
        logits, answer: as in `answer_probability`.
        against: the other tokens.

    Returns:
        In at least single precision; NaN where any logit of the row is.

    Example:
        >>> answer_logit(torch.arange(4.0)[None, None], torch.tensor([[3]]), against=[0, 1])
        tensor([2.5000])
    """
    first = widened(logits[:, 0])
    own = first.gather(-1, _first(logits, answer))[:, 0]
    return _unless_broken(own - first[:, list(against)].mean(-1) if against else own, first)


def answer_rank(logits: Float[torch.Tensor, "row answer d_vocab"], answer: Int[torch.Tensor, "#row answer"]) -> Float[torch.Tensor, " row"]:
    """How many tokens have a larger logit than the answer's first, in every row: 0 where it is the prediction.

    Args:
        logits, answer: as in `answer_probability`.

    Returns:
        Whole numbers in at least single precision; NaN where any logit of the row is.

    Example:
        >>> answer_rank(torch.arange(4.0)[None, None], torch.tensor([[2]]))
        tensor([1.])
    """
    first = logits[:, 0]
    ranks = (first > first.gather(-1, _first(logits, answer))).sum(-1)
    return _unless_broken(ranks.to(torch.promote_types(logits.dtype, torch.float32)), first)


def next_log_probabilities(logits: Float[torch.Tensor, "row answer d_vocab"]) -> Float[torch.Tensor, "row d_vocab"]:
    """Log-probability of every token at the first of the positions, in nats, in at least single precision."""
    return widened(logits[:, 0]).log_softmax(-1)


def divergence_from(clean: Float[torch.Tensor, "#row d_vocab"], logits: Float[torch.Tensor, "row answer d_vocab"]) -> Float[torch.Tensor, " row"]:
    """``KL(clean || row) = sum_v p(v) (log p(v) - log q(v))`` in nats: how far a row's next-token distribution ``q`` is from the clean run's ``p``.

    Args:
        clean: ``log p``, as `next_log_probabilities` gives it; one for each row, or one for all. Tokens of probability 0 add nothing.
        logits: of the rows; their first position is read.

    Example:
        >>> clean = torch.tensor([[0.5, 0.25, 0.25, 0.0]]).log()
        >>> divergence_from(clean, torch.zeros(1, 1, 4))
        tensor([0.3466])
    """
    possible = clean > -torch.inf
    log_p = clean.masked_fill(~possible, 0)
    pieces = zip(
        logits.split(ROWS_AT_ONCE),
        *(each.expand(len(logits), -1).split(ROWS_AT_ONCE) for each in (log_p, possible)),
        strict=True,
    )
    return torch.cat([(p.exp() * (p - next_log_probabilities(rows).masked_fill(~real, 0)) * real).sum(-1) for rows, p, real in pieces])


def unlikelihood(log_probability: Float[torch.Tensor, "*row"]) -> Float[torch.Tensor, "*row"]:
    """``-log(1 - p)`` from ``log p``: the loss of an answer that should not be given; finite, and with a gradient up to ``p = 1 - 1e-6``.

    Example:
        >>> unlikelihood(torch.tensor(0.5).log())
        tensor(0.6931)
    """
    return -torch.log(-torch.expm1(log_probability.clamp(max=-1e-6)))


def _few_rows(logits: torch.Tensor, answer: torch.Tensor) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """Logits, in at least single precision, and the indices of the answers in them, a few rows at a time."""
    index = answer.to(logits.device)[..., None].expand(logits.shape[0], -1, 1)
    return zip(map(widened, logits.split(ROWS_AT_ONCE)), index.split(ROWS_AT_ONCE), strict=True)


def _first(logits: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """The first token of each row's answer, ``[row 1]``."""
    return answer[:, :1].to(logits.device).expand(len(logits), 1)


def widened(values: Float[torch.Tensor, "*row"]) -> Float[torch.Tensor, "*row"]:
    """In at least single precision: a difference or a softmax of halves would be rounded twice, to two or three digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _unless_broken(values: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """NaN where the row's logits ``[row d_vocab]`` are: a comparison takes NaN for small, and a single logit does not see the others."""
    return values.masked_fill(~logits.detach().amax(-1).isfinite(), torch.nan)
