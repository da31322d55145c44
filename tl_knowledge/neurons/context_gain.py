"""How far in-context prompts raise the probability that neurons are attributed to (Wen and Bai, section 3.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import plotly.graph_objects as go
from more_itertools import always_iterable

from tl_knowledge.datasets import CONTEXT_PAIRS, CONTEXT_SEPARATOR, with_context
from tl_knowledge.door import public
from tl_knowledge.drawing import grouped_bars
from tl_knowledge.engine.batches import answer_probabilities
from tl_knowledge.engine.progress import progress_bar
from tl_knowledge.errors import check_given
from tl_knowledge.models.loading import AnyModel, as_model
from tl_knowledge.prompts.facts import Fact
from tl_knowledge.prompts.prompt import Prompt
from tl_knowledge.results.provenance import Provenance, provenance_of
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.significance import FEWEST_TESTED, paired_p_values
from tl_knowledge.results.statistics import scalar_interval
from tl_knowledge.wording import counted, relation_words

__all__ = ["ContextGain", "measure_context_gain"]

_KINDS = {"fact alone": "alone", "after other facts": "in_context"}


@dataclass(frozen=True, eq=False)
class ContextGain(TableResult):
    """Probability of each fact's answer, alone and after other facts of its relation.

    Attributes:
        table: ``relation subject alone in_context``, one row a fact.
        limit: how many other facts.
        separator: what stands between them.
        provenance: what it was measured with.
    """

    ranked_by: ClassVar[str] = "in_context"
    table: pd.DataFrame
    limit: int
    separator: str
    provenance: Provenance

    def headline(self) -> str:
        """The mean probabilities."""
        alone, after = (float(self.table[column].mean()) for column in _KINDS.values())
        return (
            f"P(answer) {alone:.1%} alone, {after:.1%} after {counted(self.limit, 'other fact')}; "
            f"{counted(len(self.table), 'fact')}; {self.provenance.model}"
        )

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
            [f"{relation_words(relation)} ({len(rows)})" for relation, rows in by_relation.items()],
            bars,
            title=f"P(answer) alone and after {counted(self.limit, 'other fact')} of the relation",
            subtitle=f"{counted(len(self.table), 'fact')}; {self.provenance.model}; 95% bootstrap over a relation's facts",
            group_axis="relation (number of facts)",
            value_axis="P(answer)",
        )

    def _row(self, name: str, values: pd.Series) -> dict[str, object]:
        mean, low, high = scalar_interval(values)
        return {"what": name, "mean": mean, "low": low, "high": high, "facts": len(values)}


@public
def measure_context_gain(
    model: AnyModel,
    facts: Fact | Iterable[Fact],
    *,
    limit: int = CONTEXT_PAIRS,
    pool: Iterable[Fact] | None = None,
    separator: str = CONTEXT_SEPARATOR,
    seed: int = 0,
    progress: bool = True,
) -> ContextGain:
    """Measure every fact's answer alone and after some others of its relation.

    Args:
        facts, limit, pool, separator, seed: as `with_context`.

    Raises:
        DataError: no fact, or as `with_context`.

    Example:
        >>> import tl_knowledge as tlk
        >>> facts = tlk.load_facts()
        >>> gain = tlk.neurons.measure_context_gain("factlm", facts[::300], pool=facts)
        >>> len(gain.table) == len(facts[::300])
        True
    """
    model = as_model(model, masked=True)
    alone = check_given(always_iterable(facts, Fact), "fact")
    in_context = with_context(alone, limit=limit, pool=pool, separator=separator, seed=seed)
    prompts = [Prompt.from_fact(model, fact) for fact in (*alone, *in_context)]
    with progress_bar(what="context gain", unit="prompt", total=len(prompts), progress=progress) as bar:
        probabilities = answer_probabilities(model, prompts, bar=bar).tolist()
    columns = {"relation": [fact.relation for fact in alone], "subject": [fact.subject for fact in alone]}
    columns |= {"alone": probabilities[: len(alone)], "in_context": probabilities[len(alone) :]}
    provenance = provenance_of(model, engine="clean runs", seed=seed, has_bos=prompts[0].has_bos, limit=limit, separator=separator)
    return ContextGain(pd.DataFrame(columns), limit, separator, provenance)
