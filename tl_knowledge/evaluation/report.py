"""Scores of an editing method over many cases, with intervals, beside the unedited model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.drawing import bar_chart
from tl_knowledge.errors import InputError
from tl_knowledge.evaluation.scores import COUNTERFACT
from tl_knowledge.evaluation.table import Score, ScoreTable
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.statistics import mean_interval, paired_p_values, scalar_interval
from tl_knowledge.results.table import TableResult

__all__ = ["EditReport", "score_table"]

BASE = "base_"
HARMONIC = ("ES", "PS", "NS")


@dataclass(frozen=True, eq=False)
class EditReport(TableResult):
    """One row a case.

    Attributes:
        table: ``case_id subject relation target_new`` and every score after the edit, and before it (``base_ES`` ...).
        method: the method's name.
        provenance: the model, the method's settings, the protocol.
    """

    ranked_by: ClassVar[str] = "EM"
    table: pd.DataFrame
    method: str
    provenance: Provenance

    @property
    def metrics(self) -> tuple[str, ...]:
        """The scores' names."""
        return tuple(name for name in map(str, self.table.columns) if BASE + name in self.table)

    @property
    def scores(self) -> dict[str, Score]:
        """Every score's mean over cases, in percent, and ``S``, the harmonic mean of ES, PS and NS."""
        return self._scores("")

    @property
    def base(self) -> dict[str, Score]:
        """The same of the unedited model."""
        return self._scores(BASE)

    def summary(self) -> pd.DataFrame:
        """One row each for the unedited model and the method: means with their intervals as text."""
        return self._table().to_dataframe()

    def to_markdown(self) -> str:
        """`summary` as a Markdown table."""
        return self._table().to_markdown()

    def to_latex(self) -> str:
        """`summary` as a LaTeX table."""
        return self._table().to_latex()

    def plot(self) -> go.Figure:
        """Bars: S, ES, PS and NS of the unedited and the edited model."""
        return self._table().plot()

    def by(self, category: str = "relation", metric: str = "ES") -> pd.DataFrame:
        """One row for each relation (or another column's value): the score's mean, interval and number of cases, best first.

        Raises:
            InputError: no such column or score.
        """
        if category not in self.table or metric not in self.metrics:
            raise InputError(f"there is no column {category!r} or no score {metric!r}; scores: {', '.join(self.metrics)}.")
        rows: list[dict[str, object]] = []
        for name, group in self.table.fillna({category: "none"}).groupby(category, sort=True):
            mean, low, high = scalar_interval(group[metric].dropna())
            rows.append({category: name, "mean": mean, "low": low, "high": high, "cases": len(group)})
        return pd.DataFrame(rows).sort_values("mean", ascending=False, kind="stable").reset_index(drop=True)

    def plot_by(self, category: str = "relation", metric: str = "ES") -> go.Figure:
        """Bars: one score by relation, or another column.

        Raises:
            InputError: as `by`.
        """
        frame = self.by(category, metric)
        figure = bar_chart(
            [f"{name} (n = {cases})" for name, cases in zip(frame[category], frame["cases"], strict=True)],
            frame["mean"].tolist(),
            (frame["high"] - frame["mean"]).tolist(),
            errors_below=(frame["mean"] - frame["low"]).tolist(),
            title=f"{self.method}: {metric} by {category}",
            subtitle=f"{len(self.table)} cases; {self.provenance.model}; 95% bootstrap over cases",
            value_axis=f"{metric} (percent)",
        )
        if frame["mean"].between(0, 100).all():
            figure.update_xaxes(range=[0, 104])
        return figure

    def compare(self, other: EditReport) -> pd.DataFrame:
        """Difference of two methods on the same cases, with its interval and a paired test (Wilcoxon, corrected for the scores).

        Raises:
            InputError: fewer than 6 cases in common.
        """
        both = self.table.merge(other.table, on="case_id", suffixes=("", "_other"))
        first, second = (both[[metric + suffix for metric in COUNTERFACT]].to_numpy() for suffix in ("", "_other"))
        _, corrected = paired_p_values(first, second)
        rows: list[dict[str, object]] = []
        for k, metric in enumerate(COUNTERFACT):
            mean, low, high = scalar_interval(first[:, k] - second[:, k])
            rows.append({"metric": metric, "difference": mean, "low": low, "high": high, "p": float(corrected[k])})
        return pd.DataFrame(rows)

    def _table(self) -> ScoreTable:
        return ScoreTable({"unedited": self.base, self.method: self.scores}, len(self.table), self.provenance.model)

    def _scores(self, prefix: str) -> dict[str, Score]:
        found = {metric: _score(self.table[prefix + metric].to_numpy(dtype=float)) for metric in self.metrics}
        return {"S": _harmonic(self.table[[prefix + metric for metric in HARMONIC]].to_numpy(dtype=float))} | found


def score_table(*reports: EditReport, names: tuple[str, ...] = ()) -> ScoreTable:
    """Several methods on the same cases in one table, below the unedited model.

    Args:
        names: the methods' names in the table; their own when none are given.

    Raises:
        InputError: no report, reports of other cases, or names that do not fit.
    """
    labels = names or tuple(report.method for report in reports)
    if not reports or len(labels) != len(reports) or len(set(labels)) != len(labels):
        raise InputError(f"{len(reports)} report(s) cannot go by the names {labels}; pass names=, one for each report and each once.")
    if any(list(report.table["case_id"]) != list(reports[0].table["case_id"]) for report in reports):
        raise InputError("the reports are of different cases; evaluate all methods on the same ones.")
    rows = {"unedited": reports[0].base} | {name: report.scores for name, report in zip(labels, reports, strict=True)}
    return ScoreTable(rows, len(reports[0].table), reports[0].provenance.model)


def _score(values: np.ndarray) -> Score:
    rows = [np.array([x]) if np.isfinite(x) else np.zeros(0) for x in values]
    mean, low, high = mean_interval(rows)
    return Score(float(mean), float(low), float(high))


def _harmonic(values: np.ndarray) -> Score:
    """Harmonic mean of three columns' means; the interval is that of resampled cases."""

    def of(rows: np.ndarray) -> np.ndarray:
        means = np.nanmean(rows, axis=-2)
        with np.errstate(divide="ignore"):
            return np.asarray(3 / (1 / np.maximum(means, 1e-12)).sum(-1))

    if np.isnan(values).all(axis=0).any():
        return Score(float("nan"), float("nan"), float("nan"))
    drawn = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.nanquantile(of(values[drawn]), [0.025, 0.975]) if len(values) > 1 else (float("nan"), float("nan"))
    return Score(float(of(values)), float(low), float(high))
