"""A circuit: the sites that carry a fact, what each passes on to the next, and how much of the fact they explain together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from tl_knowledge.circuits.exports import as_graph, as_graphml, as_json, as_transformer_lens_nodes
from tl_knowledge.circuits.figures import circuit_figure, growth_figure
from tl_knowledge.circuits.findings import CircuitFindings
from tl_knowledge.drawing import HtmlView, pattern_view
from tl_knowledge.results.statistics import largest_rows
from tl_knowledge.results.storage import write_text

__all__ = ["Circuit"]


@dataclass(frozen=True, eq=False)
class Circuit(CircuitFindings):
    """Nodes, weighted edges, and what they explain; attributes as `CircuitFindings`."""

    def plot(self) -> go.Figure:
        """The graph: layers left to right, tokens top to bottom, arrows as wide as what they carry."""
        return circuit_figure(self)

    def plot_growth(self) -> go.Figure:
        """How much the first nodes explain, by how many there are."""
        return growth_figure(self)

    def attention_view(self, *, limit: int = 6) -> HtmlView:
        """Attention patterns of the circuit's heads with the largest effects, as a circuitsvis view that works offline.

        Raises:
            ComponentError: a circuit without attention, or ``limit`` smaller than 1.
            UnsupportedModelError: the model shows no attention patterns.
        """
        best = largest_rows(self.head_reads, limit, "effect", either_sign=True)
        heads = list(dict.fromkeys(zip(best["layer"].astype(int), best["head"].astype(int), strict=True))) if len(best) else []
        return pattern_view(
            self.patterns, heads, self.labels, f"the circuit's heads of the largest effect on {self.settings.metric.of_answer(self.target)}"
        )

    def to_networkx(self) -> Any:
        """A ``networkx.DiGraph`` with names, tokens, effects and weights."""
        effects = dict(zip(self.nodes, self.effect.mean(1).tolist(), strict=True))
        about = {"prompt": "".join(self.labels), "target": self.target, "contrast": self.contrast, "model": self.provenance.model}
        measured = {
            "metric": self.metric,
            "total_effect": self.total_effect,
            "faithfulness": self.faithfulness,
            "completeness": self.completeness,
            "wired": self.wired,
        }
        ends = {node: None for edge in self.edges for node in (edge.source, edge.target)}
        return as_graph([*dict.fromkeys([*self.nodes, *ends])], self.edges, self.labels, effects, about | measured)

    def to_graphml(self, path: str | os.PathLike[str]) -> Path:
        """Write GraphML, for Gephi, yEd, Cytoscape; returns the path. Values that are no finite number are left out."""
        return write_text(path, as_graphml(self.to_networkx()))

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write networkx' node-link JSON, which d3 reads too; returns the path. What is no finite number is ``null``."""
        return write_text(path, as_json(self.to_networkx()))

    def to_nodes(self) -> list[Any]:
        """The nodes as ``transformer_lens.tools.analysis.attribution_patching.Node``: keys into what that tool scores.

        Raises:
            ComponentError: a circuit of states, which that graph does not have.
        """
        used = {node for edge in self.edges for node in (edge.source, edge.target)}
        sources = [node for node in self.sources if node in used]
        return as_transformer_lens_nodes([*sources, *self.nodes], self.n_heads)
