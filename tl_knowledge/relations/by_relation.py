"""Scores by relation: their means with intervals, as a table and as bars."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.drawing import grouped_bars
from tl_knowledge.results.statistics import scalar_interval
from tl_knowledge.wording import relation_words

__all__ = ["means_with_intervals", "ranked", "relation_bars", "without_ends"]


def means_with_intervals(group: pd.DataFrame, names: tuple[str, ...]) -> dict[str, float]:
    """Columns' means, and the ends of their 95% bootstrap intervals over rows as ``_low`` and ``_high``; NaN for what no row has."""
    result: dict[str, float] = {}
    for name in names:
        values = group[name].dropna()
        mean, low, high = scalar_interval(values) if len(values) else (float("nan"),) * 3
        result |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    return result


def ranked(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """A table by relation, the largest of a score first."""
    return frame.sort_values(by, ascending=False, kind="stable").reset_index(drop=True)


def without_ends(frame: pd.DataFrame) -> pd.DataFrame:
    """A table without its intervals' ends."""
    return frame.drop(columns=[name for name in frame if str(name).endswith(("_low", "_high"))])


def relation_bars(frame: pd.DataFrame, names: Mapping[str, str], *, title: str, headline: str, value_axis: str) -> go.Figure:
    """Some scores of every relation with their intervals.

    Args:
        frame: one row a relation.
        names: what each score is shown as.
    """
    bars = {
        shown: [(float(row[name]), float(row[f"{name}_low"]), float(row[f"{name}_high"])) for row in frame.to_dict("records")]
        for name, shown in names.items()
    }
    return grouped_bars(
        [relation_words(name) for name in frame["relation"]],
        bars,
        title=title,
        subtitle=f"{headline}; 95% bootstrap over facts",
        group_axis="relation",
        value_axis=value_axis,
    )
