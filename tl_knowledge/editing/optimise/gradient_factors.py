"""A weight's gradient as the factors it is made of: the inputs of the matrix, token by token, and the loss' gradients at its output.

The gradient of a loss with respect to ``W [d_in d_out]`` is ``sum_t x_t d_t^T``, with ``x_t`` what the matrix reads at token ``t`` and ``d_t`` the
gradient at what it writes there (Mitchell et al. 2022a, section 3.1). So one edit's gradient has at most as many ranks as tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float

from tl_knowledge.arrays import HookFn, Hooks
from tl_knowledge.engine.batches import equal_groups
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.rows import keep_positions
from tl_knowledge.metrics import widened
from tl_knowledge.models.matrices import BlockMatrix, matrix_weights
from tl_knowledge.models.matrix_sites import matrix_sites
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.prompt import Prompt

__all__ = ["GradientFactors", "TargetGradient", "target_gradients", "target_log_probabilities", "target_losses"]


@dataclass(frozen=True, eq=False)
class GradientFactors:
    """The gradient of one matrix: ``inputs^T gradients``."""

    inputs: Float[torch.Tensor, "token d_in"]
    gradients: Float[torch.Tensor, "token d_out"]

    @property
    def dense(self) -> Float[torch.Tensor, "d_in d_out"]:
        """The gradient itself."""
        return self.inputs.T @ self.gradients


@dataclass(frozen=True, eq=False)
class TargetGradient:
    """How one prompt's target wants some matrices to change.

    Attributes:
        loss: mean negative log-likelihood of the target's tokens, prompt and target in one sequence.
        factors: of the loss' gradient, by matrix; one row a token of the sequence (but the target's last, which is only predicted).
    """

    loss: float
    factors: Mapping[BlockMatrix, GradientFactors]


@torch.enable_grad()
def target_gradients(
    model: HookedModel, prompts: Sequence[Prompt], places: Sequence[BlockMatrix], hooks: Hooks | None = None
) -> list[TargetGradient]:
    """Each prompt's gradient by itself; prompts of equal lengths run together, none is padded.

    Args:
        prompts: with targets.
        places: the matrices.
        hooks: to run under, such as an edit's.

    Raises:
        UnsupportedModelError: a matrix that cannot be changed by hooks.
        TargetError: a prompt without a target.
    """
    found: dict[int, TargetGradient] = {}
    for group in equal_groups([(len(prompt), len(prompt.answer)) for prompt in prompts]):
        together = [prompts[i] for i in group]
        caught = {place: _Caught(model, place) for place in places}
        losses = target_losses(model, together, [*(hooks or []), *(pair for each in caught.values() for pair in each.hooks)])
        gradients = torch.autograd.grad(losses.sum(), [each.added for each in caught.values()])
        for row, i in enumerate(group):
            factors = {
                place: GradientFactors(each.inputs[row], gradient[row].flatten(1))
                for (place, each), gradient in zip(caught.items(), gradients, strict=True)
            }
            found[i] = TargetGradient(float(losses[row].detach()), factors)
    return [found[i] for i in range(len(prompts))]


@torch.enable_grad()
def target_losses(model: HookedModel, prompts: Sequence[Prompt], hooks: Hooks) -> Float[torch.Tensor, " prompt"]:
    """Mean negative log-likelihood of each prompt's target; gradients reach what the hooks add.

    Args:
        prompts: of one length, with targets of one length.
    """
    log_p = target_log_probabilities(model, prompts, hooks)
    answers = torch.tensor([prompt.answer for prompt in prompts], device=log_p.device)
    return -log_p.gather(-1, answers[..., None])[..., 0].mean(1)


def target_log_probabilities(model: HookedModel, prompts: Sequence[Prompt], hooks: Hooks) -> Float[torch.Tensor, "prompt answer d_vocab"]:
    """Log-probabilities where each token of each prompt's target is predicted, prompt and target in one sequence.

    Args:
        prompts: as `target_losses`.
    """
    answers = torch.tensor([prompt.answer for prompt in prompts], device=prompts[0].tokens.device)
    tokens = torch.cat([torch.cat([prompt.tokens for prompt in prompts]), answers[:, :-1]], dim=1)
    positions = torch.arange(len(prompts[0]) - 1, tokens.shape[1], device=tokens.device)[None].expand(len(prompts), -1)
    logits: torch.Tensor = run_model(model, tokens, [*hooks, *keep_positions(positions)])
    return widened(logits).log_softmax(-1)


class _Caught:
    """What a matrix reads, and a zero added to what it writes, whose gradient is that of its output."""

    def __init__(self, model: HookedModel, place: BlockMatrix) -> None:
        self._width, self._sites = matrix_weights(model, place).shape[0], matrix_sites(model, place)
        self.inputs = self.added = torch.empty(0)
        read: HookFn = self._read
        self.hooks: Hooks = [(self._sites.reads, read), (self._sites.writes, self._add)]

    def _read(self, activation: torch.Tensor, *, hook: object) -> None:
        self.inputs = self._sites.input_of(activation, self._width).detach()

    def _add(self, activation: torch.Tensor, *, hook: object) -> torch.Tensor:
        self.added = torch.zeros_like(activation).requires_grad_(True)
        return activation + self.added
