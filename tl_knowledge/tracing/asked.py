"""What is asked of one prompt: a noise, an answer, one or several corruptions, and the traces that are made of their scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from tl_knowledge.arrays import as_positions
from tl_knowledge.models.checks import check_layers
from tl_knowledge.models.hook_names import Component, Module, has_units
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.prompts.spans import Span
from tl_knowledge.results.packing import plain
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.runs.arguments import (
    answer_label,
    choose_answer,
    corrupted_span,
    resolve_noise,
    sample_count,
    traced_positions,
    traced_units,
)
from tl_knowledge.runs.corruption import Noise, PromptSwap
from tl_knowledge.runs.experiment import CorruptedRun, Experiment, answered
from tl_knowledge.runs.metric import Against, AnyMetric
from tl_knowledge.runs.metric_arguments import resolve_metric
from tl_knowledge.runs.windows import TraceVariant, Window, resolve_window
from tl_knowledge.tracing.result import CausalTrace
from tl_knowledge.tracing.screen import ScreenCheck
from tl_knowledge.tracing.settings import TraceSettings
from tl_knowledge.tracing.sites import Grid, Site

__all__ = ["Corrupted", "Positions", "PromptTraces"]

Corrupted = str | Span | int | Iterable[int]
"""Which tokens are corrupted: a span's name, the span, or positions."""

Positions = int | Span | Iterable[int] | None
"""Which positions are restored; ``None`` is all."""


@dataclass(frozen=True, eq=False)
class PromptTraces:
    """Traces of one prompt that share its clean run, its answer and its noise.

    Attributes:
        experiment: the clean run, and a corrupted run for each span.
        spans: what the runs corrupt.
        noise: by what, resolved.
        variant, multi_token: as in `trace`.
    """

    prompt: Prompt
    experiment: Experiment
    spans: tuple[Span, ...]
    noise: Noise | PromptSwap
    variant: TraceVariant
    multi_token: bool

    @classmethod
    def of(
        cls,
        model: HookedModel,
        prompt: Prompt,
        noise: Noise | PromptSwap | float | str | None,
        *,
        corrupt: Iterable[Corrupted],
        samples: int,
        seed: int,
        target: str | int | None,
        multi_token: bool,
        metric: AnyMetric,
        against: Against,
        variant: TraceVariant,
    ) -> PromptTraces:
        """Resolve the arguments of `trace`; nothing runs but the clean run, where no answer is given.

        Raises:
            PromptError, CorruptionError, TargetError, InputError: an argument that does not fit.
        """
        spans = tuple(corrupted_span(prompt, each) for each in corrupt)
        corruption = resolve_noise(model, prompt, noise, seed, variant)
        answer = choose_answer(model, prompt, target, multi_token)
        experiment = Experiment(
            model=model,
            prompts=(answered(prompt, answer),),
            runs=tuple(CorruptedRun(0, span.positions, corruption) for span in spans),
            samples=sample_count(samples, corruption),
            metric=resolve_metric(model, metric, against, answer=answer.tolist(), multi_token=multi_token),
        )
        return cls(prompt, experiment, spans, corruption, variant, multi_token)

    def grid(
        self,
        run: int,
        component: Component,
        window: Window,
        severed: tuple[Module, ...],
        *,
        layers: int | Iterable[int] | None,
        positions: Positions,
        units: int | Iterable[int] | None,
    ) -> Grid:
        """What one trace restores.

        Raises:
            ComponentError: a window, layers, positions or units that the model or the prompt does not have.
        """
        model = self.experiment.model
        return Grid(
            component=component,
            window=resolve_window(model, component, window, self.variant),
            variant=self.variant,
            severed=severed,
            layers=check_layers(model, None if layers is None else as_positions(layers)),
            positions=traced_positions(self.prompt, self.spans[run], component, positions),
            units=traced_units(model, component, units),
        )

    def provenance(self, engine: str) -> Provenance:
        """Where all of these traces come from; each adds its settings."""
        more = {"prompt": self.prompt.text, "noise": repr(self.noise)}
        return provenance_of(self.experiment.model, engine=engine, seed=self._seed, has_bos=self.prompt.has_bos, **more)

    def result(
        self, run: int, grid: Grid, sites: Sequence[Site], scores: torch.Tensor, made: Provenance, check: ScreenCheck | None = None
    ) -> CausalTrace:
        """One trace.

        Args:
            sites: the grid's.
            scores: theirs, ``[site sample]``.
            made: as `provenance` gives it.
            check: of a screen.
        """
        experiment, settings = self.experiment, self._settings(run, grid)
        corrupted, answer = experiment.corrupted_score(run), experiment.answers[0]
        return CausalTrace(
            indirect_effect=grid.arrange(sites, scores - corrupted, len(self.prompt)),
            total_effect=(experiment.clean_score(run) - corrupted).cpu(),
            clean_probability=experiment.clean_probability(run),
            corrupted_probability=experiment.corrupted_probability(run).cpu(),
            settings=settings,
            spans=dict(self.prompt.spans),
            labels=self.prompt.labels,
            target=answer_label(experiment.model, self.prompt, answer),
            known=int(experiment.base.predicted[0]) == settings.answer[0],
            provenance=replace(made, settings=plain(settings) | made.settings),
            screen=check,
            clean_score=experiment.clean_score(run),
        )

    @property
    def _seed(self) -> int:
        return (self.noise.seed or 0) if isinstance(self.noise, Noise) else 0

    def _settings(self, run: int, grid: Grid) -> TraceSettings:
        return TraceSettings(
            component=grid.component,
            window=grid.window,
            sever=grid.severed,
            layers=grid.layers,
            positions=grid.positions,
            units=grid.units if has_units(grid.component) else (),
            corrupted=self.spans[run],
            noise=self.noise,
            samples=self.experiment.samples,
            seed=self._seed,
            variant=self.variant,
            multi_token=self.multi_token,
            answer=tuple(self.experiment.answers[0].tolist()),
            metric=self.experiment.metric,
        )
