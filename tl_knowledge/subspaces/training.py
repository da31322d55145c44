"""Train the basis of a subspace by gradient descent on orthonormal matrices."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float

from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import NumericalError
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.runs.metric import Metric
from tl_knowledge.runs.scoring import check_gradient, clean_reference, row_scores
from tl_knowledge.subspaces.settings import SubspaceSettings
from tl_knowledge.subspaces.trials import ROWS_AT_ONCE, Basis, Trials

BETAS = (0.9, 0.99)  # gradients shrink towards the end, and 0.999 would long remember the first ones

__all__ = ["SubspaceTraining", "metric_of", "orthonormal", "random_basis"]


def orthonormal(matrix: Basis) -> Basis:
    """The ``Q`` of ``matrix = Q R`` with no negative number on the diagonal of ``R``, so that an orthonormal matrix is its own."""
    q, r = torch.linalg.qr(matrix)
    diagonal = r.diagonal()
    return q * torch.where(diagonal < 0, -1.0, 1.0).to(q)  # not sign(), whose 0 would take a direction away


def random_basis(width: int, dims: int, seed: int, dtype: torch.dtype) -> Basis:
    """Orthonormal directions, uniformly drawn; the same in every precision but for rounding."""
    draw = torch.Generator().manual_seed(seed)
    return orthonormal(torch.randn(width, dims, dtype=torch.float64, generator=draw)).to(dtype)


def metric_of(model: HookedModel, trials: Trials, metric: Metric, basis: Basis, group: list[int]) -> Float[torch.Tensor, " row"]:
    """The metric of some interchanged runs, where the source's answer is the right one and its run the clean one."""
    logits = trials.run(model, group, trials.interchange(basis, group))[:, None]
    reference = None if trials.logits is None else clean_reference(metric, trials.logits[group][:, None])
    scores = row_scores(metric, logits, trials.answers[group, :1], reference)
    if torch.is_grad_enabled() and metric.kind == "function":
        check_gradient(scores, logits, metric)
    return scores


@dataclass(eq=False)
class SubspaceTraining:
    """One training: Adam on the basis, put back among the orthonormal matrices after every step (a QR retraction).

    Attributes:
        trials: what is trained on.
        held: what decides when to stop, and which basis is kept.
        rows: of the curve.
    """

    model: HookedModel
    trials: Trials
    held: Trials
    metric: Metric
    dims: int
    settings: SubspaceSettings
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    best_step: int = 0

    def run(self, progress: bool) -> Basis:
        """The basis of the best validation.

        Raises:
            NumericalError: a metric or gradient that is not finite.
        """
        settings, states = self.settings, self.trials.states
        rate = settings.learning_rate / math.sqrt(states.shape[1])
        wide = torch.promote_types(states.dtype, torch.float32)
        weight = random_basis(states.shape[1], self.dims, settings.seed, wide).to(states.device).requires_grad_()
        optimiser = torch.optim.Adam([weight], lr=rate, betas=BETAS)
        best, batches = weight.detach().clone(), self._batches()
        self._validate(0, weight.detach(), float("nan"))
        sums = 0.0
        for step in progress_bar(range(1, settings.steps + 1), what="subspace", unit="step", progress=progress, leave=False):
            optimiser.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * (step - 1) / settings.steps)) / 2
            sums += self._step(weight, optimiser, next(batches))
            if step % settings.validate_every == 0 or step == settings.steps:
                if self._validate(step, weight.detach(), sums / (step - self.rows[-1]["step"])):
                    best = weight.detach().clone()
                sums = 0.0
                if len(self.rows) - 1 - [row["step"] for row in self.rows].index(self.best_step) >= settings.patience:
                    break
        return best

    def _batches(self) -> Iterator[list[int]]:
        """Pairs of one shape, every pair once in a round."""
        draw, order = random.Random(f"{self.settings.seed}/batches"), list(range(len(self.trials)))
        while True:
            draw.shuffle(order)
            groups = self.trials.groups(self.settings.batch_size, order)
            draw.shuffle(groups)
            yield from groups

    def _step(self, weight: Basis, optimiser: torch.optim.Optimizer, group: list[int]) -> float:
        """One update; the mean of the metric before it."""
        with torch.enable_grad():
            scores = metric_of(self.model, self.trials, self.metric, orthonormal(weight), group)
            gradient = torch.autograd.grad(-scores.sum() / self.settings.batch_size, weight)[0]
        if not bool(gradient.isfinite().all()):
            raise NumericalError("the subspace's gradient is not finite; check the weights for NaN, or load the model in float32.")
        weight.grad = gradient
        optimiser.step()
        with torch.no_grad():
            weight.copy_(orthonormal(weight))
        return float(scores.detach().mean())

    def _validate(self, step: int, basis: Basis, trained: float) -> bool:
        """Add to the curve; whether this is the best basis so far."""
        total = 0.0
        for group in self.held.groups(ROWS_AT_ONCE):
            with torch.no_grad():
                total += float(metric_of(self.model, self.held, self.metric, basis, group).double().sum())
        value = total / len(self.held)
        if math.isnan(value):
            raise NumericalError(f"the metric {self.metric} of the validation is not finite; check the weights for NaN.")
        better = all(value > row["validation"] for row in self.rows)
        self.rows.append({"step": step, "trained": trained, "validation": value})
        if better:
            self.best_step = step
        return better
