"""One forward of growing rows: the restored runs of some sites of a trace (see `tl_knowledge.engine.rows`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

import torch
from einops import rearrange, repeat
from jaxtyping import Int

from tl_knowledge.arrays import Hooks
from tl_knowledge.engine.narrowing import KnownRows, may_narrow, narrow_attention, narrow_mlp, narrowed_hooks
from tl_knowledge.engine.prefix_bank import PrefixBank
from tl_knowledge.engine.rows import as_index, copy_rows, grow_rows, keep_positions
from tl_knowledge.models.hook_names import COMPONENTS, STATES, Component, Module, severable, state_hook
from tl_knowledge.models.protocol import HookedModel, layer_count, mlp_input, site_hook
from tl_knowledge.runs.experiment import Experiment
from tl_knowledge.tracing.sites import Site

__all__ = ["Sweep", "read_names"]

READ_LATER: tuple[Component, ...] = ("k", "v")
IN_ATTENTION: tuple[Component, ...] = ("q", "k", "v", "pattern", "attn_scores")
BEFORE_MLP: tuple[Component, ...] = ("attn_out", "head", "z", "mlp_in", *IN_ATTENTION)
"""Sites by what they can change in their own block: what later positions read, what attention writes, what the MLP reads."""

MOST_NEEDED = 0.95


class Sweep:
    """One forward: the base rows that a chunk of sites needs, then ``samples`` rows for each site, in order of birth.

    ::

        row   0 .. | clean runs of the chunk's prompts          read by `_restoring`
              .... | corrupted runs, ``samples`` rows each      the parents of the sites' rows; read by `_pinning`
              .... | first site born, ``samples`` rows
              .... | second site born, ``samples`` rows, ...

    With a bank of prefixes the base rows are known, and the sites' rows run alone.

    Args:
        start: the first position that is run, at or before every restored one; earlier ones are a frozen prefix.
        bank: of the experiment's rows, with what `read_names` says recorded.
    """

    def __init__(self, experiment: Experiment, sites: Sequence[Site], start: int = 0, bank: PrefixBank | None = None) -> None:
        self.experiment, self.sites, self.samples, self.start = experiment, sites, experiment.samples, start
        self.recorded = bank.recorded if bank else None
        self.narrows = may_narrow(experiment.model)
        runs, of_site = experiment.runs, [site.run for site in sites]
        if bank:
            self.kept = as_index((), experiment.device)
            clean_row = {run: runs[run].prompt for run in of_site}
            first_sample = {run: experiment.sample_rows(run).start for run in of_site}
        else:
            there = sorted(set(of_site))
            prompts = sorted({runs[run].prompt for run in there})
            corrupted = [range(experiment.sample_rows(run).start, experiment.sample_rows(run).stop) for run in there]
            self.kept = as_index([*prompts, *(row for rows in corrupted for row in rows)], experiment.device)
            clean_row = {run: prompts.index(runs[run].prompt) for run in there}
            first_sample = {run: len(prompts) + i * self.samples for i, run in enumerate(there)}
        self.base_rows = len(self.kept)
        self.clean = as_index([clean_row[run] for run in of_site], experiment.device)
        self.first_samples = as_index([first_sample[run] for run in of_site], experiment.device)
        self.row_prompts = torch.cat([experiment.row_prompts[self.kept], self._each([runs[run].prompt for run in of_site])])
        self.births = {layer: self._parent_rows(k for k, s in enumerate(sites) if s.born_at == layer) for layer in sorted({s.born_at for s in sites})}

    @property
    def parents(self) -> Int[torch.Tensor, " row"]:
        """Which base row each site's rows are copies of."""
        return self._parent_rows(range(len(self.sites)))

    def hooks(self) -> Hooks:
        """Grow the sites' rows, pin what is severed to the corrupted rows, restore from the clean rows."""
        sites = self.sites
        streams = self.experiment.base.streams
        if self.recorded is None:
            hooks = grow_rows([stream[self.kept] for stream in streams], self.births)
        else:
            hooks = grow_rows([stream[:, self.start :] for stream in streams], self.births, alone=True)
        for layer in range(layer_count(self.experiment.model)):
            alive = [k for k, site in enumerate(sites) if site.born_at < layer]
            copies: Hooks = []
            for module in severable(get_args(Module)):
                copies += self._pinning(layer, module, [k for k in alive if module in sites[k].severed])
            copies += self._restoring(layer, [k for k, site in enumerate(sites) if site.first <= layer <= site.last])
            # What an MLP reads is written before it is narrowed, at the same hook.
            first = [pair for pair in copies if pair[0] == mlp_input(self.experiment.model, layer)]
            hooks += first + self._narrowing(layer, alive) + [pair for pair in copies if pair not in first]
        return hooks + keep_positions(self.experiment.answer_positions[self.row_prompts] - self.start)

    def _pinning(self, layer: int, module: Module, severed: Sequence[int]) -> Hooks:
        """Some sites' rows get a module's output at the restored position from their corrupted rows."""
        if not severed:
            return []
        positions = self._places(severed)
        name = site_hook(self.experiment.model, module, layer)
        known = self.recorded[name] if self.recorded is not None else None
        return copy_rows(name, self._parent_rows(severed), self._rows(severed), positions, recorded=known, start=self.start)

    def _restoring(self, layer: int, restored: Sequence[int]) -> Hooks:
        """Some sites' rows get what they restore from the clean rows."""
        hooks: Hooks = []
        for component in COMPONENTS:
            of_component = [k for k in restored if self.sites[k].component == component]
            if not of_component:
                continue
            positions = self._places(of_component)
            clean = repeat(self.clean[of_component], "site -> (site sample)", sample=self.samples)
            numbers = [unit for k in of_component if (unit := self.sites[k].unit) is not None]
            units = self._each(numbers) if numbers else None
            name = site_hook(self.experiment.model, component, layer)
            grown = name in map(state_hook, self.births)  # there, just before, rows were appended to a new tensor
            known = self.recorded[name] if self.recorded is not None else None
            hooks += copy_rows(name, clean, self._rows(of_component), positions, units, recorded=known, start=self.start, own=grown)
        return hooks

    def _narrowing(self, layer: int, alive: Sequence[int]) -> Hooks:
        """Skip MLPs and projections where the alive rows equal the corrupted rows, and all padding.

        What is written inside a narrowed part (a head's ``z``, a neuron) needs it to keep its shape.
        """
        if not (alive and self.narrows):
            return []
        experiment, model, sites = self.experiment, self.experiment.model, [self.sites[k] for k in alive]
        row_prompts = self.row_prompts[: self.base_rows + len(alive) * self.samples]
        where = self._where()
        inside = where < experiment.lengths[row_prompts][:, None]
        if layer == layer_count(model) - 1:
            read = inside & (where >= experiment.answer_positions[row_prompts, :1])
        else:
            read = inside

        def with_base(of_sites: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
            rows = repeat(of_sites, "site pos -> (site sample) pos", sample=self.samples)
            return among & torch.cat([torch.ones(self.base_rows, len(where), dtype=torch.bool, device=experiment.device), rows])

        source = torch.cat([torch.arange(self.base_rows, device=experiment.device), self._parent_rows(alive)])
        known = KnownRows(self.recorded, self.start) if self.recorded is not None else None
        entering, attended, transformed = self._reach(layer, sites)
        whole = {part for site in self.sites for part in site.parts_run_whole}
        in_mlp, in_attention, after_it = with_base(transformed, read), with_base(entering, inside), with_base(attended, read)
        hooks = [] if "mlp" in whole or not _worth(in_mlp) else narrow_mlp(model, layer, in_mlp, source, known)
        if "attention" in whole or not (_worth(in_attention) or _worth(after_it)):
            return hooks
        return hooks + narrow_attention(model, layer, in_attention, after_it, source, known)

    def _reach(self, layer: int, sites: Sequence[Site]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where ``[site pos]`` a row can differ from its corrupted run: entering attention, in what attention writes, entering the MLP.

        A restored state differs at its one position when it enters the next block, whose attention spreads it to every later position. A
        restored module output differs only from there on: nothing before it in its own block does; a query (pattern, scores, ``z``) changes what
        its position is given, a key or value what all later ones are. For position 2 of 5 (``#``: can differ)::

                              a state, layer l - 1   attn_out, layer l   mlp_out, layer l   q, layer l   k or v, layer l
            block l
              entering               . . # . .            . . . . .          . . . . .       . . . . .      . . . . .
              attended               . . # # #            . . . . .          . . . . .       . . # . .      . . # # #
              transformed            . . # # #            . . # . .          . . . . .       . . # . .      . . # # #
            block l + 1
              entering               . . # # #            . . # . .          . . # . .       . . # . .      . . # # #
              attended               . . # # #            . . # # #          . . # # #       . . # # #      . . # # #
              transformed            . . # # #            . . # # #          . . # # #       . . # # #      . . # # #

        ``mlp_in`` is like ``attn_out``. The state that enters block l is the one that leaves block l - 1.
        """
        where, restored = self._where(), self._column([site.pos for site in sites])
        at, onwards = where == restored, where >= restored
        blocks_seen = self._column([layer - site.born_at - (site.component not in STATES) for site in sites])
        after, before = blocks_seen >= 1, blocks_seen < 1
        read_later, inside, before_mlp = (
            self._column([site.component in kind for site in sites]).bool() for kind in (READ_LATER, IN_ATTENTION, BEFORE_MLP)
        )
        first = torch.where(read_later, onwards, at)
        entering = torch.where(blocks_seen == 1, first, onwards) & after
        attended = (onwards & after) | (first & before & inside)
        transformed = (onwards & after) | (first & before & before_mlp)
        return entering, attended, transformed

    def _where(self) -> Int[torch.Tensor, " pos"]:
        return torch.arange(self.start, self.experiment.length, device=self.experiment.device)

    def _places(self, sites: Iterable[int]) -> Int[torch.Tensor, " row"]:
        return self._each([self.sites[k].pos - self.start for k in sites])

    def _rows(self, sites: Sequence[int]) -> Int[torch.Tensor, " row"]:
        starts = self.base_rows + as_index(sites, self.experiment.device) * self.samples
        return self._with_samples(starts)

    def _parent_rows(self, sites: Iterable[int]) -> Int[torch.Tensor, " row"]:
        return self._with_samples(self.first_samples[list(sites)])

    def _with_samples(self, starts: torch.Tensor) -> Int[torch.Tensor, " row"]:
        return rearrange(starts[:, None] + torch.arange(self.samples, device=starts.device), "site sample -> (site sample)")

    def _each(self, values: Sequence[int]) -> Int[torch.Tensor, " row"]:
        return repeat(as_index(values, self.experiment.device), "site -> (site sample)", sample=self.samples)

    def _column(self, values: Sequence[int]) -> Int[torch.Tensor, "site 1"]:
        return as_index(values, self.experiment.device)[:, None]


def read_names(model: HookedModel, sites: Sequence[Site]) -> set[str]:
    """The hooks of everything that some sites restore or sever, and of what is taken from the base rows besides."""
    restored: set[tuple[Component, int]] = {(site.component, layer) for site in sites for layer in range(site.first, site.last + 1)}
    severed: set[tuple[Component, int]] = {(module, layer) for site in sites for module in site.severed for layer in range(layer_count(model))}
    alive_from = min((site.born_at for site in sites), default=-1) + 1
    return {site_hook(model, component, layer) for component, layer in restored | severed} | set(narrowed_hooks(model, alive_from))


def _worth(needed: torch.Tensor) -> bool:
    """Whether enough is left out that packing the rest costs less."""
    return bool(needed.float().mean() < MOST_NEEDED)
