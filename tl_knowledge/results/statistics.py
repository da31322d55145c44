"""Intervals over facts; numbers in, numbers out.

Facts are the unit that is drawn at random, so every interval resamples facts, never tokens or noise samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, SupportsFloat, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from tl_knowledge.arrays import FloatArray
from tl_knowledge.errors import ComponentError, InputError, check_choice

__all__ = [
    "IntervalVariant",
    "bootstrap_means",
    "interval_text",
    "largest_rows",
    "mean_interval",
    "ratio_interval",
    "scalar_interval",
    "share_interval",
]

IntervalVariant: TypeAlias = Literal["ours", "meng2022_code"]
"""``"ours"``: percentile bootstrap over facts; ``"meng2022_code"``: ``1.96 sd / sqrt(n)``, the sd of all pooled values (divided by their number,
numpy's default), n the number of *facts*, as in Meng et al.'s notebook of average effects."""

RESAMPLES = 5000
RESAMPLES_AT_ONCE = 500


def bootstrap_means(
    sums: Float[np.ndarray[Any, Any], "fact *cell"], counts: Float[np.ndarray[Any, Any], "fact *cell"], *, resamples: int = RESAMPLES, seed: int = 0
) -> Float[np.ndarray[Any, Any], "resample *cell"]:
    """Means over resampled facts, where a fact may give several values (tokens of one role) or none.

    A mean is the resampled facts' sum over their count, so a fact keeps its tokens together (a cluster bootstrap).

    Example:
        >>> means = bootstrap_means(np.array([1.0, 2.0, 6.0]), np.ones(3), resamples=1000)
        >>> bool(1.0 <= means.min() and means.max() <= 6.0 and abs(means.mean() - 3.0) < 0.2)
        True
    """
    facts = len(sums)
    generator = np.random.default_rng(seed)
    flat_sums, flat_counts = sums.reshape(facts, -1), counts.reshape(facts, -1)
    means: list[FloatArray] = []
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        rows = min(RESAMPLES_AT_ONCE, resamples - start)
        weights = generator.multinomial(facts, np.full(facts, 1 / facts), size=rows).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append((weights @ flat_sums) / (weights @ flat_counts))
    return np.concatenate(means).reshape(resamples, *sums.shape[1:])


def mean_interval(values: Sequence[FloatArray], *, variant: IntervalVariant = "ours", seed: int = 0) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean, lower and upper end of the 95% interval, of values pooled over facts.

    Args:
        values: for each fact ``[value *cell]``: one row a token; a fact may have none.
        variant: which interval.
        seed: of the resampling.

    Returns:
        Three arrays ``[*cell]``; the mean is NaN where there is no value, the ends where fewer than two facts (``meng2022_code``: values) have
        one, because one draw says nothing about the spread. Facts without a value count for n of ``meng2022_code``, as in the program.

    Raises:
        InputError: an unknown variant, or no fact at all.
    """
    check_choice("variant", variant, IntervalVariant)
    if not values:
        raise InputError("there is no fact to average over; trace at least one.")
    sums = np.stack([v.sum(0) for v in values])
    counts = np.stack([np.full(v.shape[1:], float(len(v))) for v in values])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.asarray(sums.sum(0) / counts.sum(0))
    if variant == "meng2022_code":
        pooled = np.concatenate(list(values))
        if len(pooled) < 2:
            return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
        half = np.asarray(1.96 * pooled.std(0) / np.sqrt(len(values)))
        return mean, np.asarray(mean - half), np.asarray(mean + half)
    with np.errstate(invalid="ignore"):
        ends = np.nanquantile(bootstrap_means(sums, counts, seed=seed), [0.025, 0.975], axis=0)
    low, high = np.where((counts > 0).sum(0) > 1, ends, np.nan)
    return mean, np.asarray(low), np.asarray(high)


def scalar_interval(values: Iterable[SupportsFloat], *, variant: IntervalVariant = "ours") -> tuple[float, float, float]:
    """`mean_interval` of one number a fact, as plain numbers."""
    mean, low, high = mean_interval([np.array([float(value)]) for value in values], variant=variant)
    return float(mean), float(low), float(high)


def ratio_interval(parts: Sequence[float], wholes: Sequence[float]) -> tuple[float, float, float]:
    """A share of sums, ``sum(parts) / sum(wholes)``, one of each a fact, with its 95% bootstrap interval over facts.

    Example:
        >>> ratio_interval([1.0, 1.0, 1.0], [2.0, 2.0, 2.0])
        (0.5, 0.5, 0.5)
    """
    above, below = np.asarray(parts, float), np.asarray(wholes, float)
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = np.quantile(bootstrap_means(above, below), [0.025, 0.975]) if len(above) > 1 else (np.nan, np.nan)
        return float(above.sum() / below.sum()), float(low), float(high)


def share_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's (1927) 95% interval of a share of independent trials, as parts of 1.

    Example:
        >>> [round(end, 3) for end in share_interval(3, 4)], [round(end, 3) for end in share_interval(4, 4)]
        ([0.301, 0.954], [0.51, 1.0])
    """
    interval: Any = stats.binomtest(successes, trials).proportion_ci(0.95, "wilson")
    return float(interval.low), float(interval.high)


def interval_text(low: float, high: float, form: str = ".3f") -> str:
    """An interval as text that follows its estimate; nothing where there is none.

    Example:
        >>> f"0.5{interval_text(0.25, 0.75, '.2f')}", interval_text(float("nan"), 1.0)
        ('0.5 [0.25, 0.75]', '')
    """
    return "" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]"


def largest_rows(frame: pd.DataFrame, k: int, by: str, *, either_sign: bool = False) -> pd.DataFrame:
    """The k rows of the largest value in a column, largest first: what every result's ``top`` gives.

    Args:
        either_sign: compare sizes, so that a large loss counts like a large gain.

    Raises:
        ComponentError: k smaller than 1.
    """
    if k < 1:
        raise ComponentError(f"top({k}) asks for nothing; pass at least 1.")
    values = frame[by].abs() if either_sign else frame[by]
    return frame.loc[values.sort_values(ascending=False, kind="stable").index].head(k).reset_index(drop=True)
