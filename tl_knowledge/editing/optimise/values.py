"""The value to write: the edited site's output that makes the model say the target (Meng et al. 2022, equation 4; 2023, equation 16).

Nothing below the edited layer and nothing before the edited token changes while the value is optimised, so all of that is computed once
(`tl_knowledge.editing.optimise.suffix`); each step runs the rest, for many facts together, and unembeds only the positions that the loss reads.

A fact of two contexts and three target tokens and one of three contexts and one target token, as one batch. A cell is a position that is read;
a number is its weight in the fact's loss, and ``e`` is the essence row's position, whose prediction should not drift::

             target token   1     2     3
    fact A   context 0     1/6   1/6   1/6     loss of A = - sum of weight x log p(target token)      (its contexts)
             context 1     1/6   1/6   1/6               + kl_factor KL(before || now)                (its e)
             essence        e     .     .                + weight_decay ||change|| / ||start||^2
    fact B   context 0     1/3    .     .
             context 1     1/3    .     .       .  padding: nothing is unembedded there
             context 2     1/3    .     .
             essence        e     .     .

Each fact has its own change, which is added at the edited token of all its rows, and stops on its own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from more_itertools import always_iterable, constrained_batches

from tl_knowledge.editing.optimise.changed_rows import ChangedRows
from tl_knowledge.editing.optimise.fact_rows import FactRows, corrupt_rows, to_width
from tl_knowledge.editing.optimise.fresh_noise import FreshNoiseRows
from tl_knowledge.editing.optimise.suffix import Suffix, similar_positions
from tl_knowledge.editing.optimise.value_parts import Losses, Optimised, ValueSettings
from tl_knowledge.engine.progress import progress_bar, progress_shown
from tl_knowledge.engine.rows import pad_right
from tl_knowledge.errors import InputError, NumericalError
from tl_knowledge.metrics import unlikelihood, widened
from tl_knowledge.models.hook_names import block_output
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.models.unembedding import Unembedding
from tl_knowledge.results.kept import kept

__all__ = ["Optimised", "ValueSettings", "optimise_values"]

ROWS_AT_ONCE = 256


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
    """
    batches = constrained_batches(facts, rows_at_once, get_len=lambda rows: len(rows.edited), strict=False)
    values: list[Optimised] = []
    with progress_bar(total=len(facts), what="optimise values", unit="fact", progress=progress_shown(), leave=False) as bar:
        for batch in batches:
            own = kept(OptimisedBatch, partial(_optimised, model, batch, layer, site, settings), _fingerprint(batch, layer, site, settings))
            values += [value.on(batch[0].edited.device) for value in own.values]
            bar.update(len(batch))
    return values


@dataclass(frozen=True, eq=False)
class OptimisedBatch:
    """The values of facts that were optimised together, as a stored run keeps them."""

    values: tuple[Optimised, ...]


def _optimised(model: HookedModel, facts: Sequence[FactRows], layer: int, site: str | tuple[str, ...], settings: ValueSettings) -> OptimisedBatch:
    return OptimisedBatch(tuple(FactBatch(model, facts, layer, site, settings).run()))


def _fingerprint(facts: Sequence[FactRows], layer: int, site: str | tuple[str, ...], settings: ValueSettings) -> str:
    """Of the rows and the settings; the model and the method are the run's."""
    rows = [[row.tolist() for row in fact.tokens] + [fact.edited.tolist(), fact.answer.tolist()] for fact in facts]
    return hashlib.sha256(repr((rows, layer, site, settings)).encode()).hexdigest()[:16]


class FactBatch:
    """Some facts' rows as one batch (the picture above).

    Attributes:
        owner: ``[row]``: which fact a row belongs to.
        essence_rows: ``[fact]``: the number of each fact's essence row.
        answers, weights, unembedded: ``[row answer]``: target tokens, their weights in the loss, and which positions are unembedded.
        parts: rows with similar edited positions, each with the part of the model that has to run.
        moves_last: whether the value moves after the last loss, too.
        sites: the hooks that are changed.
        starts, lengths: ``[fact site*d_model]``, ``[fact site]``: the sites' outputs before the edit, on the bare prompt, and how long they are.
    """

    def __init__(self, model: HookedModel, facts: Sequence[FactRows], layer: int, site: str | tuple[str, ...], settings: ValueSettings) -> None:
        self.sites = tuple(always_iterable(site))
        self.settings, self.objective, self.unembedding = settings, facts[0].objective, Unembedding.of(model)
        tokens = pad_right([row[None] for rows in facts for row in rows.tokens])
        edited = torch.cat([rows.edited for rows in facts])
        subjects = [span for rows in facts for span in rows.subjects]
        self.owner = torch.tensor([i for i, rows in enumerate(facts) for _ in rows.edited], device=tokens.device)
        self.essence_rows = (torch.tensor([len(rows.edited) for rows in facts]).cumsum(0) - 1).to(tokens.device)
        widest = max(rows.scored.shape[1] for rows in facts)
        read = torch.cat([to_width(_read(rows), widest) for rows in facts])
        self.answers = torch.cat([to_width(rows.asked, widest) for rows in facts])
        self.weights = torch.cat([_weights(rows, widest) for rows in facts])
        self.unembedded = self.weights > 0
        self.unembedded[self.essence_rows, 0] = True
        first = torch.cat([self.essence_rows.new_zeros(1), self.essence_rows[:-1] + 1])
        of_rome = self.sites != (block_output(layer),)  # MEMIT's values are the block's
        self.moves_last = self.objective.erase and self.objective.variant == "hase2023" and of_rome
        if self.objective.fresh_noise is not None and len(self.sites) > 1:
            raise InputError("noise that is drawn anew at each forward is for values of one site; pass an objective of variant 'ours'.")
        fresh, rows = self.objective.fresh_noise, torch.arange(len(edited), device=edited.device)
        groups = list(similar_positions(edited) if fresh is None else rows.split([len(each.edited) for each in facts]))
        self.back = torch.cat(groups).argsort()

        def part(g: torch.Tensor) -> ChangedRows:
            if fresh is not None:
                return FreshNoiseRows(model, tokens[g], edited[g], read[g], self.sites[0], fresh, subjects[int(g[0])], len(g) - 1 if of_rome else 0)
            noise = corrupt_rows([subjects[i] for i in g.tolist()], self.objective.noise)
            return Suffix(model, tokens[g], edited[g], read[g], layer, self.sites, noise)

        self.parts = [(g, part(g)) for g in groups]
        starts = self._in_order([part.starts for _, part in self.parts])[first]
        self.starts = widened(starts)  # Adam divides by what float16 rounds to zero
        self.lengths = torch.stack([own.norm(dim=-1) for own in self._by_site(self.starts)], dim=-1)

    def run(self) -> list[Optimised]:
        """Optimise until every fact has stopped."""
        deltas = [torch.zeros_like(start, requires_grad=True) for start in self.starts]
        optimiser = torch.optim.Adam(deltas, lr=self.settings.learning_rate)
        losses: list[list[float]] = [[] for _ in deltas]
        clamped, probability = [False] * len(deltas), [float("nan")] * len(deltas)
        reasons = ["steps"] * len(deltas)
        reference: torch.Tensor | None = None
        weights = torch.ones_like(self.lengths[:, 0])
        active = list(range(len(deltas)))
        for step in range(self.settings.steps):
            with torch.enable_grad():
                found = self._losses(deltas, reference, weights)
            reference = found.essence if reference is None else reference
            values = found.total.detach().tolist()
            for i in active:
                losses[i].append(values[i])
                probability[i] = float(found.probability[i])
            self._check([values[i] for i in active], step)
            for i in active:
                reasons[i] = self._why_stop(values[i], bool(found.likeliest[i]), float(found.drift[i]))
            active = [i for i in active if reasons[i] == "steps"]
            weights = torch.ones_like(weights).masked_fill(found.likeliest, self.settings.likeliest_factor)
            if not active or (step == self.settings.steps - 1 and not self.moves_last):
                break
            with torch.enable_grad():
                total = found.total[active].sum()
            gradients = torch.autograd.grad(total, [deltas[i] for i in active])
            optimiser.zero_grad(set_to_none=True)
            for i, gradient in zip(active, gradients, strict=True):
                deltas[i].grad = gradient
            optimiser.step()
            for i in active:
                for own, length in zip(self._by_site(deltas[i].detach()), self.lengths[i].tolist(), strict=True):
                    clamped[i] |= _shorten(own, self.settings.clamp * length)
        return [
            Optimised(self.starts[i].detach(), delta.detach(), tuple(losses[i]), reasons[i], clamped[i], probability[i])
            for i, delta in enumerate(deltas)
        ]

    def _by_site(self, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Views of what belongs to each site."""
        return values.split(values.shape[-1] // len(self.sites), dim=-1)

    def _why_stop(self, loss: float, likeliest: bool, drift: float) -> str:
        """Why a fact stops here, or ``"steps"`` where it does not."""
        if self.objective.stops and not loss >= self.settings.stop_below:
            return "loss"
        return "drift" if likeliest and self.settings.stop_drift is not None and drift <= self.settings.stop_drift else "steps"

    def _losses(self, deltas: Sequence[torch.Tensor], reference: torch.Tensor | None, weights: torch.Tensor) -> Losses:
        """Each fact's loss and what else is read off its rows.

        Args:
            reference: the essence rows' log probabilities before any change; ``None`` at the first step.
            weights: of each fact's target.
        """
        stacked = torch.stack(list(deltas))
        logits = self._logits([stacked[self.owner[group]] for group, _ in self.parts])  # [unembedded d_vocab]
        log_p = widened(logits).log_softmax(-1)
        number = self.unembedded.flatten().cumsum(0).view_as(self.unembedded) - 1
        essence = log_p[number[self.essence_rows, 0]]
        target, probability = self._target_losses(log_p, len(deltas))
        likeliest = self._likeliest(log_p.detach(), len(deltas))
        before = essence.detach() if reference is None else reference
        drift = self.settings.kl_factor * torch.nn.functional.kl_div(before, essence, log_target=True, reduction="none").sum(-1)
        decay = (torch.stack([torch.stack([own.norm() for own in self._by_site(delta)]) for delta in deltas]) / self.lengths**2).sum(-1)
        total = weights * target + drift + self.settings.weight_decay * decay
        return Losses(total, probability, drift.detach(), likeliest, essence.detach())

    def _likeliest(self, log_p: torch.Tensor, facts: int) -> torch.Tensor:
        """Whether each fact's target tokens are all the likeliest, in every context."""
        if not self.settings.asks_for_likeliest:
            return torch.zeros(facts, dtype=torch.bool, device=log_p.device)
        missed = torch.zeros(self.answers.shape, dtype=torch.bool, device=log_p.device)
        missed = missed.masked_scatter(self.unembedded, log_p.argmax(-1) != self.answers[self.unembedded]) & (self.weights > 0)
        return torch.zeros(facts, device=log_p.device).index_add(0, self.owner, missed.sum(1).float()) == 0

    def _target_losses(self, log_p: torch.Tensor, facts: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Each fact's loss of its target, and the target's mean probability, from the log probabilities where rows are unembedded."""
        answers = log_p.gather(-1, self.answers[self.unembedded][:, None])[:, 0]
        target = torch.zeros(self.answers.shape, dtype=answers.dtype, device=answers.device).masked_scatter(self.unembedded, answers)
        scored = self.weights[:, 0] > 0  # the contexts
        whole = target[scored].sum(1)
        contexts = torch.bincount(self.owner, minlength=facts) - 1
        nothing = torch.zeros(facts, dtype=target.dtype, device=target.device)
        if self.objective.erase and self.objective.variant == "ours":
            loss = nothing.index_add(0, self.owner[scored], unlikelihood(whole)) / contexts
        else:
            mean = nothing.index_add(0, self.owner, (target * self.weights.to(target)).sum(1))
            loss = mean.exp() if self.objective.erase else -mean
        return loss, nothing.index_add(0, self.owner[scored], whole.detach().exp()) / contexts

    def _logits(self, deltas: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits of all rows where they are read; unembedded in one product where the model does nothing after the unembedding."""
        parts = [part for _, part in self.parts]
        if self.unembedding is None:
            return self._in_order([part.logits(own) for part, own in zip(parts, deltas, strict=True)])[self.unembedded]
        states = self._in_order([part.final_states(own) for part, own in zip(parts, deltas, strict=True)])
        return self.unembedding.logits(states[self.unembedded])

    def _in_order(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Rows of the parts in the order of the facts."""
        return torch.cat(list(parts))[self.back]

    def _check(self, losses: Sequence[float], step: int) -> None:
        wrong = [loss for loss in losses if not math.isfinite(loss)]
        if wrong:
            rate = self.settings.learning_rate
            raise NumericalError(f"the loss is {wrong[0]} at step {step}; check the weights for NaN, or lower learning_rate={rate:g}.")


def _read(rows: FactRows) -> torch.Tensor:
    """The positions to unembed, ``[row answer]``: the scored ones, and in the last row the essence position."""
    return torch.cat([rows.scored, torch.full((1, rows.scored.shape[1]), rows.essence, device=rows.scored.device)])


def _weights(rows: FactRows, width: int) -> torch.Tensor:
    """How much each scored token counts: the mean over contexts and tokens; padding and the essence row nothing."""
    contexts, length = rows.scored.shape
    weights = torch.zeros(contexts + 1, width, dtype=torch.float64, device=rows.scored.device)
    weights[:contexts, :length] = 1 / (contexts * length) if rows.weights is None else rows.weights
    return weights


def _shorten(delta: torch.Tensor, longest: float) -> bool:
    """Cut a change back to a length; whether that was needed."""
    length = float(delta.detach().norm())
    if length <= longest:
        return False
    with torch.no_grad():
        delta.mul_(longest / length)
    return True
