"""What a report gathers about one fact; the page reads this."""

from __future__ import annotations

from dataclasses import dataclass

from tl_knowledge.attention import AttentionAnalysis, DirectLogitAttribution, LogitLens
from tl_knowledge.circuits import Circuit
from tl_knowledge.drawing import HtmlView, ViewPage
from tl_knowledge.editing import Edit, EditHealth
from tl_knowledge.neurons import NeuronSet
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.tracing import CausalTrace

__all__ = ["Continuations", "EditedFact", "FactFindings", "NeuronFindings"]


@dataclass(frozen=True)
class Continuations:
    """What a prompt is continued with, before and after an edit: the likeliest tokens with their probabilities."""

    text: str
    before: tuple[tuple[str, float], ...]
    after: tuple[tuple[str, float], ...]


@dataclass(frozen=True, eq=False)
class NeuronFindings:
    """A fact's neurons at the subject's last token, and what scaling them does.

    Attributes:
        probability: of the answer, by what was done to the neurons.
        view: their activations; ``None`` for an empty set.
        circuit: how what they write reaches the answer; ``None`` for an empty set.
    """

    neurons: NeuronSet
    prompts: int
    probability: dict[str, float]
    view: HtmlView | None
    circuit: Circuit | None


@dataclass(frozen=True, eq=False)
class EditedFact:
    """An edit of the fact and what it does.

    Attributes:
        circuit: through what it acts.
        after: the subject's circuit of the new answer in the edited model.
    """

    edit: Edit
    health: EditHealth
    continuations: tuple[Continuations, ...]
    circuit: Circuit
    after: Circuit
    views: ViewPage


@dataclass(frozen=True, eq=False)
class FactFindings:
    """Everything about one fact.

    Attributes:
        traces: by corrupted side: states, the two modules, and states with each module severed.
        circuits: by corrupted side.
        attention: ``None`` where the model hides its heads (no patterns, or a norm behind their sum); ``attention_missing`` says why.
        edited: ``None`` where no edit was asked for.
    """

    fact: Fact
    prompt: Prompt
    traces: dict[str, tuple[CausalTrace, ...]]
    neurons: NeuronFindings
    circuits: dict[str, Circuit]
    attention: AttentionAnalysis | None
    attention_missing: str
    direct: DirectLogitAttribution
    lens: LogitLens
    edited: EditedFact | None
