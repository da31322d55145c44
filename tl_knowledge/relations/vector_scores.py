"""Does a relation's vector carry the relation to prompts that do not ask for it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.relations.by_relation import means_with_intervals, ranked, relation_bars, without_ends
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.wording import counted

__all__ = ["RelationVectorScores"]

SCORES = ("said_before", "said", "commonest", "random_heads", "random_direction", "gain", "probability_gain")


@dataclass(frozen=True, eq=False)
class RelationVectorScores(TableResult):
    """Vectors tried on facts that they were not estimated from, in prompts that do not ask for the relation.

    Attributes:
        table: one row a relation and fact: ``relation layer subject target template before after`` (the most probable tokens), and

            - ``said_before``, ``said``: 1 where that is the fact's object, without and with the vector;
            - ``commonest``: 1 where the fact's object is the one that most of the vector's facts have: what a vector gets that says this one to all;
            - ``random_heads``: as ``said`` with the vector of as many heads drawn at random, mean over draws;
            - ``random_direction``: with a random direction as long as the vector;
            - ``gain``: ``said`` minus ``random_heads``;
            - ``probability_gain``: by how much the vector raises the object's probability.
        left_out: relations that could not be measured, with the reason.
        examples: facts that each vector was estimated from.
        heads: heads of a vector.
        provenance: how it was computed.
    """

    ranked_by: ClassVar[str] = "probability_gain"
    table: pd.DataFrame
    left_out: dict[str, str]
    examples: int
    heads: int
    provenance: Provenance

    def headline(self) -> str:
        """Relations, facts, scores and model."""
        means = self.by_relation()[["said_before", "said", "random_heads"]].mean()
        return (
            f"{counted(self.table['relation'].nunique(), 'relation')}, {counted(len(self.table), 'fact')}; object "
            f"said {means['said_before']:.0%} before, "
            f"{means['said']:.0%} with {counted(self.heads, 'head')}, {means['random_heads']:.0%} with random ones; {self.provenance.model}"
        )

    def by_relation(self) -> pd.DataFrame:
        """One row a relation: ``facts``, and every score's mean with its 95% bootstrap interval over facts, whose ends are columns of their own."""
        rows: list[dict[str, Any]] = []
        for relation, group in self.table.groupby("relation", sort=False):
            rows.append({"relation": relation, "facts": len(group)} | means_with_intervals(group, SCORES))
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """`by_relation`, the largest gain first, without the intervals' ends."""
        return without_ends(ranked(self.by_relation(), "gain"))

    def plot(self) -> go.Figure:
        """How often the object is said, by relation: before and with the vector, by the commonest object, and with random heads."""
        return relation_bars(
            ranked(self.by_relation(), "gain"),
            {"said_before": "before", "said": "relation's vector", "commonest": "commonest object", "random_heads": "random heads"},
            title="Does a vector carry the relation to other prompts?",
            headline=self.headline(),
            value_axis="facts whose object is said",
        )
