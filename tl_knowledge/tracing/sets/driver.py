"""Causal traces of a whole fact set, from the subject's and from the relation's side, in one resumable run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from more_itertools import always_iterable, chunked

from tl_knowledge.arrays import as_positions
from tl_knowledge.door import public
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.engine.rows import MEMORY_BUDGET
from tl_knowledge.errors import InputError, check_choice, check_given
from tl_knowledge.models.description import weight_fingerprint
from tl_knowledge.models.hook_names import Component, Module
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.runs.arguments import drawn_noise
from tl_knowledge.runs.corruption import Noise
from tl_knowledge.runs.metric import Against, AnyMetric
from tl_knowledge.runs.metric_arguments import resolve_metric
from tl_knowledge.runs.parts import Runner, run_parts
from tl_knowledge.runs.roles import SIDES, Side
from tl_knowledge.runs.windows import TraceVariant, Window
from tl_knowledge.tracing.sets.average import TraceAverage
from tl_knowledge.tracing.sets.runners import Part, TraceJob
from tl_knowledge.tracing.sets.settings import ExactEngine, Execution, Survey
from tl_knowledge.tracing.sets.store import PartResult, TraceStore, join_parts

__all__ = ["trace_facts"]

FACTS_PER_PART = 16


@public
def trace_facts(
    model: AnyModel,
    facts: Fact | Iterable[Fact],
    noise: Noise | float | str | None = None,
    *,
    corrupt: Side | Sequence[Side] = SIDES,
    components: Component | Sequence[Component] = ("resid_post", "mlp_out", "attn_out"),
    sever: Module | Sequence[Module] | None = (),
    window: Window = "auto",
    samples: int = 10,
    seed: int = 0,
    variant: TraceVariant = "ours",
    multi_token: bool = False,
    metric: AnyMetric = "probability",
    against: Against = None,
    known_only: bool = True,
    layers: int | Iterable[int] | None = None,
    units: int | Iterable[int] | None = None,
    engine: ExactEngine = "rows",
    store: str | os.PathLike[str] | None = None,
    runner: Runner = "local",
    workers: int = 2,
    facts_per_part: int = FACTS_PER_PART,
    memory_budget: float = MEMORY_BUDGET,
    progress: bool = True,
) -> TraceAverage:
    """Trace every fact of a set; all corruptions, components and severings of a fact share one sweep.

    A fact's trace is what ``trace(..., seed=fact_seed(fact, seed=seed))`` gives: it does not depend on the other facts.

    Args:
        model: a model, or its name or directory (which ``runner="ray"`` needs).
        noise: as in `trace`, but no `PromptSwap`.
        corrupt: ``"subject"``, ``"relation"`` or both.
        components: what is restored, as in `trace`: states and modules at every token, and so each head (or its ``q``, ``k``, ``v``, pattern
            or scores); each neuron at the last corrupted token.
        sever: modules to sever, each by itself, while the residual state at the last corrupted token is restored (Wei et al. 2024,
            figure 3).
        units: which heads or neurons, of components that have them; all when ``None``.
        window: of modules; residual states are restored one layer at a time.
        samples, variant, multi_token, metric, layers, engine, memory_budget: as in `trace`.
        against: the other answer or answers of a logit difference, the same for all facts; a fact whose answer is one of them is left out.
        seed: of the set, where the noise has none of its own; each fact's noise comes from it and the fact's text
            (``"meng2022_code"``: from it alone).
        known_only: leave out facts whose target is not what the clean run predicts.
        store: a folder for finished parts; a run that stopped goes on from there, with another ``engine`` or ``memory_budget`` too
            (it warns that the parts then agree to rounding).
        runner: ``"local"``, or ``"ray"`` for Ray actors with one model each.
        workers: Ray actors.
        facts_per_part: facts that are computed and stored together.
        progress: show a progress bar with rate and time left.

    Returns:
        A `TraceAverage`; facts that were left out are in its ``skipped``, with the reason.

    Raises:
        DataError: no fact, none that can be traced, or a store of another run.
        ModelError, InputError: as `trace`.

    Example:
        >>> import tl_knowledge as tlk
        >>> average = tlk.trace_facts("factlm", tlk.load_facts("factlm")[:6], components="mlp_out", samples=2, progress=False)
        >>> len(average.facts), sorted(average.total_effects()["corrupt"])
        (6, ['relation', 'subject'])
    """
    check_choice("runner", runner, Runner)
    if facts_per_part < 1:
        raise InputError(f"facts_per_part={facts_per_part} makes no part; pass at least 1.")
    given = check_given(always_iterable(facts, Fact), "fact")
    settings = drawn_noise(noise).seeded(seed)
    survey = Survey(
        corrupt=tuple(dict.fromkeys(always_iterable(corrupt))),
        components=tuple(dict.fromkeys(always_iterable(components))),
        sever=tuple(dict.fromkeys(always_iterable(sever))),
        window=window,
        layers=None if layers is None else as_positions(layers),
        units=None if units is None else as_positions(units),
        noise=settings.with_seed(None),
        seed=settings.seed or 0,
        samples=samples,
        variant=variant,
        multi_token=multi_token,
        known_only=known_only,
        metric=resolve_metric(model, metric, against, multi_token=multi_token),
    )
    survey.metric.check_storable(store)
    execution = Execution(engine, memory_budget)
    survey.check()
    execution.check()
    parts = dict(enumerate(chunked(enumerate(given), facts_per_part)))
    with ExitStack() as stack:
        folder = stack.enter_context(closing(TraceStore(store, survey, given, facts_per_part))) if store is not None else None
        run = _Run(model, survey, execution, folder, runner, workers, progress)
        return TraceAverage.from_part(join_parts(run.compute(parts)))


@dataclass(frozen=True, eq=False)
class _Run:
    """One call of `trace_facts`."""

    model: AnyModel
    survey: Survey
    execution: Execution
    store: TraceStore | None
    runner: Runner
    workers: int
    progress: bool

    def compute(self, parts: Mapping[int, Part]) -> list[PartResult]:
        """Compute what the store does not have, and return every part."""
        results = self.store.finished(parts) if self.store else {}
        missing = {number: part for number, part in parts.items() if number not in results}
        if self.store and results and (self.runner == "local" or not missing):  # a worker's parts are checked when they are written
            self.store.check_weights(weight_fingerprint(as_model(self.model, without_mlps=True)))
        if self.store and missing:
            self.store.warn_of_other_execution(results, self.execution)

        def finished(number: int, part: PartResult) -> None:
            results[number] = part
            if self.store:
                self.store.write(number, part)

        total, done = sum(map(len, parts.values())), sum(len(parts[number]) for number in results)
        with progress_bar(what="trace facts", unit="fact", progress=self.progress, total=total, initial=done) as bar:

            def advance(count: int) -> None:
                bar.update(count)

            def remote(number: int, part: PartResult) -> None:
                finished(number, part)
                advance(part.header.given)

            local = self.runner == "local"
            job = TraceJob(self.survey, self.execution, advance) if local else TraceJob(self.survey, self.execution)
            run_parts(self.model, job, missing, finished if local else remote, runner=self.runner, workers=self.workers)
        return [results[number] for number in parts]
