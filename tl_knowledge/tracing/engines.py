"""The two engines of a causal trace: the growing-rows sweep, and the obvious loop it must equal.

Both take the same `Experiment` and the same sites and return the answer's probability in every restored run,
``[site sample]``. The loop is made of the public hook factories only: one forward a site. The sweep runs a chunk of
sites in one forward (see `tl_knowledge.rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from einops import rearrange, repeat
from jaxtyping import Float

from tl_knowledge.arrays import Hooks, SampleProbability, Tokens
from tl_knowledge.errors import NumericalError
from tl_knowledge.hooks import Corruption, corrupt, restore, sever
from tl_knowledge.metrics import answer_probability
from tl_knowledge.model import EMBED, Component, HookedModel, Module, component_hook, layer_count
from tl_knowledge.rows import (
    as_index,
    budget_rows,
    capture,
    capture_base,
    copy_rows,
    grow_rows,
    keep_positions,
    narrow_attention,
    narrow_mlp,
    run_rows,
    sample_rows,
)
from tl_knowledge.tracing.sites import Site

__all__ = ["Experiment", "loop_over_sites", "sweep_sites"]

Advance = Callable[[int], None]
SiteProbability = Float[torch.Tensor, "site sample"]


@dataclass(frozen=True)
class Experiment:
    """Everything a trace needs but its sites.

    Attributes:
        tokens: ``[1 pos]``: the prompt, followed by all answer tokens but the last (teacher forcing).
        answer: the answer's tokens; the last ``len(answer)`` positions predict them.
        corrupted_positions: where the embeddings are corrupted.
        severed: modules pinned to the corrupted run at the restored position, in all layers.
    """

    model: HookedModel
    tokens: Tokens
    answer: torch.Tensor
    corrupted_positions: tuple[int, ...]
    noise: Corruption
    samples: int
    component: Component
    severed: tuple[Module, ...]

    @property
    def answer_positions(self) -> list[int]:
        """The positions that predict the answer's tokens."""
        length = self.tokens.shape[1]
        return list(range(length - len(self.answer), length))

    @cached_property
    def base(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Row 0 the clean run, rows ``1 .. samples`` the corrupted run: their residual streams, and the answer's probability."""
        streams: list[torch.Tensor] = []
        noise, span = self.noise, self.corrupted_positions

        def corrupt_samples(embeddings: torch.Tensor, *, hook: object) -> torch.Tensor:
            changed = embeddings.clone()
            changed[1:, list(span)] = noise.corrupted(embeddings[1:], span)
            return changed

        hooks: Hooks = [(EMBED, corrupt_samples), *capture_base(self.model, streams), *keep_positions(self.answer_positions)]
        with torch.no_grad():
            logits: torch.Tensor = self.model.run_with_hooks(repeat(self.tokens, "1 pos -> row pos", row=1 + self.samples), fwd_hooks=hooks)
        probability = answer_probability(logits, self.answer)
        if not bool(probability.isfinite().all()):
            raise NumericalError(
                f"the answer's probability is not finite (clean {probability[0].item()}); check the weights for NaN, or load the model in float32."
            )
        return streams, probability

    @property
    def clean_probability(self) -> float:
        """The answer's probability in the clean run."""
        return float(self.base[1][0])

    @property
    def corrupted_probability(self) -> SampleProbability:
        """The answer's probability in the corrupted run, for every noise sample."""
        return self.base[1][1:]


def sweep_sites(experiment: Experiment, sites: Sequence[Site], memory_budget: float, advance: Advance) -> SiteProbability:
    """Growing rows: one forward for as many sites as the memory budget allows, those born together kept together."""
    length, answers = experiment.tokens.shape[1], len(experiment.answer)
    fitting = budget_rows(experiment.model, length, answers, memory_budget) - 1 - experiment.samples
    found: list[torch.Tensor] = []
    for chunk in _chunks(sites, max(1, fitting // experiment.samples)):
        logits = run_rows(experiment.model, experiment.tokens, _sweep_hooks(experiment, chunk))
        born = answer_probability(logits[1 + experiment.samples :], experiment.answer)
        found.append(rearrange(born, "(site sample) -> site sample", sample=experiment.samples))
        advance(len(chunk))
    return torch.cat(found)


def _chunks(sites: Sequence[Site], size: int) -> Iterator[Sequence[Site]]:
    """Equal chunks rather than full ones and a rest."""
    count = -(-len(sites) // size)
    bounds = [len(sites) * i // count for i in range(count + 1)]
    return (sites[a:b] for a, b in pairwise(bounds))


def _sweep_hooks(experiment: Experiment, sites: Sequence[Site]) -> Hooks:
    """Hooks that grow the sites' rows, pin what is severed to the corrupted rows, and restore from the clean row."""
    device, samples = experiment.tokens.device, experiment.samples
    base, _ = experiment.base

    def rows_of(chosen: Sequence[int]) -> torch.Tensor:
        starts = 1 + samples + as_index(chosen, device) * samples
        return rearrange(starts[:, None] + torch.arange(samples, device=device), "site sample -> (site sample)")

    def each_sample(values: Sequence[int]) -> torch.Tensor:
        return repeat(as_index(values, device), "site -> (site sample)", sample=samples)

    births = {layer: sample_rows(sum(site.born_at == layer for site in sites), samples, device) for layer in sorted({site.born_at for site in sites})}
    hooks = grow_rows(base, births)
    for layer in range(layer_count(experiment.model)):
        alive = [k for k, site in enumerate(sites) if site.born_at < layer]
        hooks += _narrowing(experiment, layer, [sites[k] for k in alive])
        for module in experiment.severed if alive else ():
            at = each_sample([sites[k].pos for k in alive])
            hooks += copy_rows(component_hook(module, layer), sample_rows(len(alive), samples, device), rows_of(alive), at)
        restoring = [k for k, site in enumerate(sites) if site.first <= layer <= site.last]
        if restoring:
            rows, at = rows_of(restoring), each_sample([sites[k].pos for k in restoring])
            numbers = [unit for k in restoring if (unit := sites[k].unit) is not None]
            units = each_sample(numbers) if numbers else None
            hooks += copy_rows(component_hook(experiment.component, layer), torch.zeros_like(rows), rows, at, units)
    return hooks + keep_positions(experiment.answer_positions)


def _narrowing(experiment: Experiment, layer: int, alive: Sequence[Site]) -> Hooks:
    """Hooks that skip MLPs and projections where the alive rows, restored at these positions, equal the corrupted rows.

    What is written inside a module (a head, a neuron) needs that module to keep its shape.
    """
    if not alive:
        return []
    model, component, length, samples = experiment.model, experiment.component, experiment.tokens.shape[1], experiment.samples
    device = experiment.tokens.device
    where, restored = torch.arange(length, device=device), as_index([site.pos for site in alive], device)[:, None]
    newborn = as_index([site.born_at == layer - 1 for site in alive], device)[:, None].bool()
    source = torch.cat([torch.arange(1 + samples, device=device), sample_rows(len(alive), samples, device)])

    def with_base(sites: torch.Tensor) -> torch.Tensor:
        rows = repeat(sites, "site pos -> (site sample) pos", sample=samples)
        return torch.cat([torch.ones(1 + samples, length, dtype=torch.bool, device=device), rows])

    changed = with_base(where >= restored)
    # Right behind its restored state a row differs at that one position; attention then spreads it.
    entering = with_base(torch.where(newborn, where == restored, where >= restored))
    answers = repeat(where >= length - len(experiment.answer), "pos -> row pos", row=len(source))
    read = answers if layer == layer_count(model) - 1 else changed
    mlp = [] if component == "neuron" else narrow_mlp(model, layer, read, source)
    return mlp + ([] if component == "head" else narrow_attention(model, layer, entering if component == "resid_post" else changed, read, source))


def loop_over_sites(experiment: Experiment, sites: Sequence[Site], advance: Advance) -> SiteProbability:
    """The obvious loop: one forward a site, made of the public hook factories."""
    model, layers = experiment.model, range(layer_count(experiment.model))
    noise = corrupt(experiment.corrupted_positions, experiment.noise)
    restored = [component_hook(experiment.component, layer) for layer in layers]
    pinned = [component_hook(module, layer) for module in experiment.severed for layer in layers]
    batch = repeat(experiment.tokens, "1 pos -> sample pos", sample=experiment.samples)
    clean = _record(model, experiment.tokens, [], restored)
    corrupted = _record(model, batch, noise, pinned)
    found: list[torch.Tensor] = []
    for site in sites:
        hooks = noise + sever(corrupted, experiment.severed, layer=layers, pos=site.pos)
        window = range(site.first, site.last + 1)
        hooks += restore(clean, experiment.component, layer=window, pos=site.pos, unit=site.unit)
        with torch.no_grad():
            logits: torch.Tensor = model.run_with_hooks(batch, fwd_hooks=hooks)
        found.append(answer_probability(logits[:, experiment.answer_positions], experiment.answer))
        advance(1)
    return torch.stack(found)


def _record(model: HookedModel, tokens: Tokens, hooks: Hooks, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Run once and keep the named activations."""
    boxes: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    recorders = [pair for name, box in boxes.items() for pair in capture(name, box)]
    if names:
        with torch.no_grad():
            model.run_with_hooks(tokens, fwd_hooks=hooks + recorders)
    return {name: box[0] for name, box in boxes.items()}
