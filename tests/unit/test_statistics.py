"""Intervals and tests, against scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tl_knowledge.errors import InputError
from tl_knowledge.results.significance import paired_p_values, rank_correlation
from tl_knowledge.results.statistics import bootstrap_means, mean_interval


def test_bootstrap_of_one_value_a_fact_agrees_with_scipy():
    values = np.random.default_rng(0).exponential(size=60)
    mean, low, high = mean_interval([values[i : i + 1] for i in range(60)])
    scipy = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert float(mean) == pytest.approx(values.mean())
    assert float(low) == pytest.approx(scipy.low, abs=0.02) and float(high) == pytest.approx(scipy.high, abs=0.02)


def test_bootstrap_keeps_a_facts_tokens_together():
    """Forty copies of a fact's token must not make its interval narrower."""
    values = np.random.default_rng(1).normal(size=(30, 1))
    once, copies = mean_interval(list(values)), mean_interval([np.repeat(v, 40) for v in values])
    np.testing.assert_allclose(once, copies)


def test_facts_without_a_token_of_the_role_do_not_count():
    values = [np.array([[1.0, 2.0]]), np.empty((0, 2)), np.array([[3.0, 6.0], [5.0, 10.0]])]
    mean, low, high = mean_interval(values)
    np.testing.assert_allclose(mean, [3.0, 6.0])
    assert np.all(low <= mean) and np.all(mean <= high)


def test_the_interval_of_meng_2022_code_by_hand():
    values = [np.array([1.0]), np.array([2.0, 4.0])]
    mean, low, high = mean_interval(values, variant="meng2022_code")
    half = 1.96 * np.std([1, 2, 4]) / 2**0.5  # two facts
    np.testing.assert_allclose([mean, low, high], [7 / 3, 7 / 3 - half, 7 / 3 + half])
    assert np.isnan(mean_interval([np.array([1.0])], variant="meng2022_code")[1])


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        values = generator.normal(size=(50, 1))
        _, low, high = mean_interval(list(values), seed=trial)
        covered += bool(low <= 0 <= high)
    assert 180 <= covered <= 199  # 190 expected, a little fewer for a percentile bootstrap of 50


def test_bootstrap_is_deterministic():
    sums = np.arange(6.0)
    np.testing.assert_array_equal(bootstrap_means(sums, np.ones(6), seed=3), bootstrap_means(sums, np.ones(6), seed=3))


def test_paired_p_values_are_wilcoxons_corrected_for_their_number():
    generator = np.random.default_rng(3)
    first, second = generator.normal(size=(25, 40)), generator.normal(size=(25, 40))
    second[:, 7] = first[:, 7]
    raw, corrected = paired_p_values(first, second)
    assert raw[0] == pytest.approx(stats.wilcoxon(first[:, 0], second[:, 0]).pvalue)
    assert raw[7] == corrected[7] == 1.0
    assert (corrected >= raw).all() and not (corrected < 0.05).any() and (raw < 0.05).any()  # forty comparisons of noise


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), "no fact to average"),
        (lambda: mean_interval([np.ones(1)], variant="t"), "variant 't' is unknown; pass one of 'ours'"),
        (lambda: paired_p_values(np.ones((5, 1)), np.zeros((5, 1))), "trace at least 6"),
    ],
)
def test_bad_input(call, message):
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(InputError, match=message):
            call()
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_rank_correlation():
    assert rank_correlation([3.0, 1.0, 2.0], [9.0, 1.0, 4.0]) == 1.0
    assert np.isnan(rank_correlation([1.0, 2.0], [1.0, 2.0])) and np.isnan(rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))
