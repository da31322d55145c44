"""Subject against relation: is relational knowledge kept where entity knowledge is? (Wei et al. 2024, RQ1)

Every fact is its own control: it is traced with its subject corrupted and with its relation corrupted, and the two are compared
within the fact, at the last corrupted token (the early site) and at the last token (the late site).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.arrays import FloatArray
from tl_knowledge.errors import ComponentError
from tl_knowledge.models.hook_names import Component
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.statistics import bootstrap_means
from tl_knowledge.runs.roles import PLACES, SIDES, Place
from tl_knowledge.tracing.sets.effects import RoleEffects
from tl_knowledge.tracing.sets.estimates import QUANTILES, paired_estimates, paired_tests
from tl_knowledge.tracing.sets.figures import plot_sides, sample_words
from tl_knowledge.tracing.sets.settings import Survey
from tl_knowledge.wording import counted

__all__ = ["SideComparison", "compare_sides", "locate_sides"]


@dataclass(frozen=True, eq=False)
class SideComparison(TableResult):
    """Subject against relation, paired over facts.

    Attributes:
        table: one row a component, place and layer: ``component window place layer subject subject_low subject_high relation relation_low
            relation_high difference low high p p_corrected differs facts``. Effects, their 95% bootstrap intervals and that of their
            difference, subject minus relation, are in the metric; ``p`` is Wilcoxon's signed-rank test over facts, corrected over all
            rows (Benjamini and Hochberg); ``differs`` is ``p_corrected < 0.05``.
        settings: of the traces.
        sample: how many facts and noise samples, and of which model, in words.
    """

    ranked_by: ClassVar[str] = "difference"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    settings: Survey
    sample: str
    provenance: Provenance

    @override
    def headline(self) -> str:
        """At how many places and layers the sides differ."""
        return f"the sides differ at {int(self.table['differs'].sum())} of {counted(len(self.table), 'place')} and layers; {self.sample}"

    def plot(self) -> go.Figure:
        """Subject against relation by layer; filled points differ after correction for many comparisons."""
        return plot_sides(self.table, self.sample, self.settings.metric)


def compare_sides(average: RoleEffects) -> SideComparison:
    """Paired difference, subject minus relation, for every component, place and layer.

    Raises:
        ComponentError: only one side was traced.
        InputError: fewer than 6 facts.
    """
    tables: list[pd.DataFrame] = []
    columns: list[tuple[FloatArray, FloatArray]] = []
    for component, place, subject, relation in _pairs(average):
        where = {"component": component, "window": average.of("subject", component)[0].window, "place": place, "layer": average.layers}
        tables.append(pd.DataFrame(where | paired_estimates(subject, relation, ("subject", "relation"))))
        columns.append((subject, relation))
    return SideComparison(paired_tests(tables, columns), average.settings, sample_words(average), average.provenance)


def locate_sides(average: RoleEffects) -> pd.DataFrame:
    """Where each side's effect lies: its peak layer, and its centre (the mean layer, weighted by the positive average effect).

    Returns:
        Columns ``component place side peak_layer peak_effect peak_share centre low high``: ``peak_share`` is the peak's share of the
        side's average total effect; ``low`` and ``high`` bound the centre's 95% bootstrap interval over facts. A third row a place,
        ``side = "difference"``, has the centre of the subject's minus that of the relation's effect, paired within facts.

    Raises:
        ComponentError: only one side was traced.
    """
    totals = average.total_effects().set_index("corrupt")["total_effect"]
    layers = np.array(average.layers, dtype=np.float64)
    rows: list[dict[str, Any]] = []
    for component, place, *effects in _pairs(average):
        # One seed for both sides: the same facts are drawn for each, so their difference is paired.
        drawn = [_centre(bootstrap_means(effect, np.ones_like(effect)), layers) for effect in effects]
        centres = [_centre(effect.mean(0), layers) for effect in effects]
        for side, effect, centre, draws in zip(SIDES, effects, centres, drawn, strict=True):
            mean = effect.mean(0)
            peak = int(mean.argmax())
            low, high = np.nanquantile(draws, QUANTILES)  # a draw without any positive effect has no centre
            share = float(mean[peak] / totals[side])
            rows.append(
                {"component": component, "place": place, "side": side, "peak_layer": average.layers[peak], "peak_effect": mean[peak]}
                | {"peak_share": share, "centre": float(centre), "low": low, "high": high}
            )
        low, high = np.nanquantile(drawn[0] - drawn[1], QUANTILES)
        difference = {"centre": float(centres[0] - centres[1]), "low": low, "high": high}
        rows.append({"component": component, "place": place, "side": "difference"} | difference)
    return pd.DataFrame(rows).astype({"peak_layer": "Int64"})


def _pairs(average: RoleEffects) -> Iterator[tuple[Component, Place, FloatArray, FloatArray]]:
    """Component, place, and effects ``[fact layer]`` of both sides, fact by fact."""
    if set(average.sides) != set(SIDES):
        raise ComponentError(f"only {', '.join(average.sides)} corruption was traced; trace corrupt=('subject', 'relation') to compare the sides.")
    if not average.components:
        raise ComponentError(
            f"only {', '.join(average.unit_components)} was traced; trace a state or module, such as 'attn_out', to compare the sides."
        )
    for component in average.components:
        for place in PLACES:
            subject, relation = (average.effects_at(place, side, component) for side in SIDES)
            yield component, place, subject, relation


def _centre(effects: FloatArray, layers: FloatArray) -> FloatArray:
    """Mean layer weighted by the positive part of the effects, along the last axis; NaN where no effect is positive."""
    weights = effects.clip(min=0)
    with np.errstate(invalid="ignore"):
        return np.asarray((weights @ layers) / weights.sum(-1))
