"""A circuit: the sites that carry a fact, what each passes on to the next, and how much of the fact they explain together."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.circuits.edges import Edge
from tl_knowledge.circuits.exports import as_graph, as_json, as_transformer_lens_nodes
from tl_knowledge.circuits.figures import circuit_figure, growth_figure
from tl_knowledge.circuits.findings import CircuitFindings
from tl_knowledge.circuits.paths import Shares
from tl_knowledge.drawing import HtmlView, pattern_view
from tl_knowledge.prompts.spans import Span
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.statistics import largest_rows
from tl_knowledge.results.storage import read_result, write_result, write_text
from tl_knowledge.runs.nodes import Node

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
        chosen = list(dict.fromkeys(zip(best["layer"].astype(int), best["head"].astype(int), strict=True))) if len(best) else []
        return pattern_view(self.patterns, chosen, self.labels, f"the circuit's heads of the largest effect on P({self.target.strip()!r})")

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
        """Write GraphML, for Gephi, yEd, Cytoscape; returns the path."""
        import networkx as nx

        return write_text(path, "\n".join(nx.generate_graphml(self.to_networkx(), named_key_ids=True)))

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write networkx' node-link JSON, which d3 reads too; returns the path."""
        return write_text(path, as_json(self.to_networkx()))

    def to_nodes(self) -> list[Any]:
        """The nodes as ``transformer_lens.tools.analysis.attribution_patching.Node``: keys into what that tool scores.

        Raises:
            ComponentError: a circuit of states, which that graph does not have.
        """
        used = {node for edge in self.edges for node in (edge.source, edge.target)}
        sources = [node for node in self.sources if node in used]
        return as_transformer_lens_nodes([*sources, *self.nodes], int(self.provenance.settings["n_heads"]))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one ``.safetensors`` file; returns the path."""
        tensors = {"effect": self.effect, "need": self.need, "corrupted_probability": self.corrupted_probability}
        tensors |= {f"shares.{name}": value for name, value in vars(self.shares).items() if value is not None}
        tensors |= {f"patterns.{layer}": pattern for layer, pattern in self.patterns.items()}
        names = ("metric", "total_effect", "considered", "threshold", "contrast", "labels", "target", "clean_probability")
        fields: dict[str, Any] = {name: getattr(self, name) for name in names}
        fields |= {"nodes": [asdict(node) for node in self.nodes], "sources": [asdict(node) for node in self.sources]}
        fields["edges"] = [asdict(edge) for edge in self.edges]
        fields |= {"growth": self.growth.to_dict(orient="list"), "head_reads": self.head_reads.to_dict(orient="list")}
        return write_result(path, "Circuit", tensors, fields | {"corrupted": asdict(self.corrupted), "provenance": self.provenance.to_dict()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Circuit:
        """Read what `save` wrote.

        Raises:
            DataError: not such a file.
        """
        tensors, fields = read_result(path, "Circuit")
        for name in ("nodes", "sources"):
            fields[name] = tuple(_node(node) for node in fields[name])
        fields["edges"] = tuple(Edge(_node(e["source"]), _node(e["target"]), e["weight"], e["need"], e["standard_error"]) for e in fields["edges"])
        fields |= {"growth": pd.DataFrame(fields["growth"]), "head_reads": pd.DataFrame(fields["head_reads"]), "labels": tuple(fields["labels"])}
        fields["corrupted"] = Span(fields["corrupted"]["name"], tuple(fields["corrupted"]["positions"]))
        fields["provenance"] = Provenance(**fields["provenance"])
        shares = Shares(**{name.partition(".")[2]: tensors.pop(name) for name in list(tensors) if name.startswith("shares.")})
        patterns = {int(name.partition(".")[2]): tensors.pop(name) for name in list(tensors) if name.startswith("patterns.")}
        return cls(**tensors, shares=shares, patterns=patterns, **fields)


def _node(fields: dict[str, Any]) -> Node:
    return Node(fields["component"], fields["layer"], fields["pos"], tuple(fields["units"]))
