"""One circuit for a set of facts: its nodes are a component, a layer and a token's role, and every fact is measured on it."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.circuits.sets.comparison import FactSetComparison, compare_sets
from tl_knowledge.circuits.sets.figures import nodes_figure, shares_figure
from tl_knowledge.circuits.sets.findings import FactSetFindings
from tl_knowledge.circuits.sets.measure import Places, sites_of
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.runs.nodes import Node

__all__ = ["FactSetCircuit", "FactSetComparison"]


@dataclass(frozen=True, eq=False)
class FactSetCircuit(FactSetFindings):
    """One circuit for many facts; attributes as `FactSetFindings`."""

    def of(self, prompt: Prompt) -> tuple[Node, ...]:
        """The circuit's sites in one prompt, in the order of its nodes; any prompt with a subject will do.

        Raises:
            PromptError: a prompt without a subject, or with nothing besides.
        """
        return tuple(sites_of(self.nodes, Places(prompt.subject.positions, prompt.relation.positions, len(prompt))))

    def compare(self, other: FactSetCircuit, *, names: tuple[str, str] | None = None) -> FactSetComparison:
        """This circuit against another of the same model and components: relation against subject, or one relation's facts against another's.

        Args:
            names: what to call them; default what is corrupted.

        Raises:
            ComponentError: other components, layers or measures, or equal names.
        """
        return compare_sets(self, other, names)

    @override
    def plot(self) -> go.Figure:
        """The nodes: layers left to right, roles top to bottom, as large as the score that they are ranked by."""
        return nodes_figure(self)

    def plot_growth(self) -> go.Figure:
        """How much the first nodes explain, by how many there are, with 95% intervals over facts."""
        return shares_figure(self)
