"""What suppressing or enhancing a fact's neurons does: to the fact itself, to unrelated facts, beside random neurons (Wen and Bai, figures 3-4).

A fact's neurons are attributed on its *paraphrases* and measured on its own wording, so that what is measured was not attributed (Wen and Bai's
program does both on the same prompts). The random control has as many neurons in every layer. `tl_knowledge.neurons.effects_driver` measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.drawing import grouped_bars
from tl_knowledge.errors import check_choice
from tl_knowledge.neurons.settings import LocationSettings
from tl_knowledge.neurons.words import factor_words, place_words
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.significance import FEWEST_TESTED, paired_p_values
from tl_knowledge.results.statistics import scalar_interval
from tl_knowledge.wording import counted, relation_words

__all__ = ["COLUMNS", "COMPARED", "Effect", "NeuronEffects"]

COLUMNS: dict[str, str] = {"own fact": "own", "random control": "control", "unrelated facts": "unrelated"}
COMPARED = tuple(COLUMNS)

Effect = Literal["relative", "absolute"]
"""Change of the probability as a part of the clean one, or in probability (Wen and Bai's figures)."""


@dataclass(frozen=True, eq=False)
class NeuronEffects(TableResult):
    """Changes of the answer's probability, relative, ``(p' - p) / p``, and absolute, ``p' - p``, one row a fact.

    Attributes:
        table: columns ``relation subject neurons clean own own_absolute control control_absolute unrelated unrelated_absolute``: the number of
            neurons, the clean probability, and the change of the fact itself, of the fact under random neurons (mean over draws), and of
            unrelated facts (mean), each relative and absolute. Changes are NaN for facts without neurons.
        factor: what the neurons' activations were multiplied by.
        settings: how the neurons were located.
        provenance: what the effects were measured with.
    """

    ranked_by: ClassVar[str] = "own"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    factor: float
    settings: LocationSettings
    provenance: Provenance

    def headline(self) -> str:
        """The mean change of each kind."""
        rows = self._measured()
        changes = ", ".join(f"{kind} {float(rows[column].mean()):+.1%}" for kind, column in COLUMNS.items())
        return f"P(answer), {self._treatment()}: {changes}; {self._counts()}; {self.provenance.model}"

    def summary(self, *, effect: Effect = "relative") -> pd.DataFrame:
        """Mean change of each kind with its 95% bootstrap interval over facts, and p of own against it (Wilcoxon, paired, corrected).

        Fewer than 6 facts with neurons cannot be tested: p is NaN then.

        Raises:
            InputError: an unknown effect.
        """
        rows, own, control, unrelated = self._measured(), *(_column(kind, effect) for kind in COMPARED)
        p_values = [float("nan")] * len(COMPARED)
        if len(rows) >= FEWEST_TESTED:
            _, corrected = paired_p_values(rows[[own, own]].to_numpy(), rows[[control, unrelated]].to_numpy())
            p_values[1:] = corrected.tolist()
        return pd.DataFrame([_row(kind, rows, effect) | {"p_own_differs": p} for kind, p in zip(COMPARED, p_values, strict=True)])

    def by_relation(self, *, effect: Effect = "relative") -> pd.DataFrame:
        """Mean change of each kind for every relation, with intervals over its facts (none for one fact)."""
        groups = self._measured().groupby("relation", dropna=False)
        return pd.DataFrame([{"relation": str(name)} | _row(kind, rows, effect) for name, rows in groups for kind in COMPARED])

    def plot(self, *, effect: Effect = "relative") -> go.Figure:
        """Bars: the change of each kind by relation, with its interval; relations in order of their own facts' change.

        Args:
            effect: ``"absolute"`` is what Wen and Bai's figures 3 and 4 show.
        """
        frame = self.by_relation(effect=effect)
        own = frame.loc[frame["what"] == COMPARED[0]].sort_values(by=["change"], kind="stable")
        relations = list(own["relation"])
        by_kind = {kind: frame.loc[frame["what"] == kind].set_index("relation").loc[relations] for kind in COMPARED}
        columns = ["change", "low", "high"]
        counts = by_kind[COMPARED[0]]["facts"]
        return grouped_bars(
            [f"{relation_words(relation)} ({count})" for relation, count in zip(relations, counts, strict=True)],
            {kind: [tuple(row) for row in rows[columns].to_numpy().tolist()] for kind, rows in by_kind.items()},
            title=f"The facts' {self._treatment()}: change of P(answer)",
            subtitle=f"{self._counts()} have neurons; {self.provenance.model}; 95% bootstrap over a relation's facts",
            group_axis="relation (number of facts)",
            value_axis=f"change of P(answer), {effect}",
        )

    def _treatment(self) -> str:
        return f"neurons {factor_words(self.factor)} at {place_words(self.settings.attribution.at)}"

    def _counts(self) -> str:
        return f"{len(self._measured())} of {counted(len(self.table), 'fact')}"

    def _measured(self) -> pd.DataFrame:
        return self.table.loc[self.table["own"].notna()]


def _column(kind: str, effect: Effect) -> str:
    check_choice("effect", effect, Effect)
    return COLUMNS[kind] + ("_absolute" if effect == "absolute" else "")


def _row(kind: str, rows: pd.DataFrame, effect: Effect) -> dict[str, object]:
    mean, low, high = scalar_interval(rows[_column(kind, effect)])
    return {"what": kind, "change": mean, "low": low, "high": high, "facts": len(rows)}
