"""The two engines of a causal trace: the growing-rows sweep, and the obvious loop it must equal.

Both take the same `Experiment` and the same sites, of any mixture of prompts, corruptions, components and severings, and
return the metric in every restored run, ``[site sample]``. The loop consists of the public hook factories
only: one forward a site. The sweep runs a chunk of sites in one forward (see `tl_knowledge.engine.rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from more_itertools import chunked_even

from tl_knowledge.arrays import Hooks
from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.recording import record
from tl_knowledge.engine.rows import (
    as_index,
    budget_rows,
    copy_rows,
    grow_rows,
    keep_positions,
    narrow_attention,
    narrow_mlp,
    rows_engine,
    run_rows,
)
from tl_knowledge.errors import NumericalError
from tl_knowledge.hooks import corrupt, restore, sever
from tl_knowledge.models.hook_names import COMPONENTS, STATES, Component, Module, severable
from tl_knowledge.models.protocol import HookedModel, layer_count, mlp_input, site_hook
from tl_knowledge.runs.experiment import Experiment
from tl_knowledge.tracing.sites import Site

__all__ = ["engine_used", "exact_scores", "loop_over_sites", "sweep_sites"]

Advance = Callable[[int], None]
SiteScore = Float[torch.Tensor, "site sample"]

READ_LATER: tuple[Component, ...] = ("k", "v")
IN_ATTENTION: tuple[Component, ...] = ("q", "k", "v", "pattern", "attn_scores")
BEFORE_MLP: tuple[Component, ...] = ("attn_out", "head", "z", "mlp_in", *IN_ATTENTION)
"""Sites by what they can change in their own block: what later positions read, what attention writes, what the MLP reads."""


def exact_scores(
    experiment: Experiment, sites: Sequence[Site], engine: Literal["rows", "loop"], memory_budget: float, advance: Advance
) -> tuple[SiteScore, str]:
    """The metric in every restored run, and the engine that gave it: the loop where the model refuses growing rows.

    Raises:
        NumericalError: a score that is not finite.
    """
    base = experiment.base  # first, for its own clear error where activations are not finite
    used = engine_used(experiment.model, engine)
    if not sites:
        return base.score.new_empty(0, experiment.samples), used
    if used == "rows":
        scores = sweep_sites(experiment, sites, memory_budget, advance)
    else:
        scores = loop_over_sites(experiment, sites, advance)
    if not bool(scores.isfinite().all()):
        raise NumericalError(f"restored runs gave values of {experiment.metric} that are not finite; load the model in float32, or lower the noise.")
    return scores, used


def engine_used(model: HookedModel, engine: Literal["rows", "loop"]) -> str:
    """The engine that will run, with the reason where the model refuses the other one."""
    return rows_engine(model) if engine == "rows" else engine


def sweep_sites(experiment: Experiment, sites: Sequence[Site], memory_budget: float, advance: Advance) -> SiteScore:
    """Growing rows: one forward for as many sites as the memory budget allows, those born together kept together."""
    answers = experiment.answers.shape[1]
    fitting = budget_rows(experiment.model, experiment.length, answers, memory_budget) - len(experiment.row_prompts)
    order = sorted(range(len(sites)), key=lambda k: sites[k].born_at)
    scores = torch.empty(len(sites), experiment.samples, dtype=experiment.base.score.dtype, device=experiment.device)
    for chunk in chunked_even(order, max(1, fitting // experiment.samples)):
        sweep = _Sweep(experiment, [sites[k] for k in chunk])
        logits = run_rows(experiment.model, experiment.tokens[:1], sweep.hooks())
        born = experiment.score(logits[sweep.base_rows :], sweep.row_prompts[sweep.base_rows :])
        scores[chunk] = rearrange(born, "(site sample) -> site sample", sample=experiment.samples)
        advance(len(chunk))
    return scores


class _Sweep:
    """One forward: the base rows that a chunk of sites needs, then ``samples`` rows for each site, in order of birth.

    ::

        row   0 .. | clean runs of the chunk's prompts          read by `_restoring`
              .... | corrupted runs, ``samples`` rows each      the parents of the sites' rows; read by `_pinning`
              .... | first site born, ``samples`` rows
              .... | second site born, ``samples`` rows, ...
    """

    def __init__(self, experiment: Experiment, sites: Sequence[Site]) -> None:
        self.experiment, self.sites, self.samples = experiment, sites, experiment.samples
        runs = sorted({site.run for site in sites})
        prompts = sorted({experiment.runs[run].prompt for run in runs})
        corrupted = [range(experiment.sample_rows(run).start, experiment.sample_rows(run).stop) for run in runs]
        self.kept = as_index([*prompts, *(row for rows in corrupted for row in rows)], experiment.device)
        self.base_rows = len(self.kept)
        clean_row = {prompt: row for row, prompt in enumerate(prompts)}
        first_sample = {run: len(prompts) + i * self.samples for i, run in enumerate(runs)}
        self.clean = as_index([clean_row[experiment.runs[site.run].prompt] for site in sites], experiment.device)
        self.parents = as_index([first_sample[site.run] for site in sites], experiment.device)
        self.row_prompts = torch.cat(
            [experiment.row_prompts[self.kept], self._each([experiment.runs[site.run].prompt for site in sites])],
        )

    def hooks(self) -> Hooks:
        """Grow the sites' rows, pin what is severed to the corrupted rows, restore from the clean rows."""
        sites = self.sites
        streams = [stream[self.kept] for stream in self.experiment.base.streams]
        births = {layer: self._parent_rows(k for k, s in enumerate(sites) if s.born_at == layer) for layer in sorted({s.born_at for s in sites})}
        hooks = grow_rows(streams, births)
        for layer in range(layer_count(self.experiment.model)):
            alive = [k for k, site in enumerate(sites) if site.born_at < layer]
            copies: Hooks = []
            for module in severable(get_args(Module)):
                copies += self._pinning(layer, module, [k for k in alive if module in sites[k].severed])
            copies += self._restoring(layer, [k for k, site in enumerate(sites) if site.first <= layer <= site.last])
            # What an MLP reads is written before it is narrowed, at the same hook.
            first = [pair for pair in copies if pair[0] == mlp_input(self.experiment.model, layer)]
            hooks += first + self._narrowing(layer, alive) + [pair for pair in copies if pair not in first]
        return hooks + keep_positions(self.experiment.answer_positions[self.row_prompts])

    def _pinning(self, layer: int, module: Module, severed: Sequence[int]) -> Hooks:
        """Some sites' rows get a module's output at the restored position from their corrupted rows."""
        if not severed:
            return []
        positions = self._each([self.sites[k].pos for k in severed])
        return copy_rows(site_hook(self.experiment.model, module, layer), self._parent_rows(severed), self._rows(severed), positions)

    def _restoring(self, layer: int, restored: Sequence[int]) -> Hooks:
        """Some sites' rows get what they restore from the clean rows."""
        hooks: Hooks = []
        for component in COMPONENTS:
            of_component = [k for k in restored if self.sites[k].component == component]
            if not of_component:
                continue
            positions = self._each([self.sites[k].pos for k in of_component])
            clean = repeat(self.clean[of_component], "site -> (site sample)", sample=self.samples)
            numbers = [unit for k in of_component if (unit := self.sites[k].unit) is not None]
            units = self._each(numbers) if numbers else None
            hooks += copy_rows(site_hook(self.experiment.model, component, layer), clean, self._rows(of_component), positions, units)
        return hooks

    def _narrowing(self, layer: int, alive: Sequence[int]) -> Hooks:
        """Skip MLPs and projections where the alive rows equal the corrupted rows, and all padding.

        What is written inside a narrowed part (a head's ``z``, a neuron) needs it to keep its shape.
        """
        if not alive:
            return []
        experiment, model, sites = self.experiment, self.experiment.model, [self.sites[k] for k in alive]
        row_prompts = self.row_prompts[: self.base_rows + len(alive) * self.samples]
        source = torch.cat([torch.arange(self.base_rows, device=experiment.device), self._parent_rows(alive)])
        where = torch.arange(experiment.length, device=experiment.device)
        inside = where < experiment.lengths[row_prompts][:, None]
        if layer == layer_count(model) - 1:
            read = inside & (where >= experiment.answer_positions[row_prompts, :1])
        else:
            read = inside

        def with_base(of_sites: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
            rows = repeat(of_sites, "site pos -> (site sample) pos", sample=self.samples)
            return among & torch.cat([torch.ones(self.base_rows, experiment.length, dtype=torch.bool, device=experiment.device), rows])

        entering, attended, transformed = self._reach(layer, sites)
        touched = {word for site in self.sites for word in (site.component, *site.severed)}
        hooks = [] if "neuron" in touched else narrow_mlp(model, layer, with_base(transformed, read), source)
        if touched & {"head", "z"}:
            return hooks
        return hooks + narrow_attention(model, layer, with_base(entering, inside), with_base(attended, read), source)

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
        where = torch.arange(self.experiment.length, device=self.experiment.device)
        restored = self._column([site.pos for site in sites])
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

    def _rows(self, sites: Sequence[int]) -> Int[torch.Tensor, " row"]:
        starts = self.base_rows + as_index(sites, self.experiment.device) * self.samples
        return self._with_samples(starts)

    def _parent_rows(self, sites: Iterable[int]) -> Int[torch.Tensor, " row"]:
        return self._with_samples(self.parents[list(sites)])

    def _with_samples(self, starts: torch.Tensor) -> Int[torch.Tensor, " row"]:
        return rearrange(starts[:, None] + torch.arange(self.samples, device=starts.device), "site sample -> (site sample)")

    def _each(self, values: Sequence[int]) -> Int[torch.Tensor, " row"]:
        return repeat(as_index(values, self.experiment.device), "site -> (site sample)", sample=self.samples)

    def _column(self, values: Sequence[int]) -> Int[torch.Tensor, "site 1"]:
        return as_index(values, self.experiment.device)[:, None]


def loop_over_sites(experiment: Experiment, sites: Sequence[Site], advance: Advance) -> SiteScore:
    """The obvious loop: one forward a site, with hooks of the public factories."""
    scores: dict[int, torch.Tensor] = {}
    for index, run in enumerate(experiment.runs):
        own = {k: site for k, site in enumerate(sites) if site.run == index}
        prompt, model = experiment.prompts[run.prompt], experiment.model
        layers = range(layer_count(model))
        noise = corrupt(run.positions, run.noise)
        restored = [name for site in own.values() for name in _hook_names(model, [site.component], layers)]
        pinned = [name for site in own.values() for name in _hook_names(model, site.severed, layers)]
        batch = repeat(prompt.tokens, "1 pos -> sample pos", sample=experiment.samples)
        rows = torch.full((experiment.samples,), run.prompt, device=experiment.device)
        clean, corrupted = record(model, prompt.tokens, [], restored), record(model, batch, noise, pinned)
        for k, site in own.items():
            hooks = noise + sever(corrupted, site.severed, layers=layers, positions=site.pos)
            hooks += restore(clean, site.component, layers=range(site.first, site.last + 1), positions=site.pos, units=site.unit)
            with torch.no_grad():
                logits: torch.Tensor = run_model(model, batch, hooks)
            scores[k] = experiment.score(logits[:, prompt.answer_positions], rows)
            advance(1)
    return torch.stack([scores[k] for k in range(len(sites))])


def _hook_names(model: HookedModel, components: Iterable[Component], layers: Iterable[int]) -> list[str]:
    return [site_hook(model, component, layer) for layer in layers for component in components]
