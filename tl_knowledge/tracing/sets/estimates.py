"""Means of two measures of the same facts, and of their difference, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tl_knowledge.arrays import FloatArray
from tl_knowledge.results.significance import paired_p_values
from tl_knowledge.results.statistics import bootstrap_means

__all__ = ["QUANTILES", "paired_estimates", "paired_tests"]

QUANTILES = [0.025, 0.975]


def paired_estimates(first: FloatArray, second: FloatArray, names: tuple[str, str]) -> dict[str, FloatArray]:
    """Means over facts and their 95% bootstrap intervals, by layer, of both and of their difference, first minus second.

    Args:
        first, second: ``[fact layer]``.
        names: of their columns; the interval's ends end on ``_low`` and ``_high``, those of the difference are ``low`` and ``high``.
    """
    # One seed for both: the same facts are drawn for each, so their difference is paired.
    draws = [bootstrap_means(effects, np.ones_like(effects)) for effects in (first, second)]
    estimates: dict[str, FloatArray] = {}
    for name, prefix, effects, drawn in (
        (names[0], f"{names[0]}_", first, draws[0]),
        (names[1], f"{names[1]}_", second, draws[1]),
        ("difference", "", first - second, draws[0] - draws[1]),
    ):
        low, high = np.quantile(drawn, QUANTILES, axis=0)
        estimates |= {name: effects.mean(0), f"{prefix}low": low, f"{prefix}high": high}
    return estimates


def paired_tests(tables: Sequence[pd.DataFrame], columns: Sequence[tuple[FloatArray, FloatArray]]) -> pd.DataFrame:
    """Tables as one, with ``p p_corrected differs facts``: Wilcoxon's signed-rank test over facts, corrected over all rows.

    Args:
        tables: one row a layer each.
        columns: what each table compares, ``[fact layer]`` and ``[fact layer]``.

    Raises:
        InputError: fewer than 6 facts.
    """
    raw, corrected = paired_p_values(*(np.concatenate(one, axis=1) for one in zip(*columns, strict=True)))
    return pd.concat(tables, ignore_index=True).assign(p=raw, p_corrected=corrected, differs=corrected < 0.05, facts=len(columns[0][0]))
