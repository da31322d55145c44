"""Scores of several methods side by side: as a dataframe, Markdown, LaTeX and bars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from typing_extensions import override

from tl_knowledge.drawing import grouped_bars, slope_chart
from tl_knowledge.errors import InputError
from tl_knowledge.evaluation.averages import HARMONIC, INTERVAL_WORDS, Score
from tl_knowledge.evaluation.definitions import PERCENT, score_definitions, unit_of
from tl_knowledge.results.plain_text import latex_text, markdown_text
from tl_knowledge.results.result import Result
from tl_knowledge.results.statistics import IntervalVariant
from tl_knowledge.wording import counted

__all__ = ["ScoreTable"]

DRAWN = {"S": "S", "ES": "efficacy (ES)", "PS": "paraphrase (PS)", "NS": "neighbourhood (NS)"}
MOVED = {
    "reliability": "the edited fact is said",
    "generality": "it is said in other words",
    "NA": "neighbours are said",
    "subject_kept": "the subject's other facts are kept",
    "ripple_logical_generalization": "logical generalisation",
    "ripple_compositionality_1": "compositionality I",
    "ripple_compositionality_2": "compositionality II",
    "ripple_subject_aliasing": "subject aliasing",
    "ripple_forgetfulness": "forgetfulness",
    "ripple_relation_specificity": "relation specificity",
    "single_hop": "all facts of the chain",
    "multi_hop": "multi-hop: the new answer",
    "multi_hop_old": "multi-hop: the old answer",
    "portability": "portability",
    "blimp": "grammar (BLiMP)",
    "extracted": "the old object is extracted",
}
"""Shares of what an edit moves, and what should stay, as rows of a figure."""
CONSEQUENCES = (
    *("subject_kept", "ripple", "single_hop", "multi_hop", "multi_hop_old", "portability"),
    *("essence_drift", "blimp", "perplexity_rise", "next_token_KL", "extracted"),
)
SHOWN = ("S", "ES", "EM", "PS", "PM", "NS", "NM", "GE", "RS", *CONSEQUENCES)


@dataclass(frozen=True, eq=False)
class ScoreTable(Result):
    """Rows of scores by method.

    Attributes:
        rows: by method, its scores; the unedited model's first.
        cases: how many they are means of.
        model: its name.
        interval: of every mean: ``"ours"`` or ``"meng2022_code"``.
    """

    ranked_by: ClassVar[str] = "S"
    rows: dict[str, dict[str, Score]]
    cases: int
    model: str
    interval: IntervalVariant = "ours"

    @property
    def interval_words(self) -> str:
        """What the intervals are."""
        return INTERVAL_WORDS[self.interval]

    @override
    def headline(self) -> str:
        return f"{', '.join(self.rows)} on {counted(self.cases, 'case')}; {self.model}"

    @override
    def to_dataframe(self, *metrics: str) -> pd.DataFrame:
        """One row a method: means and the ends of their intervals (``S S_low S_high ES ...``), of some scores.

        Args:
            metrics: which; CounterFact's when none are given.

        Raises:
            InputError: an unknown score.
        """
        chosen = self._chosen(metrics)
        return pd.DataFrame(
            [
                {"model": name}
                | {
                    metric + end: value
                    for metric in chosen
                    for end, value in zip(("", "_low", "_high"), scores[metric].numbers.values(), strict=True)
                }
                for name, scores in self.rows.items()
            ]
        )

    @override
    def summary(self, *metrics: str) -> pd.DataFrame:
        """The same as text, an interval beside each mean.

        Raises:
            InputError: an unknown score.
        """
        chosen = self._chosen(metrics)
        return pd.DataFrame(
            [{"model": name} | {metric: scores[metric].text(self.interval) for metric in chosen} for name, scores in self.rows.items()]
        )

    def to_markdown(self, *metrics: str) -> str:
        """`summary` as a Markdown table; names are shown as they are, whatever stands in them."""
        frame = _escaped(self._headed(metrics), markdown_text)
        return frame.to_markdown(index=False, disable_numparse=True)

    def to_latex(self, *metrics: str) -> str:
        """`summary` as a LaTeX table (booktabs); names are escaped."""
        caption = latex_text(f"{counted(self.cases, 'case')}, {self.model}: means in percent; intervals: {self.interval_words}.")
        frame = _escaped(self._headed(metrics), latex_text)
        return frame.to_latex(index=False, escape=False, caption=caption, column_format="l" + "r" * (len(frame.columns) - 1))

    def plot(self) -> go.Figure:
        """Bars: S, ES, PS and NS of every method."""
        methods = list(self.rows)[1:]
        return grouped_bars(
            list(DRAWN.values()),
            {name: [(s.mean / 100, s.low / 100, s.high / 100) for s in (scores[key] for key in DRAWN)] for name, scores in self.rows.items()},
            title=f"{methods[0] if len(methods) == 1 else 'Editing methods'}: the new object is the likelier (ES, PS); the true one still is (NS)",
            subtitle=f"{counted(self.cases, 'case')}; {self.model}; {self.interval_words}",
            group_axis="score",
            value_axis="share of prompts",
        )

    def plot_moved(self, *metrics: str) -> go.Figure:
        """What the edits moved: a line a score and method, from the unedited model (open) to the edited one (filled).

        Args:
            metrics: which scores, in percent; those there are of the fact, its neighbours and consequences when none are given.

        Raises:
            InputError: an unknown score, or none that has a value.
        """
        unedited, *methods = self.rows
        chosen = self._chosen(metrics) if metrics else tuple(name for name in MOVED if name in self.rows[unedited])
        chosen = tuple(name for name in chosen if all(np.isfinite(scores[name].mean) for scores in self.rows.values()))
        if not chosen:
            raise InputError("none of these scores has a value for every method; evaluate with measures=[subject_facts(facts), ...].")
        fewer = any(self.rows[unedited][name].cases not in (None, self.cases) for name in chosen)
        sample = f"{counted(self.cases, 'case')}{', n where fewer have the score' * fewer}"
        return slope_chart(
            [f"{MOVED.get(name, name)}{''.join(f' ({words})' for words in self._sample(name))}" for name in chosen],
            [self.rows[unedited][name].mean for name in chosen],
            {method: [(s.mean, s.low, s.high) for s in (self.rows[method][name] for name in chosen)] for method in methods},
            title=f"What {methods[0] if len(methods) == 1 else 'an edit'} moved",
            subtitle=f"open: unedited, filled: edited; {sample}; {self.model}; {INTERVAL_WORDS[self.interval]}",
            value_axis="percent",
        )

    def definitions(self, *metrics: str) -> pd.DataFrame:
        """What the table's scores are, and those of the figures: ``score unit better definition``.

        Args:
            metrics: the table's; CounterFact's when none are given.

        Raises:
            InputError: an unknown score.
        """
        unedited = next(iter(self.rows.values()))
        drawn = [name for name in (*DRAWN, *MOVED) if name in unedited and np.isfinite(unedited[name].mean)]
        return score_definitions([*dict.fromkeys([*self._chosen(metrics), *drawn])])

    def measured(self, *metrics: str) -> tuple[str, ...]:
        """Those scores of these that some case has.

        Raises:
            InputError: an unknown score, or none that has a value.
        """
        unedited = next(iter(self.rows.values()))
        there = tuple(name for name in self._chosen(metrics) if np.isfinite(unedited[name].mean))
        if not there:
            raise InputError(f"none of the scores {', '.join(metrics)} has a value; they are NaN in all of the {counted(self.cases, 'case')}.")
        return there

    def missing_intervals(self, *metrics: str) -> str:
        """Which of these scores have no interval, and why, in a sentence; empty where each has one.

        Raises:
            InputError: an unknown score.

        Example:
            >>> sure, alone = Score(60.0, 50.0, 70.0, 5), Score(60.0, float("nan"), float("nan"), 1)
            >>> ScoreTable({"ROME": {"S": alone, "ES": sure, "PS": alone, "NS": sure}}, 5, "factlm").missing_intervals()
            'Without an interval: PS, which one case has; S, the harmonic mean of ES, PS and NS, because PS has none.'
        """
        chosen = self._chosen(metrics)
        bare = [metric for metric in chosen if any(np.isfinite(row[metric].mean) and np.isnan(row[metric].low) for row in self.rows.values())]
        if bare and self.cases == 1:
            return "Nothing has an interval: of one case nobody knows how far another would differ."
        alone = [metric for metric in bare if metric != "S"]
        said = [f"{', '.join(alone)}, which one case has"] if alone else []
        if "S" in bare:
            without = [name for name in HARMONIC if any(np.isnan(row[name].low) for row in self.rows.values())]
            why = f"because {' and '.join(without)} {'has' if len(without) == 1 else 'have'} none" if without else "in Meng et al.'s program"
            said.append(f"S, the harmonic mean of {', '.join(HARMONIC[:-1])} and {HARMONIC[-1]}, {why}")
        return f"Without an interval: {'; '.join(said)}." if said else ""

    def column_words(self, metric: str) -> str:
        """A score's name, with its unit where that is not percent, and with the number of cases where not all have it: ``old_rank (rank, n = 14)``.

        Raises:
            InputError: an unknown score.
        """
        self._chosen((metric,))
        more = [*([unit_of(metric)] if unit_of(metric) != PERCENT else []), *self._sample(metric)]
        return f"{metric} ({', '.join(more)})" if more else metric

    def _sample(self, metric: str) -> list[str]:
        """How many cases have a score; nothing where all have, or where an older file does not say."""
        cases = next(iter(self.rows.values()))[metric].cases
        return [] if cases in (None, self.cases) else [f"n = {cases}"]

    def _headed(self, metrics: tuple[str, ...]) -> pd.DataFrame:
        frame = self.summary(*metrics)
        return frame.rename(columns={name: self.column_words(name) for name in map(str, frame.columns[1:])})

    def _chosen(self, metrics: tuple[str, ...]) -> tuple[str, ...]:
        first = next(iter(self.rows.values()))
        unknown = [metric for metric in metrics if metric not in first]
        if unknown:
            raise InputError(f"there is no score {unknown[0]!r}; scores: {', '.join(first)}.")
        return metrics or tuple(name for name in SHOWN if name in first and np.isfinite(first[name].mean))


def _escaped(frame: pd.DataFrame, escape: Callable[[str], str]) -> pd.DataFrame:
    """The table with its header and its names escaped; the other cells are numbers that this file wrote."""
    return frame.assign(model=frame["model"].map(escape)).rename(columns=escape)
