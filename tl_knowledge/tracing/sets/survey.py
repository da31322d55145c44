"""A survey's settings, and the traces of one part of its facts: every corruption, component and severing in one experiment.

A part is computed the same way whoever computes it and whenever: it depends on its facts, the settings and the model only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tl_knowledge.datasets import predicted_tokens
from tl_knowledge.engine.rows import budget_rows
from tl_knowledge.errors import ComponentError, CorruptionError, InputError
from tl_knowledge.models.checks import check_layers, check_model
from tl_knowledge.models.hook_names import Component, Module, has_units, severable
from tl_knowledge.models.protocol import HookedModel, layer_count
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt, check_fits
from tl_knowledge.runs.arguments import check_words, choose_answer, sample_count
from tl_knowledge.runs.corruption import Noise
from tl_knowledge.runs.experiment import CorruptedRun, Experiment, answered
from tl_knowledge.runs.windows import TraceVariant, Window, resolve_window
from tl_knowledge.tracing.engines import exact_probability
from tl_knowledge.tracing.sets.roles import SIDES, Side
from tl_knowledge.tracing.sites import Grid, Site

__all__ = ["FactTrace", "Survey", "fact_seed", "resolve_survey_noise", "trace_part"]

MOST_PADDING = 2  # tokens that a prompt may be shorter than the longest of its batch


@dataclass(frozen=True)
class Survey:
    """What to trace of every fact, and how."""

    noise: Noise
    corrupt: tuple[Side, ...]
    components: tuple[Component, ...]
    sever: tuple[Module, ...]
    window: Window
    samples: int
    seed: int
    variant: TraceVariant
    multi_token: bool
    known_only: bool
    layers: tuple[int, ...] | None
    engine: Literal["rows", "loop"]
    memory_budget: float

    def check(self) -> None:
        """Refuse settings that no model could run.

        Raises:
            ComponentError, CorruptionError: the setting, and what to pass.
        """
        if not self.corrupt or not set(self.corrupt) <= set(SIDES):
            raise CorruptionError(f"corrupt={self.corrupt} is not understood; pass 'subject', 'relation' or both.")
        if not self.components:
            raise ComponentError("no component was given; pass at least one, for example 'mlp_out'.")
        if self.engine not in ("rows", "loop"):
            raise ComponentError(f"fact sets are traced exactly, not by engine {self.engine!r}; pass engine='rows' or 'loop'.")
        for component in self.components:
            check_words(component, self.engine, self.variant)
            if has_units(component):
                raise ComponentError(
                    f"fact sets are averaged over states and modules, not {component}s; trace {component}s fact by fact with trace()."
                )
        severable(self.sever)
        sample_count(self.samples, self.noise)

    def key(self) -> str:
        """Everything that decides the numbers, as text."""
        return json.dumps(asdict(self) | {"noise": repr(self.noise)}, sort_keys=True, default=str)


@dataclass(frozen=True, eq=False)
class FactTrace:
    """One trace of one fact: the mean over noise samples of every effect.

    Attributes:
        index: the fact's place in the set.
        labels: the prompt's tokens as text.
        subject_positions, relation_positions: its spans.
        effect: ``[layer pos]`` indirect effects, in probability; NaN at positions that were not restored.
        corrupted_probability: ``[sample]``.
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
    effect: NDArray[np.float64] = field(repr=False)

    @property
    def total_effect(self) -> float:
        """Clean minus corrupted probability, averaged over samples."""
        return self.clean_probability - float(np.mean(self.corrupted_probability))


def fact_seed(fact: Fact, seed: int = 0) -> int:
    """The noise seed of a fact in a set: from its text and the set's seed, never from its place.

    Example:
        >>> fact_seed(Fact("France", "The capital of {} is", " Paris"))
        3454686431
    """
    return int.from_bytes(hashlib.sha256(json.dumps([seed, fact.subject, fact.template]).encode()).digest()[:4], "big")


@dataclass(frozen=True, eq=False)
class _Question:
    """A fact made ready to trace."""

    index: int
    fact: Fact
    prompt: Prompt
    answer: torch.Tensor
    seed: int


def trace_part(
    model: HookedModel, facts: Sequence[tuple[int, Fact]], survey: Survey, noise: Noise, advance: Callable[[int], None]
) -> tuple[list[FactTrace], dict[int, str]]:
    """Trace some facts; facts that cannot be traced, or are not known, come back with the reason.

    Args:
        facts: facts with their places in the set.
        noise: the survey's, as `resolve_survey_noise` gives it for this model.
        advance: told of every fact that is finished.
    """
    check_model(model)
    skipped: dict[int, str] = {}
    questions: list[_Question] = []
    for index, fact in facts:
        try:
            prompt = Prompt.from_fact(model, fact)
            check_fits(model, prompt)
            for side in SIDES:
                prompt.span(side)
            answer = choose_answer(model, prompt, None, survey.multi_token)
        except InputError as error:
            skipped[index] = str(error)
            continue
        seed = noise.seed if survey.variant == "meng2022_code" else fact_seed(fact, survey.seed)
        questions.append(_Question(index, replace(fact, paraphrases=()), prompt, answer, seed))
    if survey.known_only:
        predicted = predicted_tokens(model, [q.prompt for q in questions])
        wrong = {q.index: token for q, token in zip(questions, predicted, strict=True) if token != q.prompt.target_token}
        skipped |= {index: f"not known: the model predicts {model.tokenizer.decode([token])!r}" for index, token in wrong.items()}
        questions = [q for q in questions if q.index not in wrong]
    advance(len(skipped))
    traces: list[FactTrace] = []
    for batch in _batches(model, questions, survey):
        traces += _trace_batch(model, batch, survey, noise)
        advance(len(batch))
    return sorted(traces, key=lambda trace: trace.index), skipped


def resolve_survey_noise(model: HookedModel, survey: Survey) -> Noise:
    """The survey's noise with its scale as a number; the original program's stream under its variant."""
    noise = survey.noise.resolve(model)
    return replace(noise, variant="meng2022_code", seed=1) if survey.variant == "meng2022_code" else noise


def _batches(model: HookedModel, questions: Sequence[_Question], survey: Survey) -> Iterator[list[_Question]]:
    """Facts of about equal length whose restored runs fit the memory budget together; at least one at a time."""
    ordered = sorted(questions, key=lambda q: (len(q.answer), len(q.prompt)))
    sweeps = len(survey.corrupt) * (len(survey.components) + len(survey.sever))
    batch: list[_Question] = []
    for question in ordered:
        rows = (len(batch) + 1) * sweeps * layer_count(model) * len(question.prompt) * survey.samples
        fits = rows <= budget_rows(model, len(question.prompt), len(question.answer), survey.memory_budget)
        alike = batch and len(batch[0].answer) == len(question.answer) and len(question.prompt) - len(batch[0].prompt) <= MOST_PADDING
        if batch and not (fits and alike):
            yield batch
            batch = []
        batch.append(question)
    if batch:
        yield batch


def _trace_batch(model: HookedModel, batch: Sequence[_Question], survey: Survey, noise: Noise) -> list[FactTrace]:
    runs: list[tuple[int, Side]] = [(row, side) for row in range(len(batch)) for side in survey.corrupt]
    experiment = Experiment(
        model=model,
        prompts=tuple(answered(q.prompt, q.answer) for q in batch),
        runs=tuple(CorruptedRun(row, batch[row].prompt.span(side).positions, noise.with_seed(batch[row].seed)) for row, side in runs),
        samples=survey.samples,
    )
    grids = [(run, grid) for run, (row, side) in enumerate(runs) for grid in _grids(model, batch[row].prompt, side, survey)]
    sites = [grid.sites(experiment, run) for run, grid in grids]
    flat: list[Site] = [site for group in sites for site in group]
    probability, _ = exact_probability(experiment, flat, survey.engine, survey.memory_budget, lambda count: None)
    predicted = experiment.base.predicted.tolist()
    found: list[FactTrace] = []
    for (run, grid), group, part in zip(grids, sites, probability.split([len(group) for group in sites]), strict=True):
        row, side = runs[run]
        question, corrupted = batch[row], experiment.corrupted_probability(run)
        effect = grid.arrange(group, part - corrupted, len(question.prompt)).mean(0)
        found.append(
            FactTrace(
                question.index,
                question.fact,
                question.prompt.labels,
                question.prompt.subject.positions,
                question.prompt.relation.positions,
                side,
                grid.component,
                grid.severed,
                grid.window,
                question.seed,
                predicted[row] == int(question.answer[0]),
                experiment.clean_probability(run),
                tuple(corrupted.double().tolist()),
                effect.double().numpy(),
            )
        )
    return found


def _grids(model: HookedModel, prompt: Prompt, side: Side, survey: Survey) -> list[Grid]:
    """Every component at every position, and each severing at the last corrupted token (paper 001, figure 3)."""
    layers = check_layers(model, survey.layers)
    everywhere = tuple(range(len(prompt)))
    windows = {c: 1 if c == "resid_post" else resolve_window(model, c, survey.window, survey.variant) for c in survey.components}
    grids = [Grid(c, windows[c], survey.variant, (), layers, everywhere) for c in survey.components]
    return grids + [Grid("resid_post", 1, survey.variant, (module,), layers, (prompt.span(side).last,)) for module in survey.sever]
