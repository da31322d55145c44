"""How far in-context prompts raise the probability that the neurons are looked for in (paper 000, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.datasets import with_context
from tl_knowledge.drawing import grouped_bars
from tl_knowledge.engine.batches import answer_probabilities
from tl_knowledge.errors import InputError
from tl_knowledge.models.checks import check_model
from tl_knowledge.models.description import describe_model
from tl_knowledge.models.protocol import HookedModel
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.statistics import FEWEST_TESTED, paired_p_values, scalar_interval
from tl_knowledge.results.table import TableResult

__all__ = ["ContextGain", "measure_context_gain"]

_KINDS = {"fact alone": "alone", "behind other facts": "in_context"}


@dataclass(frozen=True, eq=False)
class ContextGain(TableResult):
    """Probability of each fact's answer, asked alone and behind other facts of its relation.

    Attributes:
        table: ``relation subject alone in_context``, one row a fact.
        pairs: how many other facts.
        provenance: how it was measured.
    """

    ranked_by: ClassVar[str] = "in_context"
    table: pd.DataFrame
    pairs: int
    provenance: Provenance

    def summary(self) -> pd.DataFrame:
        """Mean probabilities and their difference with 95% bootstrap intervals over facts, and the Wilcoxon p of the difference.

        Fewer than 6 facts cannot be tested: p is NaN then.
        """
        difference = self.table["in_context"] - self.table["alone"]
        p = [float("nan")]
        if len(difference) >= FEWEST_TESTED:
            _, p = paired_p_values(self.table[["in_context"]].to_numpy(), self.table[["alone"]].to_numpy())
        rows = [self._row(name, self.table[column]) for name, column in _KINDS.items()]
        return pd.DataFrame([*rows, self._row("difference", difference) | {"p": float(p[0])}])

    def plot(self) -> go.Figure:
        """Bars: mean probability by relation, alone and in context."""
        relations = sorted(self.table["relation"].astype(str).unique())
        by_relation = {relation: self.table.loc[self.table["relation"].astype(str) == relation] for relation in relations}
        bars = {name: [scalar_interval(rows[column]) for rows in by_relation.values()] for name, column in _KINDS.items()}
        return grouped_bars(
            [f"{relation} ({len(rows)})" for relation, rows in by_relation.items()],
            bars,
            title=f"P(answer) alone and behind {self.pairs} other facts of the relation",
            subtitle=f"{len(self.table)} facts; {self.provenance.model}; 95% bootstrap over a relation's facts",
            group_axis="relation (number of facts)",
            value_axis="P(answer)",
        )

    def _row(self, name: str, values: pd.Series) -> dict[str, object]:
        mean, low, high = scalar_interval(values)
        return {"what": name, "mean": mean, "low": low, "high": high, "facts": len(values)}


def measure_context_gain(
    model: HookedModel, facts: Iterable[Fact], *, limit: int = 4, pool: Iterable[Fact] | None = None, separator: str = ". ", seed: int = 0
) -> ContextGain:
    """Ask every fact alone and behind some others of its relation.

    Args:
        facts, limit, pool, separator, seed: as `with_context`.

    Raises:
        DataError: no fact, or as `with_context`.

    Example:
        >>> import tl_knowledge as tlk
        >>> facts = tlk.load_facts()
        >>> gain = tlk.neurons.measure_context_gain(tlk.load_model("factlm"), facts[::300], pool=facts)
        >>> len(gain.table) == len(facts[::300])
        True
    """
    check_model(model, masked=True)
    asked = list(facts)
    if not asked:
        raise InputError("no fact was given; pass at least one.")
    shown = with_context(asked, limit=limit, pool=pool, separator=separator, seed=seed)
    prompts = [Prompt.from_fact(model, fact) for fact in (*asked, *shown)]
    probability = answer_probabilities(model, prompts).tolist()
    columns = {"relation": [fact.relation for fact in asked], "subject": [fact.subject for fact in asked]}
    columns |= {"alone": probability[: len(asked)], "in_context": probability[len(asked) :]}
    settings = {"limit": limit, "separator": separator}
    provenance = Provenance(**describe_model(model), prepends_bos=prompts[0].has_bos, seed=seed, engine="clean runs", settings=settings)
    return ContextGain(pd.DataFrame(columns), limit, provenance)
