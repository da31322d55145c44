"""The value to write: the edited site's output that makes the model say the target (Meng et al. 2022, equation 4; 2023, equation 16).

Nothing below the edited layer and nothing before the edited token changes while the value is optimised, so all of that is computed once
(`tl_knowledge.editing.optimise.suffix`); each step runs the rest, for many facts together, and unembeds only the positions that the loss reads.

A fact that has stopped leaves the batch, with its rows::

    step        0   1   2   3   4   5   6
    fact A      o   o   o   -   -   -   -       o  its rows run
    fact B      o   o   o   o   o   o   o       .  it has stopped, but too few have for a smaller batch
    fact C      o   .   .   -   -   -   -       -  its rows are gone
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool
from more_itertools import constrained_batches

from tl_knowledge.editing.optimise.fact_batch import FactBatch
from tl_knowledge.editing.optimise.fact_rows import FactRows
from tl_knowledge.editing.optimise.value_parts import Losses, Optimised, ValueSettings
from tl_knowledge.engine.fused import fused_activations
from tl_knowledge.engine.progress import progress_bar, progress_shown
from tl_knowledge.errors import NumericalError, UnreadEditWarning
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.results.kept import kept
from tl_knowledge.wording import counted

__all__ = ["Optimised", "ValueSettings", "optimise_values"]

ROWS_AT_ONCE = 256
LEAVES = 8  # facts leave together, when one in so many has stopped: a smaller batch has to be put together


def optimise_values(
    model: HookedModel,
    facts: Sequence[FactRows],
    layer: int,
    site: str | tuple[str, ...],
    settings: ValueSettings,
    *,
    rows_at_once: int = ROWS_AT_ONCE,
) -> list[Optimised]:
    """Find, for each of some facts, the change of a site's output at its edited positions; as many facts together as fit.

    Facts do not touch each other: each has its own rows, loss and stop, and gets what it would get alone.

    Args:
        facts: in their contexts.
        layer: the edited layer.
        site: the hook to change: ``W_out``'s output (ROME) or the block's (MEMIT), or several hooks of the layer that change together (PMET).
        settings: of the optimisation.
        rows_at_once: contexts of all facts that run together.

    Raises:
        InputError: several sites, and noise that is drawn anew at each forward.
        NumericalError: a loss that is not finite.

    Warns:
        UnreadEditWarning: in the last layer, where no position that predicts the target reads the edited token.
    """
    if layer == layer_count(model) - 1:
        _warn_unread(facts, layer)
    batches = constrained_batches(facts, rows_at_once, get_len=lambda rows: len(rows.edited), strict=False)
    values: list[Optimised] = []
    with progress_bar(total=len(facts), what="optimise values", unit="fact", progress=progress_shown(), leave=False) as bar:
        for batch in batches:
            own = kept(OptimisedBatch, partial(_optimised, model, batch, layer, site, settings), _fingerprint(batch, layer, site, settings))
            values += [value.on(batch[0].edited.device) for value in own.values]
            bar.update(len(batch))
    return values


def _warn_unread(facts: Sequence[FactRows], last: int) -> None:
    """Behind the last layer no token reads another: where the target does not depend on the value, Adam follows the rounding."""
    unread = [rows for rows in facts if not bool((rows.edited[:-1, None] == rows.scored).any())]
    if unread:
        scored = ", ".join(map(str, unread[0].scored[0].tolist()))
        warnings.warn(
            f"layer {last} is the last one: a change at position {int(unread[0].edited[0])} reaches no position that predicts the target ({scored}), "
            f"so the values of {len(unread)} of {counted(len(facts), 'fact')} change no answer; edit an earlier layer, or the prompt's last token.",
            UnreadEditWarning,
            stacklevel=2,
        )


@dataclass(frozen=True, eq=False)
class OptimisedBatch:
    """The values of facts that were optimised together, as a stored run keeps them."""

    values: tuple[Optimised, ...]


def _optimised(model: HookedModel, facts: Sequence[FactRows], layer: int, site: str | tuple[str, ...], settings: ValueSettings) -> OptimisedBatch:
    with fused_activations(model):
        return OptimisedBatch(tuple(Descent(FactBatch(model, facts, layer, site, settings)).run()))


def _fingerprint(facts: Sequence[FactRows], layer: int, site: str | tuple[str, ...], settings: ValueSettings) -> str:
    """Of the rows and the settings; the model and the method are the run's."""
    rows = [[row.tolist() for row in fact.tokens] + [fact.edited.tolist(), fact.answer.tolist()] for fact in facts]
    return hashlib.sha256(repr((rows, layer, site, settings)).encode()).hexdigest()[:16]


class Descent:
    """Adam on the changes of a batch's facts, all of which have taken equally many steps.

    Attributes:
        batch: the facts that run.
        number: ``[fact]``: which of the facts that were asked for they are.
        deltas: ``[fact site*d_model]``: their changes.
        active: ``[fact]``: which have not stopped.
        found: each fact's value, by its number, as soon as it has stopped.
    """

    def __init__(self, batch: FactBatch) -> None:
        self.batch, self.settings, facts = batch, batch.settings, len(batch.starts)
        self.number, self.found = list(range(facts)), dict[int, Optimised]()
        self.deltas = torch.zeros_like(batch.starts, requires_grad=True)
        self.optimiser = torch.optim.Adam([self.deltas], lr=self.settings.learning_rate)
        self.history: list[list[float]] = [[] for _ in range(facts)]
        self.reference: torch.Tensor | None = None
        self.weights = torch.ones_like(batch.lengths[:, 0])
        self.clamped = torch.zeros_like(self.weights, dtype=torch.bool)
        self.active = torch.ones_like(self.clamped)

    def run(self) -> list[Optimised]:
        """Every fact's value, in their order."""
        steps = self.settings.steps
        for step in range(steps):
            with torch.enable_grad():
                losses = self.batch.losses(self.deltas, self.reference, self.weights)
            self._read(losses, step)
            moves = step < steps - 1 or self.batch.moves_last
            if moves and bool(self.active.any()):
                self._move(losses)
            if step == steps - 1:
                self._finish(self.active, "steps", losses)
            if not self.active.any():
                break
            self._leave()
        return [self.found[fact] for fact in range(len(self.history))]

    def _read(self, losses: Losses, step: int) -> None:
        """Take down the losses, and which facts stop here."""
        totals, settings = losses.total.detach().double(), self.settings
        self.reference = losses.essence if self.reference is None else self.reference
        for fact, loss, active in zip(self.number, totals.tolist(), self.active.tolist(), strict=True):
            if active and not math.isfinite(loss):
                rate = settings.learning_rate
                raise NumericalError(f"the loss is {loss} at step {step}; check the weights for NaN, or lower learning_rate={rate:g}.")
            if active:
                self.history[fact].append(loss)
        if self.batch.objective.stops:
            self._finish(self.active & (totals < settings.stop_below), "loss", losses)
        if settings.stop_drift is not None:
            self._finish(self.active & losses.likeliest & (losses.drift.double() <= settings.stop_drift), "drift", losses)
        self.weights = torch.ones_like(self.weights).masked_fill(losses.likeliest, settings.likeliest_factor)

    def _finish(self, which: Bool[torch.Tensor, " fact"], reason: str, losses: Losses) -> None:
        """Take down the values of facts that have stopped."""
        for row in which.nonzero()[:, 0].tolist():
            fact, (start, delta) = self.number[row], (each[row].detach().clone() for each in (self.batch.starts, self.deltas))
            clamped, probability = bool(self.clamped[row]), float(losses.probability[row])
            self.found[fact] = Optimised(start, delta, tuple(self.history[fact]), reason, clamped, probability)
        self.active = self.active & ~which

    def _move(self, losses: Losses) -> None:
        """One step of Adam, and back into the clamp."""
        with torch.enable_grad():
            total = losses.total[self.active].sum()
        (self.deltas.grad,) = torch.autograd.grad(total, [self.deltas])
        self.optimiser.step()
        for own, length in zip(self.batch.by_site(self.deltas.detach()), self.batch.lengths.T.double(), strict=True):
            longest, reached = self.settings.clamp * length, own.norm(dim=-1).double()
            beyond = reached > longest
            own.mul_(torch.where(beyond, longest / reached, 1.0)[:, None].to(own))
            self.clamped |= beyond

    def _leave(self) -> None:
        """Go on with a smaller batch where enough facts have stopped; Adam keeps what it knows of the others."""
        kept = self.active.nonzero()[:, 0]
        stopped = len(self.active) - len(kept)
        if stopped == 0 or LEAVES * stopped < len(self.active):
            return
        self.batch, self.number = self.batch.only(kept), [self.number[row] for row in kept.tolist()]
        known = self.optimiser.state[self.deltas]
        self.deltas = self.deltas.detach()[kept].requires_grad_(True)
        self.optimiser = torch.optim.Adam([self.deltas], lr=self.settings.learning_rate)
        self.optimiser.state[self.deltas] = {name: value[kept] if value.ndim else value for name, value in known.items()}
        self.reference = None if self.reference is None else self.reference[kept]
        self.weights, self.clamped, self.active = self.weights[kept], self.clamped[kept], self.active[kept]
