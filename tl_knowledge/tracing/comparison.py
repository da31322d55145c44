"""Traces of one prompt side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import heat_maps
from tl_knowledge.errors import ComponentError, check_given
from tl_knowledge.results.result import Result
from tl_knowledge.runs.metric import PROBABILITY
from tl_knowledge.tracing.result import CausalTrace
from tl_knowledge.tracing.sentence import effects_sentence
from tl_knowledge.wording import counted

__all__ = ["TraceComparison", "check_one_metric", "compare"]


@dataclass(frozen=True, eq=False)
class TraceComparison(Result):
    """Traces of one prompt, to be looked at side by side on one colour range."""

    ranked_by: ClassVar[str] = "effect"
    traces: tuple[CausalTrace, ...]

    @override
    def headline(self) -> str:
        """How many traces, and of what."""
        first = self.traces[0]
        words = ", ".join(f"{t._what()} ({t.corrupted.name} corrupted)" for t in self.traces)
        return f"{counted(len(self.traces), 'trace')} of {first.metric.of_answer(first.target)} in {first.provenance.model}: {words}"

    @override
    def to_dataframe(self) -> pd.DataFrame:
        """All sites of all traces, with the corrupted span and the severed modules as columns."""
        frames = [
            t.to_dataframe().assign(corrupted=t.corrupted.name, component=t.component, severed="+".join(t.severed) or "none") for t in self.traces
        ]
        return pd.concat(frames, ignore_index=True)

    def plot(self, *, columns: int | None = None) -> go.Figure:
        """Heat maps side by side; corrupted tokens are bold with an asterisk in each."""
        first = self.traces[0]
        maps = [t._heat_map(f"{t.corrupted.name} corrupted: {t._what()}") for t in self.traces]
        number, clean = first.metric.number, first.clean_probability if first.metric == PROBABILITY else first.clean_score
        low = {t.corrupted.name: float(t.corrupted_score.mean()) for t in self.traces}
        lows = "; ".join(f"{name} corrupted {number(value)}" for name, value in low.items())
        subtitle = f"clean {number(clean)}; {lows}; {counted(first.settings.samples, 'noise sample')}; {first.provenance.model}"
        title = f"What restores {first.metric.of_answer(first.target)}"
        effects = {f"{t._restored()} ({t.corrupted.name} corrupted)": t.to_dataframe() for t in self.traces}
        says = effects_sentence(effects, first._axis(), first.settings.samples)
        return heat_maps(maps, title=title, subtitle=subtitle, colour_axis=first._axis(), columns=columns, says=says)


@public
def compare(*traces: CausalTrace) -> TraceComparison:
    """Put traces of one prompt side by side, for example subject against relation corruption.

    Raises:
        DataError: no trace.
        ComponentError: one trace only, traces of different prompts or metrics, or of neurons.

    Example:
        >>> import tl_knowledge as tlk
        >>> model = tlk.load_model("factlm")
        >>> prompt = tlk.Prompt.from_fact(model, tlk.load_facts("factlm")[0])
        >>> both = [tlk.trace(model, prompt, corrupt=span) for span in ("subject", "relation")]
        >>> figure = tlk.compare(*both).plot()
    """
    if len(check_given(traces, "trace", "pass at least two")) < 2:
        raise ComponentError("compare() was given one trace; pass at least two.")
    if any(t.component == "neuron" for t in traces):
        raise ComponentError("neuron traces have no heat map to compare; use top() of each.")
    if any(t.labels != traces[0].labels for t in traces):
        raise ComponentError("the traces belong to different prompts; pass traces of one prompt.")
    check_one_metric(traces)
    return TraceComparison(traces)


def check_one_metric(traces: Sequence[CausalTrace]) -> None:
    """Refuse traces whose effects are in different units.

    Raises:
        ComponentError: traces of different metrics.
    """
    names = list(dict.fromkeys(trace.metric.name for trace in traces))
    if len(names) > 1:
        raise ComponentError(f"the traces are measured in {' and '.join(names)}; pass traces of one metric.")
