"""The outer training that all trained editors share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch

from tl_knowledge.editing.training.outcome import Outcome, Sample
from tl_knowledge.editing.training.samples import TrainingData
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import NumericalError
from tl_knowledge.runs.training_state import Trainable, TrainingState

__all__ = ["OutcomeOf", "Trainer"]

OutcomeOf: TypeAlias = Callable[[Sequence[Sample], bool], Outcome | None]
"""From samples, and whether they are learnt from, to what their edits do; ``None`` where none can be made yet."""


@dataclass
class Trainer:
    """One training at work.

    Attributes:
        name: of the method, for messages.
        outcome_of: what the networks' edits of some samples do.
        folder: where the state is kept; nowhere when ``None``.
        progress: whether a bar is shown.
    """

    name: str
    network: Trainable
    outcome_of: OutcomeOf
    data: TrainingData
    folder: Path | None
    progress: bool
    _since: list[Outcome] = field(default_factory=list[Outcome])

    def run(self) -> TrainingState:
        """Train to the last step, or until no validation has been better for long; the networks end as the best.

        Raises:
            NumericalError: a loss or a gradient that is not finite.
        """
        settings = self.data.settings
        optimiser = torch.optim.Adam(self.network.parameter_groups(), lr=settings.learning_rate)
        state = TrainingState(self.network, optimiser)
        if self.folder is not None:
            state.read(self.folder)
        held = self.data.validations()
        with progress_bar(what=f"train {self.name}", unit="step", progress=self.progress, total=settings.steps, initial=state.step) as bar:
            while state.step < settings.steps and not self._out_of_patience(state):
                self._step(state)
                bar.update(1)
                if state.step % settings.validate_every == 0 or state.step == settings.steps:
                    self._validate(state, held)
        return state

    def _out_of_patience(self, state: TrainingState) -> bool:
        """Whether the validation just done was the last in too long a row without a better one."""
        settings = self.data.settings
        return state.step % settings.validate_every == 0 and state.step - state.best_step >= settings.patience

    def _step(self, state: TrainingState) -> None:
        """One sample's gradients, and after some samples an update."""
        settings, number = self.data.settings, state.step + 1
        outcome = self.outcome_of(self.data.step(number), True)
        if outcome is not None:
            self._add_gradients(state, outcome)
        if number % settings.accumulate == 0:
            norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
            self._check(float(norm), "norm of the gradients", state)
            state.optimiser.step()
            state.optimiser.zero_grad()
        state.step = number

    def _add_gradients(self, state: TrainingState, outcome: Outcome) -> None:
        settings = self.data.settings
        loss = settings.edit_weight * outcome.edit_loss + settings.kl_factor * outcome.kl
        self._check(float(loss.detach()), "loss", state)
        self._since.append(_without_graph(outcome))
        parameters = list(self.network.parameters())
        # Not backward(), which would leave gradients on weights of the model that want some.
        gradients: list[torch.Tensor | None] = [*torch.autograd.grad(loss, parameters, allow_unused=True)]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def _validate(self, state: TrainingState, held: Sequence[Sequence[Sample]]) -> None:
        """Measure, remember the best, and keep the state."""
        outcomes = [self.outcome_of(batch, False) for batch in held]
        there = [_without_graph(each) for each in outcomes if each is not None]
        if self._since:
            state.rows.append(self._row(state.step, "training", self._since))
        self._since = []
        if there:
            row = self._row(state.step, "validation", there)
            self._check(row["loss"], "validation loss", state)
            state.rows.append(row)
            if row["loss"] < state.best_loss:
                state.remember_best(row["loss"])
        if self.folder is not None:
            state.write(self.folder)

    def _row(self, step: int, split: str, found: Sequence[Outcome]) -> dict[str, Any]:
        count = sum(each.count for each in found)
        edit_loss, kl, success = (sum(float(getattr(each, name)) * each.count for each in found) / count for name in ("edit_loss", "kl", "success"))
        loss = self.data.settings.edit_weight * edit_loss + self.data.settings.kl_factor * kl
        return {"step": step, "split": split, "edit_loss": edit_loss, "kl": kl, "loss": loss, "success": success}

    def _check(self, value: float, what: str, state: TrainingState) -> None:
        """Refuse to go on with what is not finite.

        Raises:
            NumericalError: it is not.
        """
        if math.isfinite(value):
            return
        last = state.step - state.step % self.data.settings.validate_every
        kept = f"the state of step {last} is kept in {str(self.folder)!r}" if self.folder is not None and last else "no state was kept"
        raise NumericalError(
            f"the {what} of {self.name} is {value} after step {state.step}; {kept}. Train anew with a learning_rate below "
            f"{self.data.settings.learning_rate:g} (in another folder), or check the model's weights for NaN."
        )


def _without_graph(outcome: Outcome) -> Outcome:
    return Outcome(outcome.edit_loss.detach(), outcome.kl.detach(), outcome.success, outcome.count)
