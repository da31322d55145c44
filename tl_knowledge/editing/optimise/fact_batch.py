"""Some facts' rows as one batch, and what their losses are.

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

Each fact has its own change, which is added at the edited token of all its rows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from more_itertools import always_iterable

from tl_knowledge.editing.optimise.changed_rows import ChangedRows
from tl_knowledge.editing.optimise.fact_rows import FactRows, corrupt_rows, to_width
from tl_knowledge.editing.optimise.fresh_noise import FreshNoiseRows
from tl_knowledge.editing.optimise.suffix import FrozenRows, alike, price_of_a_run
from tl_knowledge.editing.optimise.value_parts import Losses, ValueSettings
from tl_knowledge.engine.rows import pad_right
from tl_knowledge.errors import InputError
from tl_knowledge.metrics import unlikelihood, widened
from tl_knowledge.models.hook_names import block_output
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.models.unembedding import Unembedding

__all__ = ["FactBatch"]

Numbers = Int[torch.Tensor, " row"]


class FactBatch:
    """Some facts' rows as one batch (the picture above).

    Attributes:
        owner: ``[row]``: which fact a row belongs to.
        essence_rows: ``[fact]``: the number of each fact's essence row.
        answers, weights, unembedded: ``[row answer]``: target tokens, their weights in the loss, and which positions are unembedded.
        sources: rows, which of the source's rows they are, and what is known of them before any change.
        parts: rows that run together, each with the part of the model that has to run.
        moves_last: whether the value moves after the last loss, too.
        sites: the hooks that are changed.
        starts, lengths: ``[fact site*d_model]``, ``[fact site]``: the sites' outputs before the edit, on the bare prompt, and how long they are.
    """

    def __init__(self, model: HookedModel, facts: Sequence[FactRows], layer: int, site: str | tuple[str, ...], settings: ValueSettings) -> None:
        self.sites = tuple(always_iterable(site))
        self.settings, self.objective, self.unembedding = settings, facts[0].objective, Unembedding.of(model)
        tokens = pad_right([row[None] for rows in facts for row in rows.tokens])
        edited = torch.cat([rows.edited for rows in facts])
        subjects: list[tuple[int, ...]] = [span for rows in facts for span in rows.subjects]
        self.owner = torch.tensor([i for i, rows in enumerate(facts) for _ in rows.edited], device=tokens.device)
        self.essence_rows = (torch.tensor([len(rows.edited) for rows in facts]).cumsum(0) - 1).to(tokens.device)
        widest = max(rows.scored.shape[1] for rows in facts)
        read = torch.cat([to_width(_read(rows), widest) for rows in facts])
        self.answers = torch.cat([to_width(rows.asked, widest) for rows in facts])
        self.weights = torch.cat([_weights(rows, widest) for rows in facts])
        self.unembedded = self.weights > 0
        self.unembedded[self.essence_rows, 0] = True
        of_rome = self.sites != (block_output(layer),)  # MEMIT's values are the block's
        self.moves_last = self.objective.erase and self.objective.variant == "hase2023" and of_rome
        if self.objective.fresh_noise is not None and self.sites[1:]:
            raise InputError("noise that is drawn anew at each forward is for values of one site; pass an objective of variant 'ours'.")
        device, noise = tokens.device, self.objective.noise
        self.sources: list[tuple[Numbers, Numbers, FrozenRows | FreshNoiseRows]] = []
        for g in self._run_once(model, layer, read):
            of = [subjects[i] for i in g.tolist()]
            if (fresh := self.objective.fresh_noise) is not None:
                own = FreshNoiseRows(model, tokens[g], edited[g], read[g], self.sites[0], fresh, of[0], len(g) - 1 if of_rome else 0)
            else:
                own = FrozenRows(model, tokens[g], edited[g], read[g], layer, self.sites, corrupt_rows(of, noise))
            self.sources.append((g, torch.arange(len(g), device=device), own))
        self._group()
        starts = torch.cat([own.starts for _, _, own in self.sources])[torch.cat([g for g, _, _ in self.sources]).argsort()]
        first = torch.cat([self.essence_rows.new_zeros(1), self.essence_rows[:-1] + 1])
        self.starts = widened(starts[first])  # Adam divides by what float16 rounds to zero
        self.lengths = torch.stack([own.norm(dim=-1) for own in self.by_site(self.starts)], dim=-1)

    def _run_once(self, model: HookedModel, layer: int, read: Int[torch.Tensor, "row answer"]) -> Iterator[Numbers]:
        """Rows whose beginnings are computed together: of about one length; under fresh noise, which is a stream of each fact, one fact's."""
        if self.objective.fresh_noise is not None:
            return iter(torch.arange(len(read), device=read.device).split(torch.bincount(self.owner).tolist()))
        above = (layer_count(model) - layer) / layer_count(model)  # a run more at every step, there and back, in half of the steps and cuts
        price = self.settings.steps * price_of_a_run(model, read.device) * above / 2
        return alike(torch.zeros_like(read[:, 0]), read.amax(1) + 1, price)

    def _group(self) -> None:
        """Rows of each source in groups that run together."""
        self.parts: list[tuple[Numbers, ChangedRows]] = [
            (g[members], part) for g, rows, source in self.sources for members, part in source.groups(rows)
        ]
        self.back = torch.cat([g for g, _ in self.parts]).argsort()

    def only(self, facts: Int[torch.Tensor, " fact"]) -> FactBatch:
        """A smaller batch of some of the facts, in their order; what is known of their rows is not computed again."""
        number = torch.full_like(self.essence_rows, -1)
        number[facts] = torch.arange(len(facts), device=facts.device)
        kept = number[self.owner] >= 0
        place, smaller = kept.cumsum(0) - 1, copy.copy(self)
        smaller.owner, smaller.essence_rows = number[self.owner][kept], place[self.essence_rows[facts]]
        smaller.answers, smaller.weights, smaller.unembedded = self.answers[kept], self.weights[kept], self.unembedded[kept]
        smaller.starts, smaller.lengths = self.starts[facts], self.lengths[facts]
        smaller.sources = [(place[g[kept[g]]], rows[kept[g]], source) for g, rows, source in self.sources if bool(kept[g].any())]
        smaller._group()
        return smaller

    def by_site(self, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Views of what belongs to each site."""
        return values.split(values.shape[-1] // len(self.sites), dim=-1)

    def losses(self, deltas: Float[torch.Tensor, "fact d"], reference: torch.Tensor | None, weights: torch.Tensor) -> Losses:
        """Each fact's loss and what else is read off its rows.

        Args:
            reference: the essence rows' log probabilities before any change; ``None`` at the first step.
            weights: of each fact's target.
        """
        logits = self._logits([deltas[self.owner[group]] for group, _ in self.parts])  # [unembedded d_vocab]
        log_p = widened(logits).log_softmax(-1)
        number = self.unembedded.flatten().cumsum(0).view_as(self.unembedded) - 1
        essence = log_p[number[self.essence_rows, 0]]
        target, probability = self._target_losses(log_p, len(deltas))
        likeliest = self._likeliest(log_p.detach(), len(deltas))
        before = essence.detach() if reference is None else reference
        drift = self.settings.kl_factor * torch.nn.functional.kl_div(before, essence, log_target=True, reduction="none").sum(-1)
        decay = (torch.stack([own.norm(dim=-1) for own in self.by_site(deltas)], dim=-1) / self.lengths**2).sum(-1)
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


def _read(rows: FactRows) -> torch.Tensor:
    """The positions to unembed, ``[row answer]``: the scored ones, and in the last row the essence position."""
    return torch.cat([rows.scored, torch.full((1, rows.scored.shape[1]), rows.essence, device=rows.scored.device)])


def _weights(rows: FactRows, width: int) -> torch.Tensor:
    """How much each scored token counts: the mean over contexts and tokens; padding and the essence row nothing."""
    contexts, length = rows.scored.shape
    weights = torch.zeros(contexts + 1, width, dtype=torch.float64, device=rows.scored.device)
    weights[:contexts, :length] = 1 / (contexts * length) if rows.weights is None else rows.weights
    return weights
