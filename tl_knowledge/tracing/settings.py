"""The settings of one causal trace, as values: equal where the traces are comparable, and stored with the result."""

from __future__ import annotations

from dataclasses import dataclass

from tl_knowledge.models.hook_names import Component, Module
from tl_knowledge.prompts.spans import Span
from tl_knowledge.runs.corruption import Noise, PromptSwap
from tl_knowledge.runs.metric import PROBABILITY, Metric
from tl_knowledge.runs.windows import TraceVariant

__all__ = ["TraceSettings"]


@dataclass(frozen=True)
class TraceSettings:
    """Everything that decides a trace's numbers but the model and the prompt; what was given as a rule is a number here.

    Attributes:
        component: what was restored.
        window: how many layers were restored together.
        sever: modules that were pinned to the corrupted run at the restored position.
        layers: the layer numbers of the trace's layer axis.
        positions: the positions that were restored; the effects are NaN at all others.
        units: the head or neuron numbers of the trace's unit axis; empty for components without units.
        corrupted: the span whose embeddings were corrupted.
        noise: how they were corrupted, its scale a number and its seed set.
        samples: noise draws.
        seed: of the noise.
        variant: which published program's numbers these are.
        multi_token: whether all of the answer's tokens were scored.
        answer: the tokens that were scored.
        metric: what effects are measured in.
    """

    component: Component
    window: int
    sever: tuple[Module, ...]
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    units: tuple[int, ...]
    corrupted: Span
    noise: Noise | PromptSwap
    samples: int
    seed: int
    variant: TraceVariant
    multi_token: bool
    answer: tuple[int, ...]
    metric: Metric = PROBABILITY
