"""Intervals and tests over replicates: closed forms, coverage, and what few replicates cannot show."""

import math

import numpy as np
import pytest

from deltageom.evaluation.over_replicates import crossed_bootstrap, paired, spread


def test_the_interval_is_students() -> None:
    found = spread([1.0, 2.0, 4.0])
    assert (found.n, found.smallest, found.largest) == (3, 1.0, 4.0)
    assert found.mean == pytest.approx(7 / 3)
    assert found.sd == pytest.approx(math.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2))
    half = 4.302652729911275 * found.sd / math.sqrt(3)  # the .975 quantile of t with 2 degrees of freedom, by tables
    assert (found.low, found.high) == pytest.approx((7 / 3 - half, 7 / 3 + half))


def test_two_replicates_have_a_spread_and_no_interval_and_one_has_neither() -> None:
    two, one, none = spread([1.0, 3.0]), spread([1.0, math.nan]), spread([math.nan])
    assert two.sd == pytest.approx(math.sqrt(2))
    assert math.isnan(two.low)
    assert (one.n, one.mean) == (1, 1.0)
    assert math.isnan(one.sd)
    assert math.isnan(spread([0.5, 0.5, 0.5]).low)  # three equal values say nothing of the spread
    assert none.n == 0
    assert math.isnan(none.mean)


def test_the_interval_covers() -> None:
    rng = np.random.default_rng(0)
    found = [spread(rng.normal(5, 2, 3)) for _ in range(4000)]
    assert np.mean([one.low <= 5 <= one.high for one in found]) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(("n", "smallest_p", "can_show"), [(3, 0.25, False), (5, 0.0625, False), (6, 0.03125, True)])
def test_few_replicates_cannot_show_a_difference(n: int, smallest_p: float, can_show: bool) -> None:
    """All differences of one sign: the smallest p that n can reach, 2 of 2^n signs."""
    found, p, possible = paired(np.arange(1.0, n + 1))
    assert p == pytest.approx(smallest_p)
    assert possible is can_show
    assert found.mean == pytest.approx((n + 1) / 2)


def test_the_sign_flip_test_counts_the_signs() -> None:
    values = [0.5, -0.2, 0.9, 0.1]
    means = [abs(np.dot([1 if bits >> i & 1 else -1 for i in range(4)], values)) for bits in range(16)]
    assert paired(values)[1] == pytest.approx(np.mean([mean >= abs(sum(values)) - 1e-12 for mean in means]))


def test_crossed_factors_are_both_drawn() -> None:
    """Without a replicate's effect the interval is that of the problems; without a problem's, of the replicates."""
    rng = np.random.default_rng(1)
    problems = np.repeat(rng.normal(0, 1, (1, 400)), 8, axis=0)
    low, high = crossed_bootstrap(problems, 4000, 0) or (0.0, 0.0)
    assert high - low == pytest.approx(2 * 1.96 * problems[0].std() / 20, rel=0.05)
    replicates = np.repeat(rng.normal(0, 1, (30, 1)), 50, axis=1)
    low, high = crossed_bootstrap(replicates, 4000, 0) or (0.0, 0.0)
    assert high - low == pytest.approx(2 * 1.96 * replicates[:, 0].std() / math.sqrt(30), rel=0.1)
    assert crossed_bootstrap(problems[:2], 100, 0) is None
    assert crossed_bootstrap(np.ones((3, 4)), 100, 0) is None
