"""Subject against relation: is relational knowledge kept where entity knowledge is? (paper 001, RQ1)

Every fact is its own control: it is traced with its subject corrupted and with its relation corrupted, and the two are compared
within the fact, at the last corrupted token (the early site) and at the last token (the late site).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tl_knowledge.errors import ComponentError
from tl_knowledge.models.hook_names import Component
from tl_knowledge.results.statistics import bootstrap_means, paired_p_values
from tl_knowledge.tracing.sets.effects import RoleEffects
from tl_knowledge.tracing.sets.roles import PLACES, SIDES, Place

__all__ = ["compare_sides", "locate_sides"]


Effects = NDArray[np.float64]
QUANTILES = [0.025, 0.975]


def compare_sides(average: RoleEffects) -> pd.DataFrame:
    """Paired difference, subject minus relation, for every component, place and layer.

    Returns:
        Columns ``component place layer subject relation difference low high p p_corrected differs facts``. Effects and the 95%
        bootstrap interval of their difference are in probability; ``p`` is Wilcoxon's signed-rank test over facts, corrected over all
        rows (Benjamini and Hochberg); ``differs`` is ``p_corrected < 0.05``.

    Raises:
        ComponentError: only one side was traced.
        InputError: fewer than 6 facts.
    """
    rows: list[dict[str, Any]] = []
    subject_columns: list[Effects] = []
    relation_columns: list[Effects] = []
    for component, place, subject, relation in _pairs(average):
        means = bootstrap_means(subject - relation, np.ones_like(subject))
        low, high = np.quantile(means, QUANTILES, axis=0)
        subject_columns.append(subject)
        relation_columns.append(relation)
        rows += [
            {"component": component, "place": place, "layer": layer, "subject": subject[:, i].mean(), "relation": relation[:, i].mean()}
            | {"difference": (subject - relation)[:, i].mean(), "low": low[i], "high": high[i]}
            for i, layer in enumerate(average.layers)
        ]
    raw, corrected = paired_p_values(np.concatenate(subject_columns, axis=1), np.concatenate(relation_columns, axis=1))
    return pd.DataFrame(rows).assign(p=raw, p_corrected=corrected, differs=corrected < 0.05, facts=len(subject_columns[0]))


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


def _pairs(average: RoleEffects) -> Iterator[tuple[Component, Place, Effects, Effects]]:
    """Component, place, and effects ``[fact layer]`` of both sides, fact by fact."""
    if set(average.sides) != set(SIDES):
        raise ComponentError(f"only {', '.join(average.sides)} corruption was traced; trace corrupt=('subject', 'relation') to compare the sides.")
    for component in average.components:
        for place in PLACES:
            subject, relation = (average.effects_at(place, side, component) for side in SIDES)
            yield component, place, subject, relation


def _centre(effects: Effects, layers: Effects) -> Effects:
    """Mean layer weighted by the positive part of the effects, along the last axis; NaN where no effect is positive."""
    weights = effects.clip(min=0)
    with np.errstate(invalid="ignore"):
        return np.asarray((weights @ layers) / weights.sum(-1))
