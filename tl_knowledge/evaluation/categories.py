"""Which facts are harder to edit: scores of several methods by category (Meng et al. 2023, section 5.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import Points, grouped_bars, scatter
from tl_knowledge.errors import InputError, check_choice
from tl_knowledge.evaluation.averages import INTERVAL_WORDS, table_scores
from tl_knowledge.evaluation.report import EditReport, EvaluationSettings, named_reports
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.statistics import IntervalVariant
from tl_knowledge.wording import relation_words

__all__ = ["CategoryScores", "compare_categories"]

COUNTED = ("S", "ES", "PS", "NS")
GENERALISATION, SPECIFICITY = "PS", "NS"
NONE = "none"
PERCENT = (-4, 104)


@dataclass(frozen=True, eq=False)
class CategoryScores(TableResult):
    """Scores by method and category.

    Attributes:
        table: ``method category score mean low high cases``, in percent.
        category: the column whose values are the categories.
        settings: by the method's name in the table.
        interval: which interval ``low`` and ``high`` are of.
        provenance: of the first report.
    """

    ranked_by: ClassVar[str] = "mean"
    table: pd.DataFrame
    category: str
    settings: dict[str, EvaluationSettings]
    interval: IntervalVariant
    provenance: Provenance

    @override
    def headline(self) -> str:
        return f"{', '.join(self.settings)} by {self.category}; {self.provenance.model}"

    @override
    def summary(self, *, metric: str = "S") -> pd.DataFrame:
        """One row a category, one column a method: the means of one score, with the number of cases; the easiest first.

        Raises:
            InputError: an unknown score.
        """
        own = self._of(metric)
        wide = own.pivot(index="category", columns="method", values="mean")[list(self.settings)]
        wide = wide.loc[wide.mean(axis=1).sort_values(ascending=False, kind="stable").index]
        cases = own.drop_duplicates("category").set_index("category")["cases"]
        return wide.assign(cases=cases).reset_index().rename_axis(columns=None)

    def plot(self, *, metric: str = "S") -> go.Figure:
        """Bars: one score by category, a bar for each method, the easiest category first.

        Raises:
            InputError: an unknown score.
        """
        summary, own = self.summary(metric=metric), self._of(metric)
        groups = [f"{relation_words(name)} (n = {n})" for name, n in zip(summary["category"], summary["cases"], strict=True)]
        bars: dict[str, list[tuple[float, float, float]]] = {}
        for method in self.settings:
            rows = own[own["method"] == method].set_index("category").loc[summary["category"]]
            bars[method] = [tuple(row) for row in (rows[["mean", "low", "high"]] / 100).to_numpy().tolist()]
        title = f"{metric} by {self.category}"
        return grouped_bars(groups, bars, title=title, subtitle=self._subtitle, group_axis=self.category, value_axis="share of prompts")

    def plot_scatter(self) -> go.Figure:
        """Points: specificity (NS) against generalisation (PS), a point for each category and method."""
        groups: dict[str, Points] = {}
        for method in self.settings:
            own = self.table[self.table["method"] == method].pivot(index="category", columns="score", values="mean").dropna()
            groups[method] = Points(own[GENERALISATION].tolist(), own[SPECIFICITY].tolist(), [relation_words(name) for name in own.index])
        title = f"Specificity against generalisation, by {self.category}"
        axes = {"x_axis": f"generalisation ({GENERALISATION}, percent)", "y_axis": f"specificity ({SPECIFICITY}, percent)"}
        figure = scatter(groups, title=title, subtitle=f"a point is a {self.category}; {self.provenance.model}", **axes)
        return figure.update_xaxes(range=PERCENT).update_yaxes(range=PERCENT)

    @property
    def _subtitle(self) -> str:
        return f"{self.provenance.model}; {INTERVAL_WORDS[self.interval]}"

    def _of(self, metric: str) -> pd.DataFrame:
        own: pd.DataFrame = self.table.loc[self.table["score"] == metric]
        if own.empty:
            raise InputError(f"there is no score {metric!r}; scores: {', '.join(dict.fromkeys(self.table['score']))}.")
        return own


@public
def compare_categories(
    *reports: EditReport, names: tuple[str, ...] = (), category: str = "relation", metrics: tuple[str, ...] = (), interval: IntervalVariant = "ours"
) -> CategoryScores:
    """Several methods' scores by relation, or by another column of their tables.

    Args:
        names: the methods' names; their own when none are given.
        metrics: which scores besides S, ES, PS and NS.
        interval: as `score_table`.

    Raises:
        DataError: no report.
        InputError: reports of other cases, names that do not fit, no such column or score.
    """
    check_choice("interval", interval, IntervalVariant)
    named = named_reports(reports, names)
    rows: list[dict[str, Any]] = []
    for name, report in named.items():
        wrong = [metric for metric in metrics if metric not in report.metrics]
        if category not in report.table or wrong:
            raise InputError(f"there is no column {category!r} or no score {wrong}; scores: {', '.join(report.metrics)}.")
        for value, group in report.table.fillna({category: NONE}).groupby(category, sort=True):
            scores = table_scores(group, report.metrics, "", interval)
            rows += [
                {"method": name, "category": str(value), "score": metric} | scores[metric].numbers | {"cases": len(group)}
                for metric in dict.fromkeys((*COUNTED, *metrics))
            ]
    table = pd.DataFrame(rows).astype({"mean": np.float64, "low": np.float64, "high": np.float64})
    first = next(iter(named.values()))
    return CategoryScores(table, category, {name: report.settings for name, report in named.items()}, interval, first.provenance)
