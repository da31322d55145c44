"""Scores of an editing method over many cases, with intervals, beside the unedited model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeAlias

import pandas as pd
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.door import public
from tl_knowledge.drawing import bar_chart
from tl_knowledge.errors import InputError, check_choice, check_given
from tl_knowledge.evaluation.averages import INTERVAL_WORDS, NO_SCORE, Score, table_scores
from tl_knowledge.evaluation.scores import COUNTERFACT
from tl_knowledge.evaluation.table import ScoreTable
from tl_knowledge.results.provenance import Provenance
from tl_knowledge.results.result import TableResult
from tl_knowledge.results.significance import paired_p_values
from tl_knowledge.results.statistics import IntervalVariant, scalar_interval
from tl_knowledge.wording import counted, relation_words

__all__ = ["EditReport", "EvaluationProtocol", "EvaluationSettings", "ReportComparison", "named_reports", "score_table"]

EvaluationProtocol: TypeAlias = Literal["single", "batch", "sequential"]
"""========== ==================================================
protocol   edits
========== ==================================================
single     each batch of cases alone, taken back before the next
batch      all cases in one plan
sequential batch after batch, all staying, measured at the end
========== ==================================================
"""

BASE = "base_"
EDITED_TEXTS, UNEDITED_TEXTS = "texts", "unedited_texts"


@dataclass(frozen=True)
class EvaluationSettings:
    """What was evaluated, and how.

    Attributes:
        method: the method's name.
        method_settings: its settings, as plain data.
        protocol: how edits were planned and measured.
        batch_size: cases that were planned together.
        measures: names of what else was read.
    """

    method: str
    method_settings: dict[str, Any] = field(default_factory=dict[str, Any])
    protocol: EvaluationProtocol = "single"
    batch_size: int = 1
    measures: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class EditReport(TableResult):
    """One row a case.

    Attributes:
        table: ``case_id subject relation target_new`` and every score after the edit, and before it (``base_ES`` ...); where a measure
            generates, the ``texts`` and ``unedited_texts`` of each case, as lists.
        settings: the method and the protocol.
        provenance: the model, the versions.
    """

    ranked_by: ClassVar[str] = "EM"
    table: pd.DataFrame
    settings: EvaluationSettings
    provenance: Provenance

    @property
    def method(self) -> str:
        """The method's name."""
        return self.settings.method

    @property
    def metrics(self) -> tuple[str, ...]:
        """The scores' names."""
        return tuple(name for name in map(str, self.table.columns) if BASE + name in self.table)

    @cached_property
    def scores(self) -> dict[str, Score]:
        """Every score's mean over cases, in percent, and ``S``, the harmonic mean of ES, PS and NS; bootstrap intervals."""
        return table_scores(self.table, self.metrics, "", "ours")

    @cached_property
    def base(self) -> dict[str, Score]:
        """The same of the unedited model."""
        return table_scores(self.table, self.metrics, BASE, "ours")

    @property
    def texts(self) -> pd.DataFrame:
        """What the models wrote, one row a text: ``case_id subject target_new unedited edited``.

        Raises:
            InputError: no measure generated any (`GenerationScores`).
        """
        if EDITED_TEXTS not in self.table:
            raise InputError("no text was generated; evaluate with measures=[GenerationScores()].")
        names = ["case_id", "subject", "target_new", UNEDITED_TEXTS, EDITED_TEXTS]
        frame = pd.DataFrame(self.table[names]).explode([UNEDITED_TEXTS, EDITED_TEXTS]).dropna(subset=[EDITED_TEXTS])
        return frame.rename(columns={UNEDITED_TEXTS: "unedited", EDITED_TEXTS: "edited"}).reset_index(drop=True)

    @override
    def headline(self) -> str:
        settings = self.settings
        together = f" of {settings.batch_size}" if settings.batch_size > 1 and settings.protocol != "batch" else ""
        return f"{self.method} on {counted(len(self.table), 'case')}, {settings.protocol}{together}; {self.provenance.model}"

    @override
    def summary(self, *, interval: IntervalVariant = "ours") -> pd.DataFrame:
        """One row each for the unedited model and the method: means with their intervals as text.

        Args:
            interval: ``"ours"``: the ends of the bootstrap; ``"meng2022_code"``: the half width ``1.96 sd / sqrt(n)`` in brackets.
        """
        return score_table(self, interval=interval).summary()

    def to_markdown(self, *, interval: IntervalVariant = "ours") -> str:
        """`summary` as a Markdown table."""
        return score_table(self, interval=interval).to_markdown()

    def to_latex(self, *, interval: IntervalVariant = "ours") -> str:
        """`summary` as a LaTeX table."""
        return score_table(self, interval=interval).to_latex()

    def plot(self, *, interval: IntervalVariant = "ours") -> go.Figure:
        """Bars: S, ES, PS and NS of the unedited and the edited model."""
        return score_table(self, interval=interval).plot()

    def plot_moved(self, *metrics: str, interval: IntervalVariant = "ours") -> go.Figure:
        """What the edits moved, of the fact, its neighbours and its consequences: from the unedited model to the edited one.

        Raises:
            InputError: as `ScoreTable.plot_moved`.
        """
        return score_table(self, interval=interval).plot_moved(*metrics)

    def by(self, category: str = "relation", *, metric: str = "ES", interval: IntervalVariant = "ours") -> pd.DataFrame:
        """One row for each relation (or another column's value): the score's mean, interval and number of cases, best first.

        Raises:
            InputError: no such column or score.
        """
        if category not in self.table or metric not in self.metrics:
            raise InputError(f"there is no column {category!r} or no score {metric!r}; scores: {', '.join(self.metrics)}.")
        rows: list[dict[str, object]] = []
        for name, group in self.table.fillna({category: "none"}).groupby(category, sort=True):
            mean, low, high = scalar_interval(group[metric].dropna(), variant=interval)
            rows.append({category: name, "mean": mean, "low": low, "high": high, "cases": len(group)})
        return pd.DataFrame(rows).sort_values("mean", ascending=False, kind="stable").reset_index(drop=True)

    def plot_by(self, category: str = "relation", *, metric: str = "ES", interval: IntervalVariant = "ours") -> go.Figure:
        """Bars: one score by relation, or another column.

        Raises:
            InputError: as `by`.
        """
        frame = self.by(category, metric=metric, interval=interval)
        figure = bar_chart(
            [f"{relation_words(name)} (n = {cases})" for name, cases in zip(frame[category], frame["cases"], strict=True)],
            frame["mean"].tolist(),
            (frame["high"] - frame["mean"]).tolist(),
            errors_below=(frame["mean"] - frame["low"]).tolist(),
            title=f"{self.method}: {metric} by {category}",
            subtitle=f"{counted(len(self.table), 'case')}; {self.provenance.model}; {INTERVAL_WORDS[interval]}",
            value_axis=f"{metric} (percent)",
        )
        if frame["mean"].between(0, 100).all():
            figure.update_xaxes(range=[0, 104])
        return figure

    def compare(self, other: EditReport) -> ReportComparison:
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
        return ReportComparison(pd.DataFrame(rows), self.settings, other.settings, len(both), self.provenance)


@dataclass(frozen=True, eq=False)
class ReportComparison(TableResult):
    """One method's scores less another's, on the same cases.

    Attributes:
        table: ``metric difference low high p``, in percent; p of a paired Wilcoxon test, corrected for the number of scores.
        first, second: the two evaluations' settings.
        cases: how many both have.
        provenance: of the first.
    """

    ranked_by: ClassVar[str] = "difference"
    either_sign: ClassVar[bool] = True
    table: pd.DataFrame
    first: EvaluationSettings
    second: EvaluationSettings
    cases: int
    provenance: Provenance

    @override
    def headline(self) -> str:
        return f"{self.first.method} less {self.second.method}, {counted(self.cases, 'case')}; {self.provenance.model}"

    @override
    def summary(self) -> pd.DataFrame:
        """All scores."""
        return self.to_dataframe()

    def plot(self) -> go.Figure:
        """Bars: each score's difference with its interval."""
        frame = self.table
        return bar_chart(
            [f"{metric} (p = {p:.2g})" for metric, p in zip(frame["metric"], frame["p"], strict=True)],
            frame["difference"].tolist(),
            (frame["high"] - frame["difference"]).tolist(),
            errors_below=(frame["difference"] - frame["low"]).tolist(),
            title=f"{self.first.method} less {self.second.method}",
            subtitle=f"{counted(self.cases, 'case')}; {self.provenance.model}; 95% bootstrap over cases",
            value_axis="difference (percent)",
        )


@public
def score_table(*reports: EditReport, names: tuple[str, ...] = (), interval: IntervalVariant = "ours") -> ScoreTable:
    """Several methods on the same cases in one table, below the unedited model.

    A score that was not measured of a method is a dash in its row.

    Args:
        names: the methods' names in the table; their own when none are given.
        interval: ``"ours"``: 95% bootstrap over cases. ``"meng2022_code"``: ``1.96 sd / sqrt(n)``, the half width beside each mean, none
            for S (Meng et al. 2022, tables 1 and 4; their ``summarize.py`` takes numpy's sd, which divides by n).

    Raises:
        DataError: no report.
        InputError: reports of other cases, or names that do not fit.
    """
    check_choice("interval", interval, IntervalVariant)
    named = named_reports(reports, names)
    first = next(iter(named.values()))
    unedited: dict[str, Score] = {}
    for report in named.values():
        unedited |= table_scores(report.table, [metric for metric in report.metrics if metric not in unedited], BASE, interval)
    rows = {"unedited": unedited}
    for name, report in named.items():
        scores = table_scores(report.table, report.metrics, "", interval)
        rows[name] = {metric: scores.get(metric, NO_SCORE) for metric in unedited}
    return ScoreTable(rows, len(first.table), first.provenance.model, interval)


def named_reports(reports: Sequence[EditReport], names: Sequence[str]) -> dict[str, EditReport]:
    """Reports of the same cases by their names in a table or figure.

    Raises:
        DataError: no report.
        InputError: reports of other cases, or names that do not fit.
    """
    given = check_given(reports, "report", "pass what evaluate() returned")
    labels = names or tuple(report.method for report in given)
    if len(labels) != len(given) or len(set(labels)) != len(labels):
        raise InputError(f"{counted(len(given), 'report')} cannot go by the names {labels}; pass names=, one for each report and each once.")
    if any(list(report.table["case_id"]) != list(given[0].table["case_id"]) for report in given):
        raise InputError("the reports are of different cases; evaluate all methods on the same ones.")
    return dict(zip(labels, given, strict=True))
