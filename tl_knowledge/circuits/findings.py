"""What a circuit is made of: nodes, weighted edges, and what they explain. Figures and comparisons read this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from typing_extensions import override

from tl_knowledge.circuits.edges import Edge
from tl_knowledge.circuits.paths import Shares
from tl_knowledge.circuits.settings import CircuitSettings
from tl_knowledge.prompts.spans import Span
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import Result
from tl_knowledge.runs.nodes import Node
from tl_knowledge.wording import counted

__all__ = ["CircuitFindings"]


@dataclass(frozen=True, eq=False)
class CircuitFindings(Result):
    """Nodes, weighted edges, and what they explain.

    Attributes:
        nodes: in the order in which they matter: by their effect or need, whichever is larger.
        edges: those whose weight or need is at least ``threshold`` of the total effect, and each node's strongest in and out; strongest first.
        sources: what sends into the circuit: corrupted tokens' embeddings, or what an edit writes.
        total_effect: clean minus corrupted, in the metric, mean over samples.
        effect: ``[node sample]``: what a node, restored alone, gives back of the answer.
        need: ``[node sample]``: what the clean run loses when the node alone is held at its corrupted value.
        shares: what all nodes explain together; see `Shares`.
        growth: the same for the first 1, 2, 5, 10 ... nodes, one row each, means over samples.
        head_reads: one row for each head at the circuit's attention nodes: its own effect, and which tokens it reads.
        patterns: attention of the clean run by layer, ``[head query key]``, in the layers that have such nodes.
        considered: how many nodes were looked at before pruning.
        n_layers, n_heads: of the model.
        contrast: what the two runs are, in words.
        labels: the tokens as text.
        target: the scored answer as text.
        clean_probability, corrupted_probability: of the answer, the latter ``[sample]``.
        settings: how it was built.
        provenance: how it was computed.
    """

    ranked_by: ClassVar[str] = "share"
    either_sign: ClassVar[bool] = True
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    sources: tuple[Node, ...]
    total_effect: float
    effect: Float[torch.Tensor, "node sample"]
    need: Float[torch.Tensor, "node sample"]
    shares: Shares
    growth: pd.DataFrame
    head_reads: pd.DataFrame
    patterns: dict[int, Float[torch.Tensor, "head query key"]]
    considered: int
    n_layers: int
    n_heads: int
    contrast: str
    labels: tuple[str, ...]
    target: str
    clean_probability: float
    corrupted_probability: Float[torch.Tensor, " sample"]
    settings: CircuitSettings
    provenance: Provenance

    @property
    def metric(self) -> str:
        """What effects, needs and weights are measured in."""
        return self.settings.metric.name

    @property
    def threshold(self) -> float:
        """Share of the total effect below which an edge was pruned."""
        return self.settings.threshold

    @property
    def corrupted(self) -> Span:
        """The span whose embeddings were corrupted; for an edit, where it writes."""
        return self.settings.corrupted

    @property
    def faithfulness(self) -> float:
        """Share of the total effect that is left when only the circuit is kept, mean over samples."""
        return float(self.shares.faithfulness.mean())

    @property
    def completeness(self) -> float:
        """Share of the total effect that is lost when only the circuit is held at its corrupted values, mean over samples."""
        return float(self.shares.completeness.mean())

    @property
    def wired(self) -> float:
        """Faithfulness through the circuit's edges alone: every node hears only those that an edge leads from; mean over samples."""
        return float("nan") if self.shares.wired is None else float(self.shares.wired.mean())

    @override
    def headline(self) -> str:
        """How many nodes and edges, what they carry, and how much of it."""
        kept = f"kept alone they keep {self.faithfulness:.0%} of the effect, held out they take {self.completeness:.0%}"
        size = f"{counted(len(self.nodes), 'node')} and {counted(len(self.edges), 'edge')} carry {self.settings.metric.of_answer(self.target)}"
        return f"{size}, {self.contrast}; {kept}; {self.provenance.model}"

    @override
    def to_dataframe(self) -> pd.DataFrame:
        """One row an edge: from, to, their tokens, weight, its standard error, need, and the larger of both as a share of the total effect."""
        rows = [
            {"source": edge.source.name, "source_token": self.labels[edge.source.pos]}
            | {"target": edge.target.name, "target_token": self.labels[edge.target.pos]}
            | {"weight": edge.weight, "standard_error": edge.standard_error, "need": edge.need, "share": edge.strength / self.total_effect}
            for edge in self.edges
        ]
        columns = ["source", "source_token", "target", "target_token", "weight", "standard_error", "need", "share"]
        return pd.DataFrame(rows, columns=columns)  # pyright: ignore[reportArgumentType]

    def node_table(self) -> pd.DataFrame:
        """One row a node: component, place, mean effect and need, and the effect's share of the total effect."""
        rows = [
            {"node": node.name, "component": node.component, "layer": node.layer, "pos": node.pos, "token": self.labels[node.pos]}
            | {"effect": effect, "need": need, "share": effect / self.total_effect}
            for node, effect, need in zip(self.nodes, self.effect.mean(1).tolist(), self.need.mean(1).tolist(), strict=True)
        ]
        return pd.DataFrame(rows)
