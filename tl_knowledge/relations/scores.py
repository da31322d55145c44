"""How far relations are affine maps: faithfulness and causality by relation and layer, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.drawing import Line, LinePanel, line_panels
from tl_knowledge.errors import DataError
from tl_knowledge.relations.by_relation import means_with_intervals, ranked, relation_bars, without_ends
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.wording import counted

__all__ = ["RelationMapScores", "check_measured"]

SCORES = ("faithful", "constant", "translated", "causal", "overtaken", "swapped", "random")
FAITHFULNESS = {"faithful": "the map", "translated": "s + vector", "constant": "always the same"}
CAUSALITY = {"causal": "the map's inverse", "swapped": "other subject's state", "random": "random direction"}


@dataclass(frozen=True, eq=False)
class RelationMapScores(TableResult):
    """Maps tried on facts that they were not estimated from.

    Attributes:
        table: one row a relation, layer and fact: ``relation layer chosen beta rank held_out subject target model map edited_to``, and 1 or 0:

            - ``faithful``: the map's most probable token is the model's;
            - ``constant``, ``translated``: the same for the mean object of the map's facts, and for the subject's state plus one vector;
            - ``causal``: edited by the map's inverse, the model says another subject's object (``edited_to``);
            - ``overtaken``: so edited, that object is more probable than what the model said before;
            - ``swapped``, ``random``: as ``causal``, with the other subject's state, and with a random direction as long as the edit.

            ``chosen`` is the layer whose maps agree best with the model on the facts they are made of, each left out in turn (``held_out``: how
            often). NaN where two different answers or an inverse do not exist.
        left_out: relations that could not be measured, with the reason.
        examples: facts that each map was estimated from.
        provenance: how it was computed.
    """

    ranked_by: ClassVar[str] = "faithful"
    table: pd.DataFrame
    left_out: dict[str, str]
    examples: int
    provenance: Provenance

    def headline(self) -> str:
        """Relations, facts, scores and model."""
        chosen = self.by_relation()
        faithful, causal = (means_with_intervals(chosen, (name,))[name] for name in ("faithful", "causal"))
        return (
            f"{counted(len(chosen), 'relation')}, {counted(int(chosen['facts'].sum()), 'fact')}; faithful "
            f"{faithful:.0%}, causal {causal:.0%} at each relation's layer; "
            f"maps of {counted(self.examples, 'fact')}; {self.provenance.model}"
        )

    def by_relation(self) -> pd.DataFrame:
        """One row a relation at its chosen layer: ``layer beta rank held_out facts``, and every score's mean with its 95% bootstrap interval.

        Facts are resampled. The interval's ends are columns of their own, as in ``faithful_low``.
        """
        rows: list[dict[str, Any]] = []
        chosen: pd.DataFrame = self.table.query("chosen")
        for relation, group in chosen.groupby("relation", sort=False):
            first = group.iloc[0]
            kept = {name: first[name] for name in ("layer", "beta", "rank", "held_out")}
            rows.append({"relation": relation} | kept | {"facts": len(group)} | means_with_intervals(group, SCORES))
        return pd.DataFrame(rows)

    def by_layer(self) -> pd.DataFrame:
        """One row a layer: every score's mean over relations of their means over facts, with its 95% bootstrap interval over relations."""
        means = self.table.pivot_table(index=["relation", "layer"], values=list(SCORES), sort=False, dropna=False).reset_index()
        rows = [{"layer": int(str(layer)), "relations": len(group)} | means_with_intervals(group, SCORES) for layer, group in means.groupby("layer")]
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """`by_relation`, most faithful first, without the intervals' ends."""
        return without_ends(ranked(self.by_relation(), "faithful"))

    def plot(self) -> go.Figure:
        """Faithfulness and causality of every relation at its chosen layer, beside the constant answer and the random direction."""
        return relation_bars(
            ranked(self.by_relation(), "faithful"),
            {"faithful": "faithful", "constant": "constant answer", "causal": "causal", "random": "random direction"},
            title="How far is a relation one affine map?",
            headline=self.headline(),
            value_axis="share of facts",
        )

    def plot_layers(self) -> go.Figure:
        """Faithfulness and causality by layer, means over relations."""
        frame = self.by_layer()
        layers = frame["layer"].tolist()
        parts = ("Says what the model says", FAITHFULNESS, 0), ("Edited, the model says the other object", CAUSALITY, len(FAITHFULNESS))
        panels = [
            LinePanel(title, [_line(frame, layers, name, shown, style) for style, (name, shown) in enumerate(names.items(), start=first)])
            for title, names, first in parts
        ]
        facts = max(self.table["layer"].value_counts().tolist())
        return line_panels(
            panels,
            title="Relations as maps, by layer",
            subtitle=(
                f"{counted(self.table['relation'].nunique(), 'relation')}, {counted(facts, 'fact')}; "
                f"{self.provenance.model}; bands: 95% bootstrap over relations"
            ),
            x_axis="layer of the subject's state",
            y_axis="mean share of facts",
            percent=True,
        )


def _line(frame: pd.DataFrame, layers: list[int], name: str, shown: str, style: int) -> Line:
    mean, low, high = (frame[column].tolist() for column in (name, f"{name}_low", f"{name}_high"))
    return Line(shown, layers, mean, low, high, style=style)


def check_measured(rows: list[dict[str, Any]], left_out: dict[str, str]) -> None:
    """Refuse a result of nothing.

    Raises:
        DataError: no relation could be measured.
    """
    if not rows:
        reason = next(iter(left_out.values()), "there is no fact")
        raise DataError(
            f"none of {counted(len(left_out), 'relation')} could be measured ({reason}); pass more facts of a relation, or fewer examples=."
        )
