"""What a step of a training reads, and what the edits that it makes do: the outer loss, with gradients that reach what made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from tl_knowledge.arrays import Hooks, Tokens
from tl_knowledge.editing.low_rank import LowRank
from tl_knowledge.editing.optimise.gradient_factors import target_gradients, target_log_probabilities
from tl_knowledge.editing.training.network import EditNetwork
from tl_knowledge.engine.forward import run_model
from tl_knowledge.metrics import widened
from tl_knowledge.models.matrices import BlockMatrix
from tl_knowledge.models.matrix_sites import add_at, matrix_sites
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.prompt import Prompt

__all__ = ["Outcome", "Sample", "changes_as_hooks", "drift", "mean_outcome", "outcome_of"]


@dataclass(frozen=True, eq=False)
class Sample:
    """One edit, how it is asked about, and a text that it should leave alone.

    Attributes:
        edit, asked: prompts with the new target; the second may be a paraphrase.
        text: tokens.
    """

    edit: Prompt
    asked: Prompt
    text: Tokens


@dataclass(frozen=True, eq=False)
class Outcome:
    """Some edits' mean losses; the first two with gradients.

    Attributes:
        edit_loss: mean negative log-likelihood of the target where it was asked for, in nats a token.
        kl: mean over the text's tokens of KL(before || after), in nats; of SERAC the KL of what is in scope to what it takes for it.
        success: in what share every token of the target is the likeliest one.
        count: of how many edits.
    """

    edit_loss: Float[torch.Tensor, ""]
    kl: Float[torch.Tensor, ""]
    success: float
    count: int = 1


def outcome_of(model: HookedModel, network: EditNetwork, sample: Sample, places: tuple[BlockMatrix, ...], *, learn: bool) -> Outcome | None:
    """What the edit of a sample does; ``None`` where the networks cannot edit yet.

    Args:
        learn: whether the sample counts for running statistics, and gradients are wanted.
    """
    (gradient,) = target_gradients(model, [sample.edit], places)
    if learn:
        network.see(gradient)
    if network.refusal:
        return None
    with torch.set_grad_enabled(learn):
        hooks = changes_as_hooks(model, network.changes(sample.edit, gradient))
        log_p = target_log_probabilities(model, [sample.asked], hooks)[0]
        answer = torch.tensor(sample.asked.answer, device=log_p.device)
        edit_loss = -log_p.gather(-1, answer[:, None]).mean()
        return Outcome(edit_loss, drift(model, sample.text, hooks), float((log_p.argmax(-1) == answer).all()))


def mean_outcome(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The mean of single edits' outcomes; ``None`` of none."""
    if len(outcomes) < 2:
        return next(iter(outcomes), None)
    losses, drifts = (torch.stack([getattr(each, name) for each in outcomes]).mean() for name in ("edit_loss", "kl"))
    return Outcome(losses, drifts, sum(each.success for each in outcomes) / len(outcomes), len(outcomes))


def changes_as_hooks(model: HookedModel, changes: Mapping[BlockMatrix, LowRank]) -> Hooks:
    """Changes of some matrices, as hooks through which gradients reach the factors."""
    return [pair for place, change in changes.items() for pair in add_at(matrix_sites(model, place), change.left, change.right, str(place))]


def drift(model: HookedModel, text: Tokens, hooks: Hooks) -> Float[torch.Tensor, ""]:
    """Mean over a text's tokens of KL(without || with some hooks) of what follows."""
    with torch.no_grad():
        before = _log_p(run_model(model, text))
    after = _log_p(run_model(model, text, hooks))
    return (before.exp() * (before - after)).sum(-1).mean()


def _log_p(logits: torch.Tensor) -> torch.Tensor:
    return widened(logits).log_softmax(-1)
