"""Tests and correlations over facts; numbers in, numbers out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from tl_knowledge.arrays import FloatArray
from tl_knowledge.errors import InputError
from tl_knowledge.wording import counted

__all__ = [
    "FEWEST_TESTED",
    "Regression",
    "compare_regressions",
    "paired_p_values",
    "paired_t_p_values",
    "rank_biserial",
    "rank_correlation",
    "unpaired_t_p_values",
]

FEWEST_TESTED = 6  # a signed-rank test of fewer pairs cannot reach p < .05


def paired_p_values(
    first: Float[np.ndarray[Any, Any], "fact cell"], second: Float[np.ndarray[Any, Any], "fact cell"]
) -> tuple[FloatArray, FloatArray]:
    """Two-sided Wilcoxon signed-rank p for every cell, and the same corrected for their number.

    The correction is Benjamini and Hochberg's (false discovery rate). A cell without any difference has p = 1.

    Raises:
        InputError: fewer than 6 facts, with which no p below .05 is possible.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> x = generator.normal(size=(40, 2)); y = x - np.array([1.0, 0.0]) + 0.1 * generator.normal(size=(40, 2))
        >>> raw, corrected = paired_p_values(x, y)
        >>> bool(corrected[0] < 1e-6), bool(corrected[1] > 0.05)
        (True, True)
    """
    if len(first) < FEWEST_TESTED:
        raise InputError(f"a paired test of {counted(len(first), 'fact')} cannot reach p < .05; trace at least 6 known facts.")
    difference = first - second
    raw = np.ones(difference.shape[1])
    for cell in range(difference.shape[1]):
        if np.any(difference[:, cell] != 0):
            result: Any = stats.wilcoxon(difference[:, cell])
            raw[cell] = float(result.pvalue)
    return raw, np.asarray(stats.false_discovery_control(raw))


def rank_biserial(difference: Float[np.ndarray[Any, Any], "fact cell"]) -> FloatArray:
    """Effect size of the signed-rank test, for every cell: the rank sum of the positive differences minus that of the negative ones, over both.

    1 where every difference is positive, -1 where every one is negative, 0 where there is none; differences of zero are left out, as in the test.

    Example:
        >>> rank_biserial(np.array([[1.0, -1.0], [2.0, 3.0], [3.0, 0.0]])).tolist()
        [1.0, 0.3333333333333333]
    """
    sizes = np.zeros(difference.shape[1])
    for cell, column in enumerate(difference.T):
        values = column[column != 0]
        if len(values):
            ranks = stats.rankdata(np.abs(values))
            sizes[cell] = float((np.sign(values) * ranks).sum() / ranks.sum())
    return sizes


def paired_t_p_values(
    first: Float[np.ndarray[Any, Any], "draw cell"], second: Float[np.ndarray[Any, Any], "draw cell"]
) -> tuple[FloatArray, FloatArray]:
    """Two-sided paired t-test p for every cell, and the same corrected for their number (Benjamini and Hochberg).

    A cell without any difference has p = 1; one whose differences are all equal has p = 0.

    Raises:
        InputError: fewer than 2 draws.
    """
    if len(first) < 2:
        raise InputError(f"a paired t-test of {counted(len(first), 'draw')} knows no spread; pass at least 2.")
    difference = first - second
    with np.errstate(invalid="ignore", divide="ignore"):
        statistic = difference.mean(0) / (difference.std(0, ddof=1) / np.sqrt(len(difference)))
    raw = np.where(np.all(difference == 0, axis=0), 1.0, 2 * stats.t.sf(np.abs(statistic), len(difference) - 1))
    return np.asarray(raw), np.asarray(stats.false_discovery_control(raw))


def unpaired_t_p_values(
    first: Float[np.ndarray[Any, Any], "draw cell"], second: Float[np.ndarray[Any, Any], "draw cell"]
) -> tuple[FloatArray, FloatArray]:
    """The same of two samples that have nothing to do with each other, of one variance (Student); p = 1 where neither varies or differs.

    Raises:
        InputError: fewer than 2 draws.
    """
    if min(len(first), len(second)) < 2:
        raise InputError(f"a t-test of {counted(min(len(first), len(second)), 'draw')} knows no spread; pass at least 2.")
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of equal numbers
        raw: FloatArray = np.asarray(stats.ttest_ind(first, second).pvalue)  # pyright: ignore
    raw = np.where(np.isnan(raw), 1.0, raw)
    return raw, np.asarray(stats.false_discovery_control(raw))


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation; NaN for fewer than 3 pairs or when one side does not vary.

    Example:
        >>> rank_correlation([1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 9.0, 16.0])
        1.0
    """
    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return float("nan")
    result: Any = stats.spearmanr(first, second)
    return float(result.statistic)


@dataclass(frozen=True)
class Regression:
    """What two sets of explaining columns explain of one variable, alone and together.

    Attributes:
        first, second, both: R^2 of each.
        f, p: of the F-test that the second set adds nothing to the first.
    """

    first: float
    second: float
    both: float
    f: float
    p: float


def compare_regressions(
    y: Float[np.ndarray[Any, Any], " row"],
    first: Float[np.ndarray[Any, Any], "row column"],
    second: Float[np.ndarray[Any, Any], "row other"],
    *,
    interactions: bool = False,
) -> Regression:
    """Least squares of y on two sets of columns (with a constant), and whether the second adds to the first.

    Args:
        interactions: give the two together every product of a column of the first and one of the second, too, so that the slope on the second
            may differ by the first (R writes this ``first * second``).

    Example:
        >>> draw = np.random.default_rng(0)
        >>> a, b = draw.normal(size=(200, 1)), draw.normal(size=(200, 1))
        >>> fit = compare_regressions((a[:, 0] + 0.1 * draw.normal(size=200)), a, b)
        >>> fit.first > 0.95, fit.second < 0.1, fit.p > 0.05
        (True, True, True)

    Raises:
        InputError: y does not vary, or there are too few rows.
    """
    products = (first[:, :, None] * second[:, None, :]).reshape(len(y), -1) if interactions else first[:, :0]
    together = np.hstack([first, second, products])
    total = float(((y - y.mean()) ** 2).sum()) if len(y) else 0.0
    (rest_first, rank_first), (rest_second, _), (rest, rank) = (_residual(y, columns) for columns in (first, second, together))
    added, free = rank - rank_first, len(y) - rank
    if total == 0 or free < 1:
        raise InputError(f"{counted(len(y), 'row')} cannot be regressed: y does not vary, or there are no more rows than columns; pass more facts.")
    f = ((rest_first - rest) / added) / (rest / free) if added and rest > 0 else (float("inf") if added and rest_first > rest else 0.0)
    p = float(stats.f.sf(f, added, free)) if added else 1.0
    return Regression(1 - rest_first / total, 1 - rest_second / total, 1 - rest / total, float(f), p)


def _residual(y: FloatArray, columns: FloatArray) -> tuple[float, int]:
    """Squared residual of a fit with a constant, and its rank."""
    design = np.hstack([np.ones((len(y), 1)), columns])
    solution, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    return float(((y - design @ solution) ** 2).sum()), int(rank)
