"""Scores of several methods side by side: as a dataframe, Markdown, LaTeX and bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from tl_knowledge.drawing import grouped_bars

__all__ = ["Score", "ScoreTable"]

DRAWN = {"S": "S", "ES": "efficacy (ES)", "PS": "paraphrase (PS)", "NS": "neighbourhood (NS)"}
SHOWN = ("S", "ES", "EM", "PS", "PM", "NS", "NM", "GE", "RS")
DIGITS = 1


@dataclass(frozen=True)
class Score:
    """A mean over cases, in percent, with its 95% bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.{DIGITS}f} [{self.low:.{DIGITS}f}, {self.high:.{DIGITS}f}]"


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Rows of scores by method.

    Attributes:
        rows: by method, its scores.
        cases: how many they are means of.
        model: its name.
    """

    rows: Mapping[str, Mapping[str, Score]]
    cases: int
    model: str

    def to_dataframe(self, *metrics: str) -> pd.DataFrame:
        """One row a method: mean and interval as text, of some scores (CounterFact's unless told otherwise)."""
        first = next(iter(self.rows.values()))
        chosen = metrics or tuple(name for name in SHOWN if name in first and np.isfinite(first[name].mean))
        return pd.DataFrame([{"model": name} | {metric: str(found[metric]) for metric in chosen} for name, found in self.rows.items()])

    def to_markdown(self, *metrics: str) -> str:
        """`to_dataframe` as a Markdown table."""
        frame = self.to_dataframe(*metrics)
        lines = ["| " + " | ".join(map(str, row)) + " |" for row in [frame.columns.tolist(), *frame.to_numpy().tolist()]]
        return "\n".join([lines[0], "|" + "---|" * len(frame.columns), *lines[1:]])

    def to_latex(self, *metrics: str) -> str:
        """`to_dataframe` as a LaTeX table (booktabs)."""
        caption = f"{self.cases} cases, {self.model}: means in percent with 95\\% bootstrap intervals over cases."
        frame = self.to_dataframe(*metrics)
        escaped = frame.assign(model=[name.replace("_", "\\_") for name in frame["model"]])
        return escaped.to_latex(index=False, escape=False, caption=caption, column_format="l" + "r" * (len(frame.columns) - 1))

    def plot(self) -> go.Figure:
        """Bars: S, ES, PS and NS of every method."""
        methods = list(self.rows)[1:]
        return grouped_bars(
            list(DRAWN.values()),
            {name: [(s.mean / 100, s.low / 100, s.high / 100) for s in (found[key] for key in DRAWN)] for name, found in self.rows.items()},
            title=f"{methods[0] if len(methods) == 1 else 'Editing methods'}: the new object is the likelier (ES, PS); the true one still is (NS)",
            subtitle=f"{self.cases} cases; {self.model}; 95% bootstrap over cases",
            group_axis="score",
            value_axis="share of prompts",
        )
