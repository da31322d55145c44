"""A survey's settings, and the traces of one part of its facts: every corruption, component and severing in one experiment.

A part is computed the same way whoever computes it and whenever: it depends on its facts, the settings and the model only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tl_knowledge.arrays import FloatArray
from tl_knowledge.door import public
from tl_knowledge.engine.rows import budget_rows
from tl_knowledge.errors import ComponentError
from tl_knowledge.models.hook_names import STATES, Component, Module, has_units
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.runs.arguments import traced_positions, traced_units
from tl_knowledge.runs.experiment import CorruptedRun, Experiment, answered
from tl_knowledge.runs.questions import Question, ask_facts
from tl_knowledge.runs.roles import Side
from tl_knowledge.runs.windows import resolve_window
from tl_knowledge.tracing.engines import exact_scores
from tl_knowledge.tracing.sets.settings import Execution, Survey
from tl_knowledge.tracing.sites import Grid, Site

__all__ = ["FactTrace", "fact_seed", "trace_part"]

MOST_PADDING = 2  # tokens that a prompt may be shorter than the longest of its batch


@dataclass(frozen=True, eq=False)
class FactTrace:
    """One trace of one fact: the mean over noise samples of every effect.

    Attributes:
        index: the fact's place in the set.
        fact: without its paraphrases.
        labels: the prompt's tokens as text.
        subject_positions, relation_positions: its spans.
        corrupt, component, severed: what was corrupted, restored and severed.
        window: how many layers were restored together.
        seed: of this fact's noise.
        known: whether the clean run predicts the target's first token.
        clean_probability: of the target.
        corrupted_probability: ``[sample]``.
        clean_score, corrupted_score: the same in the metric of the set.
        effect: ``[layer pos]`` indirect effects, in the metric, ``[layer pos unit]`` of heads and neurons; NaN at positions that were not
            restored.
        units: the heads or neurons of the unit axis; empty for components without units.
    """

    index: int
    fact: Fact
    labels: tuple[str, ...]
    subject_positions: tuple[int, ...]
    relation_positions: tuple[int, ...]
    corrupt: Side
    component: Component
    severed: tuple[Module, ...]
    window: int
    seed: int
    known: bool
    clean_probability: float
    corrupted_probability: tuple[float, ...]
    clean_score: float
    corrupted_score: tuple[float, ...]
    effect: FloatArray = field(repr=False)
    units: tuple[int, ...] = ()

    @property
    def total_effect(self) -> float:
        """Clean minus corrupted score, averaged over samples."""
        return self.clean_score - float(np.mean(self.corrupted_score))


@public
def fact_seed(fact: Fact, *, seed: int = 0) -> int:
    """The noise seed of a fact in a set: from its text and the set's seed, never from its place.

    Example:
        >>> fact_seed(Fact("France", "The capital of {} is", " Paris"))
        3454686431
    """
    return int.from_bytes(hashlib.sha256(json.dumps([seed, fact.subject, fact.template]).encode()).digest()[:4], "big")


def trace_part(
    model: HookedModel, facts: Sequence[tuple[int, Fact]], survey: Survey, execution: Execution, advance: Callable[[int], None]
) -> tuple[list[FactTrace], dict[int, str]]:
    """Trace some facts; facts that cannot be traced, or are not known, come back with the reason.

    Args:
        facts: facts with their places in the set.
        survey: as `Survey.resolve` gives it for this model.
        advance: called with the number of facts that were finished.
    """
    questions, skipped = ask_facts(model, facts, multi_token=survey.multi_token, known_only=survey.known_only, against=survey.metric.against)
    advance(len(skipped))
    traces: list[FactTrace] = []
    for batch in _batches(model, questions, survey, execution.memory_budget):
        traces += _trace_batch(model, batch, survey, execution)
        advance(len(batch))
    return sorted(traces, key=lambda trace: trace.index), skipped


def _seed(survey: Survey, fact: Fact) -> int:
    return survey.seed if survey.variant == "meng2022_code" else fact_seed(fact, seed=survey.seed)


def _batches(model: HookedModel, questions: Sequence[Question], survey: Survey, memory_budget: float) -> Iterator[list[Question]]:
    """Facts of about equal length whose restored runs fit the memory budget together; at least one at a time."""
    layers = layer_count(model)

    def fits(batch: Sequence[Question], longest: Question) -> bool:
        alike = len(batch[0].answer) == len(longest.answer) and len(longest.prompt) - len(batch[0].prompt) <= MOST_PADDING
        each = sum(
            len(grid.positions) * len(grid.units) for side in survey.corrupt for grid in _grids(model, longest.prompt, side, survey, alone=False)
        )
        rows = (len(batch) + 1) * each * layers * survey.samples
        return alike and rows <= budget_rows(model, len(longest.prompt), len(longest.answer), memory_budget)

    batch: list[Question] = []
    for question in sorted(questions, key=lambda question: (len(question.answer), len(question.prompt))):
        if batch and not fits(batch, question):
            yield batch
            batch = []
        batch.append(question)
    if batch:
        yield batch


def _trace_batch(model: HookedModel, batch: Sequence[Question], survey: Survey, execution: Execution) -> list[FactTrace]:
    runs: list[tuple[int, Side]] = [(row, side) for row in range(len(batch)) for side in survey.corrupt]
    noises = [survey.noise.with_seed(_seed(survey, question.fact)) for question in batch]
    experiment = Experiment(
        model=model,
        prompts=tuple(answered(question.prompt, question.answer) for question in batch),
        runs=tuple(CorruptedRun(row, batch[row].prompt.span(side).positions, noises[row]) for row, side in runs),
        samples=survey.samples,
        metric=survey.metric,
    )
    grids = [(run, grid) for run, (row, side) in enumerate(runs) for grid in _grids(model, batch[row].prompt, side, survey)]
    sites = [grid.sites(experiment, run) for run, grid in grids]
    flat: list[Site] = [site for group in sites for site in group]
    scores, _ = exact_scores(experiment, flat, execution.engine, execution.memory_budget, lambda count: None)
    predicted = experiment.base.predicted.tolist()
    traces: list[FactTrace] = []
    for (run, grid), group, part in zip(grids, sites, scores.split([len(group) for group in sites]), strict=True):
        row, side = runs[run]
        question, corrupted = batch[row], experiment.corrupted_score(run)
        traces.append(
            FactTrace(
                index=question.index,
                fact=question.fact,
                labels=question.prompt.labels,
                subject_positions=question.prompt.subject.positions,
                relation_positions=question.prompt.relation.positions,
                corrupt=side,
                component=grid.component,
                severed=grid.severed,
                window=grid.window,
                seed=_seed(survey, question.fact),
                known=predicted[row] == int(question.answer[0]),
                clean_probability=experiment.clean_probability(run),
                corrupted_probability=tuple(experiment.corrupted_probability(run).double().tolist()),
                clean_score=experiment.clean_score(run),
                corrupted_score=tuple(corrupted.double().tolist()),
                effect=grid.arrange(group, part - corrupted, len(question.prompt)).mean(0).double().numpy(),
                units=grid.units if has_units(grid.component) else (),
            )
        )
    return traces


def _grids(model: HookedModel, prompt: Prompt, side: Side, survey: Survey, *, alone: bool = True) -> list[Grid]:
    """Every component at every position (neurons at the last corrupted token), and each severing there (Wei et al. 2024, figure 3).

    Args:
        alone: whether a severed state is restored at its one position, or at every one, as the size of batches is reckoned.
    """
    if survey.layers is None:
        raise ComponentError("the survey's layers are not known yet; call survey.resolve(model) first.")
    everywhere = tuple(range(len(prompt)))
    windows = {c: 1 if c in STATES else resolve_window(model, c, survey.window, survey.variant) for c in survey.components}
    grids: list[Grid] = []
    for c in survey.components:
        positions, units = traced_positions(prompt, prompt.span(side), c, None), traced_units(model, c, survey.units) if has_units(c) else (0,)
        grids.append(Grid(c, windows[c], survey.variant, (), survey.layers, positions, units))
    severed_at = (prompt.span(side).last,) if alone else everywhere
    return grids + [Grid("resid_post", 1, survey.variant, (module,), survey.layers, severed_at) for module in survey.sever]
