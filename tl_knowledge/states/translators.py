"""A tuned lens' translators while they are trained."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float

from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import NumericalError
from tl_knowledge.models.hook_names import block_output, state_hook
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.runs.corpus_tokens import activations_of
from tl_knowledge.runs.training_state import TrainingState
from tl_knowledge.states.head import read_states
from tl_knowledge.states.lens_settings import MOMENTUM, LensSettings, learning_rate

__all__ = ["LensTraining", "Translators", "empty_translators"]

COPIES = 6  # of the logits, that a loss and its gradient hold

States = Float[torch.Tensor, "token d_model"]


class Translators(torch.nn.Module):
    """``A_l(h) = h + h W_l + b_l`` for some layers; the identity at first (Belrose et al. 2023, section 3)."""

    def __init__(self, layers: Sequence[int], d_model: int, like: torch.Tensor) -> None:
        super().__init__()
        self.layers = tuple(layers)
        wide = torch.promote_types(like.dtype, torch.float32)
        self.weights = torch.nn.ParameterList([like.new_zeros(d_model, d_model, dtype=wide) for _ in layers])
        self.biases = torch.nn.ParameterList([like.new_zeros(d_model, dtype=wide) for _ in layers])

    def translated(self, number: int, states: States) -> States:
        """States through the translator of that number."""
        own = states.to(self.biases[number].dtype)
        return own + own @ self.weights[number] + self.biases[number]

    def of(self, number: int) -> list[torch.nn.Parameter]:
        """What is trained of one layer."""
        return [self.weights[number], self.biases[number]]

    def parameter_groups(self) -> list[dict[str, object]]:
        """As optimisers take them."""
        return [{"params": list(self.parameters())}]


@dataclass
class LensTraining:
    """One training at work.

    Attributes:
        rows: texts to learn from, as tokens ``[1 pos]``; held: to validate on.
        folder: where the state is kept; nowhere when ``None``.
        memory_budget: bytes that logits may take.
        progress: whether a bar is shown.
    """

    model: HookedModel
    translators: Translators
    rows: Sequence[torch.Tensor]
    held: Sequence[torch.Tensor]
    settings: LensSettings
    folder: Path | None
    memory_budget: float
    progress: bool

    def run(self) -> TrainingState:
        """Train to the last step; the best translators are those of the smallest validation loss.

        Raises:
            NumericalError: a loss or a gradient that is not finite.
        """
        settings = self.settings
        state = TrainingState(self.translators, self._optimiser())
        if self.folder is not None:
            state.read(self.folder)
        if not state.best:
            self._validate(state)
        with progress_bar(what="train tuned lens", unit="step", progress=self.progress, total=settings.steps, initial=state.step) as bar:
            while state.step < settings.steps:
                self._step(state)
                bar.update(1)
                if state.step % settings.validate_every == 0 or state.step == settings.steps:
                    self._validate(state)
        return state

    def _optimiser(self) -> torch.optim.Optimizer:
        groups, own = self.translators.parameter_groups(), self.settings
        if own.optimiser == "adam":
            return torch.optim.Adam(groups, lr=own.base_rate, betas=(MOMENTUM, 0.999), amsgrad=True, weight_decay=own.weight_decay)
        return torch.optim.SGD(groups, lr=own.base_rate, momentum=MOMENTUM, nesterov=True, weight_decay=own.weight_decay)

    def _step(self, state: TrainingState) -> None:
        """One update, by the sum of all layers' losses."""
        number, settings = state.step + 1, self.settings
        draw = random.Random(f"{settings.seed}/{number}")
        states = self._states([draw.choice(self.rows) for _ in range(settings.batch_size)])
        losses = self._losses(states, learn=True)
        self._check(sum(losses), "loss", state)
        norm = torch.nn.utils.clip_grad_norm_(self.translators.parameters(), settings.clip)
        self._check(float(norm), "norm of the gradient", state)
        for group in state.optimiser.param_groups:
            group["lr"] = learning_rate(settings, number)
        state.optimiser.step()
        state.optimiser.zero_grad()
        state.step = number

    def _validate(self, state: TrainingState) -> None:
        """Every layer's KL on the texts that are held out; the state is kept."""
        sums, tokens = [0.0] * len(self.translators.layers), 0
        for start in range(0, len(self.held), self.settings.batch_size):
            states = self._states(self.held[start : start + self.settings.batch_size])
            count = len(next(iter(states.values())))
            losses = self._losses(states, learn=False)
            sums, tokens = [each + count * loss for each, loss in zip(sums, losses, strict=True)], tokens + count
        self._check(sum(sums), "validation loss", state)
        state.rows += [{"step": state.step, "layer": layer, "kl": each / tokens} for layer, each in zip(self.translators.layers, sums, strict=True)]
        if sum(sums) / tokens < state.best_loss:
            state.remember_best(sum(sums) / tokens)
        if self.folder is not None:
            state.write(self.folder)

    def _states(self, rows: Sequence[torch.Tensor]) -> Mapping[int, States]:
        """States of every token of some texts by layer, the last one's among them, of one forward."""
        last = layer_count(self.model) - 1
        names = {layer: state_hook(layer) for layer in (*self.translators.layers, last)}
        read = activations_of(self.model, rows, tuple(names.values()), block_output(last))
        return {layer: read[name] for layer, name in names.items()}

    def _losses(self, states: Mapping[int, States], *, learn: bool) -> list[float]:
        """Mean over tokens of ``KL(last layer || lens)`` (nats) by layer, and their gradients where they are learnt from."""
        final = states[layer_count(self.model) - 1]
        at_once = max(1, int(self.memory_budget // (COPIES * final.element_size() * int(self.model.cfg.d_vocab))))
        losses = [0.0] * len(self.translators.layers)
        for start in range(0, len(final), at_once):
            part = slice(start, start + at_once)
            with torch.no_grad():
                log_p = read_states(self.model, final[part]).log_softmax(-1)
            for number, layer in enumerate(self.translators.layers):
                with torch.set_grad_enabled(learn):
                    log_q = read_states(self.model, self.translators.translated(number, states[layer][part])).log_softmax(-1)
                    loss = (log_p.exp() * (log_p - log_q)).sum() / len(final)
                losses[number] += float(loss.detach())
                if learn:
                    self._add_gradients(loss, number)
        return losses

    def _add_gradients(self, loss: torch.Tensor, number: int) -> None:
        """Not by backward(), which would leave gradients on weights of the model that want some."""
        own = self.translators.of(number)
        for parameter, gradient in zip(own, torch.autograd.grad(loss, own), strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def _check(self, value: float, what: str, state: TrainingState) -> None:
        """Refuse to go on with what is not finite.

        Raises:
            NumericalError: it is not.
        """
        if math.isfinite(value):
            return
        kept = "no state was kept"
        if self.folder is not None and state.rows:  # the curve's last rows are from when the state was written
            kept = f"the state of step {state.rows[-1]['step']} is kept in {str(self.folder)!r}"
        raise NumericalError(
            f"the {what} of the tuned lens is {value} after step {state.step}; {kept}. Train anew with a learning_rate below "
            f"{self.settings.learning_rate:g} (in another folder), or check the model's weights for NaN."
        )


def empty_translators(model: HookedModel, layers: Sequence[int]) -> Translators:
    """The identity for some layers of a model."""
    like: torch.Tensor = next(iter(model.parameters()))
    return Translators(layers, int(model.cfg.d_model), like.detach())
