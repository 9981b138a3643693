"""Draws in short against numpy, and drawn again."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from deltageom.geometry.quantiles import LEVELS, in_short, spread


@pytest.mark.parametrize("m", [2, 3, 24, 2000])
def test_in_short_is_what_numpy_says(m):
    draws = np.random.default_rng(m).gamma(2, 10, (3, m))
    for row, found in zip(draws, in_short(draws, median=True), strict=True):
        assert (found["mean"], found["sd"]) == pytest.approx((row.mean(), row.std(ddof=1)))
        assert found["quantiles"] == pytest.approx(np.quantile(row, LEVELS, method="hazen"), abs=1e-6)
    assert [set(found) for found in in_short(draws, median=False)] == [{"mean", "sd"}] * 3


@pytest.mark.parametrize("shape", [1, 2, 30])
def test_values_are_spread_as_the_draws_were(shape):
    draws = np.random.default_rng(1).gamma(shape, 10, (2, 4000))
    found = in_short(draws, median=True)
    mean, sd, quantiles = (np.array([row[key] for row in found]) for key in ("mean", "sd", "quantiles"))
    values = spread(mean, sd, quantiles, 500)
    assert values.shape == (2, 500)
    assert values.mean(-1) == pytest.approx(mean)
    assert values.std(-1, ddof=1) == pytest.approx(sd)
    for row, drawn in zip(values, draws, strict=True):
        assert ks_2samp(row, drawn).statistic < 0.06


def test_nothing_is_spread_of_one_value_or_of_none():
    mean, sd = np.array([5.0, np.nan]), np.array([0.0, np.nan])
    values = spread(mean, sd, mean[:, None] * np.ones(LEVELS.size), 4)
    assert values[0].tolist() == [5] * 4
    assert np.isnan(values[1]).all()
