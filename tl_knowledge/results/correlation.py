"""Pearson's correlation, as R's ``cor.test`` gives it; numbers in, numbers out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

__all__ = ["Correlation", "correlate"]

NOTHING = float("nan")
Z_95 = float(stats.norm.ppf(0.975))


@dataclass(frozen=True)
class Correlation:
    """How two variables go together.

    Attributes:
        r: Pearson's correlation; NaN for fewer than 3 pairs, or where one side does not vary.
        low, high: the 95% interval by Fisher's transformation; NaN for fewer than 4 pairs.
        p: two-sided, of the t-test that there is none.
        pairs: how many.
    """

    r: float
    low: float
    high: float
    p: float
    pairs: int


def correlate(first: Float[np.ndarray[Any, Any], " pair"], second: Float[np.ndarray[Any, Any], " pair"]) -> Correlation:
    """Pearson's correlation of the pairs in which neither is NaN.

    Example:
        >>> found = correlate(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([2.0, 1.0, 4.0, 3.0, 5.0]))
        >>> round(found.r, 3), round(found.p, 3), round(found.low, 3), round(found.high, 3)
        (0.8, 0.104, -0.28, 0.986)
    """
    there = np.isfinite(first) & np.isfinite(second)
    x, y, pairs = first[there], second[there], int(there.sum())
    if pairs < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(NOTHING, NOTHING, NOTHING, NOTHING, pairs)
    result: Any = stats.pearsonr(x, y)
    r = float(result.statistic)
    if pairs < 4 or abs(r) >= 1:
        return Correlation(r, NOTHING, NOTHING, float(result.pvalue), pairs)
    half = Z_95 / math.sqrt(pairs - 3)
    return Correlation(r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half), float(result.pvalue), pairs)
