"""Causal traces of a whole fact set, from the subject's and from the relation's side, in one resumable run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Literal, cast

from tqdm.auto import tqdm

from tl_knowledge.engine.rows import MEMORY_BUDGET
from tl_knowledge.errors import CorruptionError, DataError, InputError
from tl_knowledge.models.hook_names import Component, Module
from tl_knowledge.models.loading import load_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.runs.corruption import GaussianNoise, Noise
from tl_knowledge.runs.windows import TraceVariant, Window
from tl_knowledge.tracing.sets.average import TraceAverage
from tl_knowledge.tracing.sets.roles import SIDES, Side
from tl_knowledge.tracing.sets.runners import Part, Runner, run_locally, run_on_ray
from tl_knowledge.tracing.sets.store import PartResult, TraceStore, join_parts
from tl_knowledge.tracing.sets.survey import Survey

__all__ = ["trace_facts"]

FACTS_PER_PART = 16


def trace_facts(
    model: HookedModel | str | os.PathLike[str],
    facts: Iterable[Fact],
    noise: Noise | float | str | None = None,
    *,
    corrupt: Side | Sequence[Side] = SIDES,
    components: Component | Sequence[Component] = ("resid_post", "mlp_out", "attn_out"),
    sever: Module | Sequence[Module] = (),
    window: Window = "auto",
    samples: int = 10,
    seed: int = 0,
    variant: TraceVariant = "ours",
    multi_token: bool = False,
    known_only: bool = True,
    layers: Sequence[int] | None = None,
    engine: Literal["rows", "loop"] = "rows",
    store: str | os.PathLike[str] | None = None,
    runner: Runner = "local",
    workers: int = 2,
    facts_per_part: int = FACTS_PER_PART,
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> TraceAverage:
    """Trace every fact of a set; all corruptions, components and severings of a fact share one sweep.

    A fact's trace is what ``trace(..., seed=fact_seed(fact, seed))`` gives: it does not depend on the other facts.

    Args:
        model: a model, or its name or directory (which ``runner="ray"`` needs).
        noise: as in `trace`, but no `PromptSwap`.
        corrupt: ``"subject"``, ``"relation"`` or both.
        components: what is restored: ``"resid_post"``, ``"mlp_out"``, ``"attn_out"``.
        sever: modules to sever, each by itself, while the residual state at the last corrupted token is restored (paper 001,
            figure 3).
        window: of modules; residual states are restored one layer at a time.
        samples, variant, multi_token, layers, engine, memory_budget: as in `trace`.
        seed: of the set; each fact's noise comes from it and the fact's text (``rome_code``: seed 1 for every fact).
        known_only: leave out facts whose target is not what the clean run predicts.
        store: a folder for finished parts; a run that stopped goes on from there.
        runner: ``"local"``, or ``"ray"`` for Ray actors with one model each.
        workers: Ray actors.
        facts_per_part: facts that are computed and stored together.
        progress: show a progress bar with rate and time left.

    Returns:
        A `TraceAverage`; facts that were left out are in its ``skipped``, with the reason.

    Raises:
        DataError: no facts, none that can be traced, or a store of another run.
        ModelError, InputError: as `trace`.

    Example:
        >>> import tl_knowledge as tlk
        >>> average = tlk.trace_facts("factlm", tlk.load_facts("factlm")[:6], components="mlp_out", samples=2, progress=False)
        >>> len(average.facts), sorted(average.total_effects()["corrupt"])
        (6, ['relation', 'subject'])
    """
    if runner not in ("local", "ray"):
        raise InputError(f"runner {runner!r} is unknown; pass 'local' or 'ray'.")
    chosen = list(facts)
    if not chosen:
        raise DataError("no fact was given; pass at least one.")
    if facts_per_part < 1:
        raise InputError(f"facts_per_part={facts_per_part} makes no part; pass at least 1.")
    survey = Survey(
        noise=_noise(noise),
        corrupt=cast("tuple[Side, ...]", _several(corrupt)),
        components=cast("tuple[Component, ...]", _several(components)),
        sever=cast("tuple[Module, ...]", _several(sever)),
        window=window,
        samples=samples,
        seed=seed,
        variant=variant,
        multi_token=multi_token,
        known_only=known_only,
        layers=None if layers is None else tuple(layers),
        engine=engine,
        memory_budget=memory_budget,
    )
    survey.check()
    parts = _parts(chosen, facts_per_part)
    results = _run(model, parts, survey, TraceStore(store, survey, chosen, facts_per_part) if store else None, runner, workers, progress)
    return TraceAverage.from_part(join_parts([results[number] for number in parts]))


def _run(
    model: HookedModel | str | os.PathLike[str],
    parts: dict[int, Part],
    survey: Survey,
    store: TraceStore | None,
    runner: Runner,
    workers: int,
    progress: bool,
) -> dict[int, PartResult]:
    """Compute what the store does not have, and return every part."""
    results: dict[int, PartResult] = {number: store.read(number) for number in store.finished()} if store else {}
    missing = {number: part for number, part in parts.items() if number not in results}

    def finished(number: int, part: PartResult) -> None:
        results[number] = part
        if store:
            store.write(number, part)

    total, done = sum(map(len, parts.values())), sum(len(parts[number]) for number in results)
    with tqdm(total=total, initial=done, desc="trace facts", unit="fact", disable=not progress) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        if missing and runner == "ray":
            run_on_ray(model, missing, survey, workers, finished, advance)
        elif missing:
            run_locally(load_model(model), missing, survey, finished, advance)
    return results


def _parts(facts: Sequence[Fact], facts_per_part: int) -> dict[int, Part]:
    numbered = iter(enumerate(facts))
    return {number: list(islice(numbered, facts_per_part)) for number in range(-(-len(facts) // facts_per_part))}


def _noise(noise: Noise | float | str | None) -> Noise:
    if noise is None or isinstance(noise, float | int | str):
        return GaussianNoise(sd="3sd" if noise is None else noise)
    if not isinstance(noise, Noise):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CorruptionError(
            f"{type(noise).__name__} belongs to one prompt; pass noise that can be drawn for every fact, or trace() each by itself."
        )
    return noise


def _several(words: str | Sequence[str]) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else tuple(words)
