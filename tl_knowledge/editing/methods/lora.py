"""LoRA: two small factors beside each matrix, trained to say the target (Hu et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from typing_extensions import override

from tl_knowledge.arrays import Hooks
from tl_knowledge.door import public
from tl_knowledge.editing.edit import Edit
from tl_knowledge.editing.low_rank import LowRank
from tl_knowledge.editing.method import EditMethod
from tl_knowledge.editing.optimise.changes import change_hooks
from tl_knowledge.editing.optimise.gradient_factors import target_losses
from tl_knowledge.engine.batches import equal_groups
from tl_knowledge.engine.progress import progress_bar, progress_shown
from tl_knowledge.errors import NumericalError
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.matrices import BlockMatrix, Matrix, check_matrices, matrix_weights, places_in
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.published_settings import TRACED_LAYERS
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.runs.key_moments import KeyMoments

__all__ = ["LoRA"]


@public
@dataclass(frozen=True)
class LoRA(EditMethod):
    """Settings of LoRA: ``dW = (alpha / rank) A B`` in every trained matrix, ``A [d_in rank]`` and ``B [rank d_out]`` by Adam.

    Hu et al. 2022, equation 3. ``A`` begins as drawn, uniform within ``1 / sqrt(d_in)``, ``B`` at zero, so training begins at the model itself. The
    loss is the mean negative log-likelihood of the target's tokens, prompt and target in one sequence, over all facts at every step; there is no
    dropout. The defaults (rank, alpha, rate, steps) are those with which editing programs train *AdaLoRA* (Zhang et al. 2023), which also moves
    rank from matrix to matrix; this is plain LoRA, and so no published row of AdaLoRA. A model that holds query, key and value in one matrix gets
    an ``A`` for each.

    Attributes:
        layers: the layers.
        matrices: which of their matrices.
        rank: of each matrix' change.
        alpha: the change is ``alpha / rank`` times the product of the factors.
        steps: of Adam.
        learning_rate: of Adam.
        stop_below: the mean loss at which to stop; 0: never.
        seed: of the factors' first values.

    Raises:
        ComponentError: an unknown matrix.
        InputError: no matrix or one twice.

    Example:
        >>> import tl_knowledge as tlk
        >>> fact = tlk.Fact("France", "The capital of {} is", " London")
        >>> edit = tlk.plan_edit("factlm", fact, tlk.editing.LoRA(layers=(3,), rank=2, steps=3))
        >>> edit.to_dataframe()[["matrix", "rank"]].values.tolist()
        [['W_Q', 2], ['W_V', 2]]
    """

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "factlm": {"layers": (TRACED_LAYERS["factlm"],), "learning_rate": 1e-3, "stop_below": 0.1},
        "factlm-llama": {"layers": (TRACED_LAYERS["factlm-llama"],), "learning_rate": 1e-3, "stop_below": 0.1},
    }

    layers: tuple[int, ...]
    matrices: tuple[Matrix, ...] = ("W_Q", "W_V")
    rank: int = 8
    alpha: float = 32.0
    steps: int = 30
    learning_rate: float = 5e-3
    stop_below: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_matrices(self.matrices)

    @classmethod
    @override
    def small(cls) -> LoRA:
        return replace(super().small(), rank=2)

    @override
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """One edit of all facts, each on its bare prompt; moments are not needed.

        Raises:
            ComponentError: no such layer.
            UnsupportedModelError: a matrix that the model does not have, or that cannot be changed by hooks.
            NumericalError: a loss that is not finite.
        """
        places = places_in(model, check_layers(model, self.layers), self.matrices)
        draw = torch.Generator().manual_seed(self.seed)
        adapters = [_Adapter(model, place, self, draw) for place in sorted(places)]  # the order in which matrices are named does not matter
        losses = self._train(model, [Prompt.from_fact(model, fact) for fact in facts], adapters)
        note = {"losses": losses, "stopped": "loss" if losses[-1] < self.stop_below else "steps", "facts": len(facts)}
        return Edit.planned(model, self, {adapter.place: adapter.change for adapter in adapters}, notes=[note])

    def _train(self, model: HookedModel, prompts: Sequence[Prompt], adapters: Sequence[_Adapter]) -> list[float]:
        """Train, to the last step or until the loss is low; its mean over the facts at every step."""
        trained = [factor for adapter in adapters for factor in (adapter.left, adapter.right)]
        optimiser = torch.optim.Adam(trained, lr=self.learning_rate)
        losses: list[float] = []
        for step in progress_bar(range(self.steps), what="train LoRA", unit="step", progress=progress_shown(), leave=False):
            optimiser.zero_grad(set_to_none=True)
            losses.append(_backward(model, prompts, adapters))
            if not math.isfinite(losses[-1]):
                raise NumericalError(f"the loss is {losses[-1]} at step {step}; lower learning_rate={self.learning_rate:g}.")
            if losses[-1] < self.stop_below:
                break
            optimiser.step()
        return losses


class _Adapter:
    """The two factors of one matrix' change, while they are trained."""

    def __init__(self, model: HookedModel, place: BlockMatrix, settings: LoRA, draw: torch.Generator) -> None:
        weights = matrix_weights(model, place)
        d_in, d_out = weights.shape
        kind = torch.promote_types(weights.dtype, torch.float32)  # Adam divides by what float16 rounds to zero
        uniform = torch.rand(d_in, settings.rank, generator=draw, dtype=torch.float64) * 2 - 1
        self.place, self._scale = place, settings.alpha / settings.rank
        self.left = (uniform / math.sqrt(d_in)).to(weights.device, kind).requires_grad_(True)
        self.right = torch.zeros(settings.rank, d_out, device=weights.device, dtype=kind).requires_grad_(True)

    def hooks(self, model: HookedModel) -> Hooks:
        """The model with the change as it is now."""
        return change_hooks(model, self.place, self.left, self._scale * self.right)

    @property
    def change(self) -> LowRank:
        """The change as it is now."""
        return LowRank(self.left.detach().clone(), self._scale * self.right.detach())


@torch.enable_grad()
def _backward(model: HookedModel, prompts: Sequence[Prompt], adapters: Sequence[_Adapter]) -> float:
    """The mean loss over the facts; its gradients are added to the factors'."""
    factors, total = [factor for adapter in adapters for factor in (adapter.left, adapter.right)], 0.0
    for group in equal_groups([(len(prompt), len(prompt.answer)) for prompt in prompts]):
        hooks = [pair for adapter in adapters for pair in adapter.hooks(model)]
        loss = target_losses(model, [prompts[i] for i in group], hooks).sum() / len(prompts)
        for factor, gradient in zip(factors, torch.autograd.grad(loss, factors), strict=True):
            factor.grad = gradient if factor.grad is None else factor.grad + gradient
        total += float(loss.detach())
    return total
