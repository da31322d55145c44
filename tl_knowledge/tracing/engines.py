"""The two engines of a causal trace: the growing-rows sweep, and the obvious loop it must equal.

Both take the same `Experiment` and the same sites, of any mixture of prompts, corruptions, components and severings, and
return the metric in every restored run, ``[site sample]``. The loop consists of the public hook factories
only: one forward a site. The sweep runs a chunk of sites in one forward (see `tl_knowledge.engine.rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from more_itertools import chunked_even

from tl_knowledge.engine.forward import run_model
from tl_knowledge.engine.layouts import laid_out_weights, layout_room
from tl_knowledge.engine.prefix_bank import bank_refusal
from tl_knowledge.engine.recording import record
from tl_knowledge.engine.rows import budget_rows, row_bytes, rows_engine, run_rows
from tl_knowledge.errors import NumericalError
from tl_knowledge.hooks import corrupt, restore, sever
from tl_knowledge.models.hook_names import Component
from tl_knowledge.models.protocol import HookedModel, hook_names_kept, layer_count, site_hook
from tl_knowledge.runs.experiment import Experiment
from tl_knowledge.tracing.sites import Site, group_sites
from tl_knowledge.tracing.sweep import Sweep, read_names

__all__ = ["engine_used", "exact_scores", "loop_over_sites", "sweep_sites"]

Advance = Callable[[int], None]
SiteScore = Float[torch.Tensor, "site sample"]


def exact_scores(
    experiment: Experiment, sites: Sequence[Site], engine: Literal["rows", "loop"], memory_budget: float, advance: Advance
) -> tuple[SiteScore, str]:
    """The metric in every restored run, and the engine that gave it: the loop where the model refuses growing rows.

    Raises:
        NumericalError: a score that is not finite.
    """
    used = rows_engine(experiment.model) if engine == "rows" else engine
    if not sites:
        return experiment.base.score.new_empty(0, experiment.samples), engine_used(experiment.model, engine, experiment.length)
    if used == "rows":
        with hook_names_kept(experiment.model):
            scores, whole = sweep_sites(experiment, sites, memory_budget, advance)
        used = _rows_said(whole)
    else:
        _ = experiment.base  # first, for its own clear error where activations are not finite
        scores = loop_over_sites(experiment, sites, advance)
    if not bool(scores.isfinite().all()):
        raise NumericalError(f"restored runs gave values of {experiment.metric} that are not finite; load the model in float32, or lower the noise.")
    return scores, used


def engine_used(model: HookedModel, engine: Literal["rows", "loop"], length: int = 0) -> str:
    """The engine that will run, with the reason where the model refuses the other one, or rows of so many tokens that begin anywhere."""
    used = rows_engine(model) if engine == "rows" else engine
    return _rows_said(bank_refusal(model, length)) if used == "rows" else used


def _rows_said(whole: str | None) -> str:
    """The engine of growing rows, with the reason where its rows run whole."""
    return f"rows (whole rows: {whole})" if whole else "rows"


def sweep_sites(experiment: Experiment, sites: Sequence[Site], memory_budget: float, advance: Advance) -> tuple[SiteScore, str]:
    """Growing rows: one forward for as many sites as the memory budget allows, those born together kept together.

    Where the model's cache is exact, and all prefixes take half of the budget at most, rows begin at the first position that is restored in
    their forward. Elsewhere they run whole; why is given, too.
    """
    model, samples, answers = experiment.model, experiment.samples, experiment.answers.shape[1]
    bank = experiment.bank(read_names(model, sites), memory_budget / 2)
    whole = "" if bank else bank_refusal(model, experiment.length) or "their prefixes would take over half of memory_budget"
    left = memory_budget - (bank.bytes if bank else 0)
    room = layout_room(model, left)
    left -= room
    scores = torch.empty(len(sites), samples, dtype=experiment.base.score.dtype, device=experiment.device)
    chunks, taken = list[tuple[int, Sequence[int]]](), 0
    for start, group in group_sites(sites, experiment.length, layer_count(model), samples) if bank else [(0, range(len(sites)))]:
        fitting = budget_rows(model, experiment.length - start, answers, left, start) - (0 if bank else len(experiment.row_prompts))
        together = list(_chunks(sites, group, max(1, fitting // samples)))
        chunks += [(start, chunk) for chunk in together]
        rows = samples * max(map(len, together)) + (0 if bank else len(experiment.row_prompts))
        taken = max(taken, rows * row_bytes(model, experiment.length - start, answers, start))
    with laid_out_weights(model, float(room + left - taken) if len(chunks) > 1 else 0.0):
        for start, chunk in chunks:
            sweep = Sweep(experiment, [sites[k] for k in chunk], start, bank)
            arguments = bank.arguments(start, sweep.parents) if bank else {}
            logits = run_rows(model, experiment.tokens[:1, start:], sweep.hooks(), **arguments)
            born = experiment.score(logits[sweep.base_rows :], sweep.row_prompts[sweep.base_rows :])
            scores[chunk] = rearrange(born, "(site sample) -> site sample", sample=samples)
            advance(len(chunk))
    return scores, whole


def _chunks(sites: Sequence[Site], group: Iterable[int], most: int) -> Iterator[Sequence[int]]:
    """At most so many sites together, those born together beside each other: of units by themselves, since these need their parts to run whole."""
    of_kind: dict[tuple[str, ...], list[int]] = {}
    for k in sorted(group, key=lambda k: sites[k].born_at):
        of_kind.setdefault(sites[k].parts_run_whole, []).append(k)
    for alike in of_kind.values():
        yield from chunked_even(alike, most)


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
