"""What a report gathers about one fact; the page reads this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
from typing_extensions import override

from tl_knowledge.attention import AttentionAnalysis, DirectLogitAttribution, LogitLens
from tl_knowledge.circuits import Circuit
from tl_knowledge.drawing import HtmlView
from tl_knowledge.editing import Edit, EditHealth
from tl_knowledge.evaluation import Consequences
from tl_knowledge.neurons import NeuronSet
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.report.settings import ReportSettings
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import Result
from tl_knowledge.tracing import CausalTrace, compare
from tl_knowledge.wording import counted

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
        neurons: those that the wordings share.
        wordings: how many there are.
        probability: of the answer, by what was done to the neurons.
        view: their activations; ``None`` for an empty set.
        circuit: how what they write reaches the answer; ``None`` for an empty set.
    """

    neurons: NeuronSet
    wordings: int
    probability: dict[str, float]
    view: HtmlView | None
    circuit: Circuit | None


@dataclass(frozen=True, eq=False)
class EditedFact:
    """An edit of the fact and what it does.

    Attributes:
        edit: itself.
        health: how large it is.
        continuations: of the fact's wordings.
        circuit: through what it acts.
        after: the subject's circuit of the new answer in the edited model.
        views: the tokens' log-probabilities before and after.
        moved: what else was asked before and after; ``None`` where there was nothing to ask.
    """

    edit: Edit
    health: EditHealth
    continuations: tuple[Continuations, ...]
    circuit: Circuit
    after: Circuit
    views: tuple[HtmlView, ...]
    moved: Consequences | None = None


@dataclass(frozen=True, eq=False)
class FactFindings(Result):
    """Everything about one fact.

    Attributes:
        fact: itself.
        prompt: its tokens.
        traces: by corrupted side: states, the two modules, and states with each module severed.
        neurons: that raise the answer, and what scaling them does.
        circuits: by corrupted side.
        attention: ``None`` where the model hides its heads (no patterns, or a norm after their sum); ``attention_missing`` says why.
        direct: what writes the answer at the last position; ``None`` where the model's last states are no sum, and ``direct_missing`` says why.
        lens: where the residual stream says it.
        edited: ``None`` where no edit was wanted.
        settings: what it was made with.
    """

    ranked_by: ClassVar[str] = "effect"
    fact: Fact
    prompt: Prompt
    traces: dict[str, tuple[CausalTrace, ...]]
    neurons: NeuronFindings
    circuits: dict[str, Circuit]
    attention: AttentionAnalysis | None
    attention_missing: str
    direct: DirectLogitAttribution | None
    direct_missing: str
    lens: LogitLens
    edited: EditedFact | None
    settings: ReportSettings

    @property
    def provenance(self) -> Provenance:
        """The first trace's; every part has its own."""
        return self.traces["subject"][0].provenance

    @override
    def headline(self) -> str:
        """The fact, how probable the model finds it, how much of that its circuit keeps, and what it was edited to."""
        first, circuit = self.traces["subject"][0], self.circuits["subject"]
        kept = f"{counted(len(circuit.nodes), 'site')} keep {circuit.faithfulness:.0%}"
        edited = "" if self.edited is None else f"; edited to {self.edited.circuit.target.strip()!r}"
        return f"{self.fact.text}{self.fact.target}, P {first.clean_probability:.1%}; {kept}{edited}; {self.provenance.model}"

    @override
    def to_dataframe(self) -> pd.DataFrame:
        """Every traced site of both sides, as in `tl_knowledge.tracing.TraceComparison`."""
        return compare(*(trace for traces in self.traces.values() for trace in traces)).to_dataframe()

    @override
    def summary(self) -> pd.DataFrame:
        """One row a circuit: how many sites, the total effect, and how much of it they keep and take."""
        circuits = dict(self.circuits)
        circuits |= {} if self.neurons.circuit is None else {"neurons": self.neurons.circuit}
        circuits |= {} if self.edited is None else {"edit (log P)": self.edited.circuit, "after the edit": self.edited.after}
        rows = [
            {"circuit": name, "sites": len(circuit.nodes), "total_effect": circuit.total_effect}
            | {"faithfulness": circuit.faithfulness, "completeness": circuit.completeness}
            for name, circuit in circuits.items()
        ]
        return pd.DataFrame(rows)
