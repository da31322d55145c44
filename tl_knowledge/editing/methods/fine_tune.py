"""Fine-tuning of one layer's ``W_out`` on the facts alone: the baselines FT and FT+L (Zhu et al. 2020, as Meng et al. 2022 set them up)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from typing_extensions import override

from tl_knowledge.arrays import Hooks
from tl_knowledge.door import public
from tl_knowledge.editing.edit import Edit, LowRank
from tl_knowledge.editing.method import EditMethod
from tl_knowledge.editing.optimise.fact_rows import FactRows, rows_of
from tl_knowledge.editing.optimise.objective import Objective
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.progress import progress_bar, progress_shown
from tl_knowledge.engine.rows import keep_positions
from tl_knowledge.errors import InputError, NumericalError
from tl_knowledge.hooks import add_low_rank
from tl_knowledge.metrics import unlikelihood
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.weights import output_hook, output_weights
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.runs.key_moments import KeyMoments

__all__ = ["FineTune", "FineTuneConstrained"]


@public
@dataclass(frozen=True)
class FineTune(EditMethod):
    """Settings of FT, and with ``most_change`` of FT+L.

    Every target token is trained at its own position, and ``W_out`` alone; Meng et al.'s program trains all of them at the last position, and the
    bias too.

    Attributes:
        layer: which block's ``W_out`` to train.
        steps: of Adam, at most.
        learning_rate: of Adam.
        stop_below: the mean loss at which to stop.
        most_change: how far any weight may move (FT+L: 5e-4 for GPT-2 XL's layer 0, 2e-3 for medium); ``None``: as far as it likes (FT).
        objective: to write the target (default), to erase it, or to force it under noise.
    """

    layer: int
    steps: int = 25
    learning_rate: float = 5e-4
    stop_below: float = 0.01
    most_change: float | None = None
    objective: Objective = field(default_factory=Objective)

    @classmethod
    @override
    def small(cls) -> FineTune:
        return replace(super().small(), steps=3, learning_rate=1e-2)

    @override
    def plan(self, model: HookedModel, facts: Sequence[Fact], moments: KeyMoments | None) -> Edit:
        """One edit of all facts, each on its bare prompt; moments are not needed.

        Raises:
            InputError: a bound that is not positive.
            ComponentError: no such layer.
            NumericalError: a loss that is not finite.
        """
        check_layers(model, [self.layer])
        if self.most_change is not None and self.most_change <= 0:
            raise InputError(f"most_change={self.most_change} allows no change; pass a positive bound, or None for none.")
        batch = [rows_of(model, fact, ("{}",), "subject", self.objective) for fact in facts]
        weights = output_weights(model, self.layer).detach()
        wide = torch.promote_types(weights.dtype, torch.float32)  # Adam divides by what float16 rounds to zero
        change = torch.zeros_like(weights, dtype=wide).requires_grad_(True)
        optimiser = torch.optim.Adam([change], lr=self.learning_rate)
        losses: list[float] = []
        for step in progress_bar(range(self.steps), what="fine-tune", unit="step", progress=progress_shown(), leave=False):
            loss, change.grad = self._loss(model, batch, change)
            losses.append(loss)
            if not torch.isfinite(torch.tensor(loss)):
                raise NumericalError(f"the loss is {loss} at step {step}; lower learning_rate={self.learning_rate:g}.")
            if loss < self.stop_below:
                break
            optimiser.step()
            if self.most_change is not None:
                with torch.no_grad():
                    change.clamp_(-self.most_change, self.most_change)
        note = {"losses": losses, "stopped": "loss" if losses[-1] < self.stop_below else "steps", "facts": len(batch)}
        return Edit.planned(model, self, {self.layer: LowRank(change.detach().clone(), _identity(change.detach()))}, notes=[note])

    def _loss(self, model: HookedModel, batch: Sequence[FactRows], change: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The mean loss over the facts, and its gradient."""
        gradient, total, site = torch.zeros_like(change), 0.0, output_hook(model, self.layer)
        for rows in batch:
            hooks: Hooks = [*add_low_rank(self.layer, change, _identity(change), site), *keep_positions(rows.scored), *rows.noise]
            with torch.enable_grad():
                log_p = run_model(model, rows.tokens[:1], hooks).to(change.dtype).log_softmax(-1)
                target = log_p.gather(-1, rows.answer[None, :, None])
                loss = (unlikelihood(target.sum()) if self.objective.erase else -target.mean()) / len(batch)
                gradient += torch.autograd.grad(loss, [change])[0]
            total += float(loss.detach())
        return total, gradient


@public
@dataclass(frozen=True)
class FineTuneConstrained(FineTune):
    """FT+L: no weight may move further than ``most_change`` (5e-4 for GPT-2 XL's layer 0, 2e-3 for GPT-2 medium)."""

    most_change: float | None = 5e-4

    @classmethod
    @override
    def small(cls) -> FineTuneConstrained:
        return replace(super().small(), most_change=5e-3)  # pyright: ignore[reportReturnType]


def _identity(weights: torch.Tensor) -> torch.Tensor:
    return torch.eye(weights.shape[1], dtype=weights.dtype, device=weights.device)
