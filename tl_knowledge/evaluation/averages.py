"""Means of scores over cases with their intervals, and their harmonic mean S."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tl_knowledge.results.statistics import IntervalVariant, mean_interval

__all__ = ["DIGITS", "HARMONIC", "INTERVAL_WORDS", "NO_SCORE", "Score", "table_scores"]

DIGITS = 1
HARMONIC = ("ES", "PS", "NS")
NOTHING = "-"
RESAMPLES = 2000

INTERVAL_WORDS: dict[IntervalVariant, str] = {"ours": "95% bootstrap over cases", "meng2022_code": "1.96 sd / sqrt(n) over cases"}


@dataclass(frozen=True)
class Score:
    """A mean over cases, in percent, with its 95% interval.

    Attributes:
        mean: NaN where no case has the score, shown as a dash.
        low, high: the interval's ends; NaN where there is none.
        cases: how many have the score; ``None`` in files of versions that did not say.

    Example:
        >>> score = Score(90.0, 88.5, 91.5, 40)
        >>> str(score), score.text("meng2022_code"), Score(90.0, float("nan"), float("nan")).text("meng2022_code")
        ('90.0 [88.5, 91.5]', '90.0 (1.5)', '90.0')
        >>> str(NO_SCORE)
        '-'
    """

    mean: float
    low: float
    high: float
    cases: int | None = None

    def __str__(self) -> str:
        if np.isnan(self.mean):
            return NOTHING
        if np.isnan(self.low) and np.isnan(self.high):
            return f"{self.mean:.{DIGITS}f}"
        return f"{self.mean:.{DIGITS}f} [{self.low:.{DIGITS}f}, {self.high:.{DIGITS}f}]"

    @property
    def numbers(self) -> dict[str, float]:
        """``mean``, ``low`` and ``high``, for a row of a table."""
        return {"mean": self.mean, "low": self.low, "high": self.high}

    def text(self, interval: IntervalVariant = "ours") -> str:
        """The mean with its ends, or (``"meng2022_code"``) with the half width in brackets, as in Meng et al.'s tables."""
        if interval == "ours" or np.isnan(self.mean):
            return str(self)
        half = self.high - self.mean
        return f"{self.mean:.{DIGITS}f}" + (f" ({half:.{DIGITS}f})" if np.isfinite(half) else "")


NO_SCORE = Score(float("nan"), float("nan"), float("nan"), 0)


def table_scores(table: pd.DataFrame, metrics: Sequence[str], prefix: str, interval: IntervalVariant) -> dict[str, Score]:
    """``S`` and every score's mean over the cases that have it.

    Args:
        table: a row a case, with the columns ``prefix + metric``.
        interval: ``"ours"`` resamples cases; ``"meng2022_code"`` is ``1.96 sd / sqrt(n)``, and S, a mean of means, has none.
    """
    scores = {metric: _score(table[prefix + metric].to_numpy(dtype=float), interval) for metric in metrics}
    return {"S": _harmonic(table[[prefix + metric for metric in HARMONIC]].to_numpy(dtype=float), interval)} | scores


def _score(values: np.ndarray, interval: IntervalVariant) -> Score:
    """Cases without the score count for neither interval's mean; the bootstrap draws them as well, so it knows how many there may be."""
    there = [np.array([value]) if np.isfinite(value) else np.zeros(0) for value in values]
    rows = there if interval == "ours" else [row for row in there if len(row)]
    counted = sum(map(len, there))
    if not counted:
        return NO_SCORE
    mean, low, high = mean_interval(rows, variant=interval)
    return Score(float(mean), float(low), float(high), counted)


def _harmonic(values: np.ndarray, interval: IntervalVariant) -> Score:
    """Harmonic mean of three columns' means, 0 where one of them is; the interval is that of resampled cases.

    None where a column has one case: resampling would hold that column's mean still, and the interval would be too narrow by all it may vary.
    """
    if np.isnan(values).all(axis=0).any():
        return NO_SCORE
    mean = float(_harmonic_means(values))
    if interval == "meng2022_code" or np.isfinite(values).sum(axis=0).min() < 2:
        return Score(mean, float("nan"), float("nan"), len(values))
    drawn = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.nanquantile(_harmonic_means(values[drawn]), [0.025, 0.975])
    return Score(mean, float(low), float(high), len(values))


def _harmonic_means(rows: np.ndarray) -> np.ndarray:
    """``[... case score]`` to ``[...]``."""
    means = np.nanmean(rows, axis=-2)
    with np.errstate(divide="ignore"):
        return np.asarray(3 / (1 / np.maximum(means, 0)).sum(-1))
