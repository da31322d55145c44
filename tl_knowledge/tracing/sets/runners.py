"""Traces of the parts of a run, wherever they are computed: see `tl_knowledge.runs.parts`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

from tl_knowledge.models.description import weight_fingerprint
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.results.provenance import provenance_of
from tl_knowledge.tracing.engines import engine_used
from tl_knowledge.tracing.sets.settings import Execution, Survey
from tl_knowledge.tracing.sets.store import PartHeader, PartResult
from tl_knowledge.tracing.sets.survey import trace_part

__all__ = ["PartTracer", "TraceJob"]

Part: TypeAlias = Sequence[tuple[int, Fact]]
Advance: TypeAlias = Callable[[int], None]


def _nothing(count: int) -> None:
    """Another process has no bar to move."""


@dataclass(frozen=True)
class TraceJob:
    """What is traced of every part.

    Attributes:
        survey, execution: the run's settings.
        advance: called with the number of facts that were finished, where the bar is in this process.
        accepts: models of attention alone will do.
    """

    survey: Survey
    execution: Execution
    advance: Advance = _nothing
    accepts: Mapping[str, bool] = field(default_factory=lambda: {"without_mlps": True})

    def on(self, model: HookedModel) -> Callable[[Part], PartResult]:
        """What traces a part with this model."""
        tracer = PartTracer(model, self.survey, self.execution)
        return lambda part: tracer.compute(part, self.advance)


class PartTracer:
    """Computes parts with one model; what depends on the model and the settings only is computed once."""

    def __init__(self, model: HookedModel, survey: Survey, execution: Execution) -> None:
        self.model, self.survey, self.execution = model, survey.resolve(model), execution

    @cached_property
    def header(self) -> PartHeader:
        """What every part of this model says of itself; read after the first trace only, whose errors for a broken model are clearer."""
        provenance = provenance_of(
            self.model,
            engine=engine_used(self.model, self.execution.engine),
            seed=self.survey.seed,
            settings=self.survey,
            noise=repr(self.survey.noise),
            memory_budget=self.execution.memory_budget,
        )
        return PartHeader(0, {}, self.survey, (self.execution,), weight_fingerprint(self.model), provenance)

    def compute(self, part: Part, advance: Advance) -> PartResult:
        """One part."""
        traces, skipped = trace_part(self.model, part, self.survey, self.execution, advance)
        return PartResult(tuple(traces), replace(self.header, given=len(part), skipped=skipped))
