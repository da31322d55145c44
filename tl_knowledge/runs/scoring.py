"""A metric of effects, computed from logits."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int

from tl_knowledge.errors import InputError, NumericalError
from tl_knowledge.metrics import answer_log_probability, answer_logit, answer_probability, answer_rank, divergence_from, next_log_probabilities
from tl_knowledge.runs.metric import Metric

__all__ = ["check_gradient", "clean_reference", "row_scores"]


def clean_reference(metric: Metric, logits: Float[torch.Tensor, "row answer d_vocab"]) -> Float[torch.Tensor, "row d_vocab"] | None:
    """What `row_scores` needs of clean runs, from their logits: for ``kl`` their log-probabilities, for all others nothing."""
    return next_log_probabilities(logits).detach() if metric.kind == "kl" else None


def row_scores(
    metric: Metric,
    logits: Float[torch.Tensor, "row answer d_vocab"],
    answer: Int[torch.Tensor, "#row answer"],
    reference: Float[torch.Tensor, "#row d_vocab"] | None = None,
) -> Float[torch.Tensor, " row"]:
    """The metric in every row; NaN where its logits are.

    Args:
        logits: at the positions that predict the answer's tokens, in order.
        answer: each row's answer, or one for all.
        reference: what `clean_reference` gave for each row's clean run, or one for all.

    Raises:
        InputError: a function that does not give one number a row, each from its own row.
        NumericalError: a function whose numbers are not finite.

    Example:
        >>> row_scores(Metric("log_probability"), torch.zeros(2, 1, 4), torch.tensor([[3]])).exp()
        tensor([0.2500, 0.2500])
    """
    match metric.kind:
        case "probability":
            return answer_probability(logits, answer)
        case "log_probability":
            return answer_log_probability(logits, answer)
        case "logit" | "logit_difference":
            return answer_logit(logits, answer, metric.against)
        case "rank":
            return 0 - answer_rank(logits, answer)
        case "kl":
            assert reference is not None
            return 0 - divergence_from(reference, logits)
        case _:
            return _called(metric, logits[:, 0])


def check_gradient(scores: Float[torch.Tensor, " row"], logits: Float[torch.Tensor, "row answer d_vocab"], metric: Metric) -> None:
    """Refuse a function whose numbers have no gradient in the logits.

    Raises:
        InputError: such a function.
    """
    # A function may hold parameters of its own: its numbers then have a gradient, but in these and not in the logits.
    found = torch.autograd.grad(scores.sum(), logits, allow_unused=True, retain_graph=True)[0] if scores.requires_grad else None
    if found is None:
        raise InputError(f"metric={metric} has no gradient in the logits, which is what is taken here; compute it with differentiable functions.")


def _called(metric: Metric, logits: Float[torch.Tensor, "row d_vocab"]) -> Float[torch.Tensor, " row"]:
    """What the caller's function gives; it has a copy of the logits, which it may write on."""
    if metric.function is None:
        raise InputError(f"metric {metric.name!r} comes from a file, which holds no function; pass the function again.")
    values = _numbers(metric, metric.function(logits.clone()), logits)
    alone = _numbers(metric, metric.function(logits[-1:].detach().clone()), logits[-1:]).detach()
    rounding = torch.finfo(values.dtype).eps ** 0.5
    if not torch.allclose(values[-1:].detach(), alone, rtol=rounding, atol=rounding * float(alone.abs()), equal_nan=True):
        raise InputError(
            f"metric={metric.words} gave {values[-1].item():.6g} for a row among {len(values)}, and {alone.item():.6g} for it alone; rows are "
            "different runs: compute each number from its own row."
        )
    return values if logits.requires_grad else values.detach()  # a function's own parameters, a probe's, would ask for gradients


def _numbers(metric: Metric, given: object, logits: Float[torch.Tensor, "row d_vocab"]) -> Float[torch.Tensor, " row"]:
    """What a function gave, in at least single precision; NaN where the row's logits are.

    Raises:
        InputError, NumericalError: no number a row, or none that is finite.
    """
    if not isinstance(given, torch.Tensor) or tuple(given.shape) != (len(logits),):
        what = f"shape {tuple(given.shape)}" if isinstance(given, torch.Tensor) else type(given).__name__
        raise InputError(
            f"metric={metric.words} gave {what} for logits {list(logits.shape)}; return one number a row, a tensor of shape [{len(logits)}]."
        )
    values, sound = given.to(torch.promote_types(logits.dtype, torch.float32)), logits.detach().amax(-1).isfinite()
    wrong = values.detach()[sound & ~values.detach().isfinite()]
    if len(wrong):
        raise NumericalError(f"metric={metric.words} gave {wrong[0].item()} for finite logits; return finite numbers.")
    return values.masked_fill(~sound, torch.nan)
