"""The bootstrap of the median against resampling the values themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from deltageom.geometry.aggregate.bootstrap import RESAMPLES, median_interval, resampled


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 36, 144])
def test_the_ranks_give_what_resampling_the_values_gives(n):
    values = np.random.default_rng(n).normal(size=(5, n)) ** 3
    medians = np.median(np.sort(values, axis=1)[:, resampled(n)], axis=2)  # (columns, resamples)
    low, high = np.percentile(medians, [2.5, 97.5], axis=1)
    found = median_interval(values)
    np.testing.assert_allclose(found[0], low, rtol=1e-12)
    np.testing.assert_allclose(found[1], high, rtol=1e-12)


def test_resamples_are_uniform_and_fixed():
    places = resampled(6)
    assert places.shape == (RESAMPLES, 6) == (2000, 6)
    assert np.array_equal(places, resampled(6))
    counts = np.bincount(places.ravel(), minlength=6)
    assert len(counts) == 6
    assert abs(counts - 2000).max() < 4 * np.sqrt(2000)


@pytest.mark.parametrize("n", [36, 145])
def test_scipy_agrees(n):
    values = np.random.default_rng(n).normal(40, 5, n)
    theirs = bootstrap((values,), np.median, method="percentile", n_resamples=4000, rng=np.random.default_rng(0))
    low, high = median_interval(values[None])
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert low[0] == pytest.approx(theirs.confidence_interval.low, abs=0.12 * width)
    assert high[0] == pytest.approx(theirs.confidence_interval.high, abs=0.12 * width)


def test_one_value_and_none():
    nan = np.nan
    low, high = median_interval(np.array([[nan, 3.5, nan], [nan, nan, nan], [1.0, 2.0, nan]]))
    assert low[0] == high[0] == 3.5
    assert np.isnan([low[1], high[1]]).all()
    assert (low[2], high[2]) == (1.0, 2.0)
    assert [bound.shape for bound in median_interval(np.zeros((0, 3)))] == [(0,), (0,)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12), st.integers(0, 3), st.floats(0.1, 5), st.floats(-5, 5))
def test_missing_values_order_and_units_do_not_matter(values, missing, factor, shift):
    plain = np.array([values])
    low, high = median_interval(plain)
    assert min(values) <= low[0] <= high[0] <= max(values)
    padded = np.array([[np.nan] * missing + values[::-1]])
    assert median_interval(padded) == (low, high)
    np.testing.assert_allclose(
        median_interval(factor * plain + shift), (factor * low + shift, factor * high + shift), atol=1e-9
    )
