"""What a test can find: against hand-computed cases, every outcome tried, and simulation."""

from math import comb, factorial, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from deltageom.evaluation.power import detectable_by_mcnemar, detectable_by_means, mcnemar_power
from deltageom.evaluation.statistics import mcnemar, sign_flip


def p_of(only_a, only_b):
    return mcnemar(np.repeat([True, False], [only_a, only_b]), np.repeat([False, True], [only_a, only_b])).p


@pytest.mark.parametrize(("n", "difference", "discordant"), [(8, 0.6, 0.9), (12, 0.3, 0.3), (15, 0.2, 0.7), (7, 0, 1)])
def test_power_is_the_probability_of_the_outcomes_that_mcnemar_rejects(n, difference, discordant):
    one, other = (discordant + difference) / 2, (discordant - difference) / 2
    expected = sum(
        factorial(n) / factorial(x) / factorial(y) / factorial(n - x - y)
        * one**x * other**y * (1 - discordant) ** (n - x - y)
        for x in range(n + 1)
        for y in range(n + 1 - x)
        if p_of(x, y) < 0.05
    )  # fmt: skip
    assert mcnemar_power(n, difference, discordant) == pytest.approx(expected, rel=1e-9)


def test_thirty_problems_with_all_discordance_one_way():
    """6-0 is the least outcome that is significant: so P(at least 6 of 30) is to be 80 %."""
    found = detectable_by_mcnemar(30, 0.0)
    below = sum(comb(30, i) * found**i * (1 - found) ** (30 - i) for i in range(6))
    assert below == pytest.approx(0.2, abs=1e-8)
    assert found == pytest.approx(0.2507, abs=1e-4)


def test_fewest_problems():
    assert p_of(5, 0) > 0.05 > p_of(6, 0)
    assert detectable_by_mcnemar(6, 0.0) == pytest.approx(0.8 ** (1 / 6), abs=1e-8)  # all six must go one way
    assert [detectable_by_mcnemar(n, share) for n in (1, 5) for share in (0.0, 1.0)] == [None] * 4


@pytest.mark.parametrize(("n", "discordant"), [(100, 0.3), (30, 0.5), (200, 0.05)])
def test_simulated_answers_are_told_apart_in_80_percent(n, discordant):
    difference = detectable_by_mcnemar(n, discordant)
    share = max(discordant, difference)
    rng, trials = np.random.default_rng(0), 20000
    outcomes = rng.multinomial(n, [(share + difference) / 2, (share - difference) / 2, 1 - share], size=trials)
    pairs, counts = np.unique(outcomes[:, :2], axis=0, return_counts=True)
    rejected = sum(count for (x, y), count in zip(pairs, counts, strict=True) if p_of(x, y) < 0.05)
    assert rejected / trials == pytest.approx(0.8, abs=5 * sqrt(0.8 * 0.2 / trials))


@settings(deadline=None, max_examples=40)
@given(st.integers(6, 300), st.floats(0, 1), st.floats(0.01, 0.99))
def test_smaller_differences_are_found_less_often(n, discordant, smaller):
    found = detectable_by_mcnemar(n, discordant)
    assert mcnemar_power(n, found, max(discordant, found)) == pytest.approx(0.8, abs=1e-6)
    less = smaller * found
    assert mcnemar_power(n, less, max(discordant, less)) < 0.8
    assert mcnemar_power(n, 1e-9, max(discordant, 1e-9)) <= 0.05
    assert detectable_by_mcnemar(n, 0.0) <= found + 1e-9


def test_more_problems_and_less_discordance_find_smaller_differences():
    assert detectable_by_mcnemar(1319, 0.1) < detectable_by_mcnemar(200, 0.1) < detectable_by_mcnemar(30, 0.1)
    assert detectable_by_mcnemar(200, 0.1) < detectable_by_mcnemar(200, 0.3) < detectable_by_mcnemar(200, 0.6)


def test_means_in_closed_form():
    differences = np.array([0.5, -0.25, 0.0, 0.25] * 25)
    variance = ((differences - differences.mean()) ** 2).sum() / 99
    expected = (1.959963984540054 + 0.8416212335729143) * sqrt(variance / 100)
    assert detectable_by_means(differences) == pytest.approx(expected, rel=1e-12)
    assert detectable_by_means(-differences) == pytest.approx(expected, rel=1e-12)


def test_means_have_that_power():
    """A z-test of the mean at 5 %, two-sided, with the other side's share left out: below 1e-6."""
    differences = np.random.default_rng(0).normal(size=50) / 4
    error = differences.std(ddof=1) / sqrt(50)
    assert norm.sf(norm.isf(0.025) - detectable_by_means(differences) / error) == pytest.approx(0.8, rel=1e-9)


@pytest.mark.parametrize("differences", [[0.0] * 9, [0.5] * 9, [], [*[0.1 + 0.2] * 4, *[0.3] * 4], [1.0, -1.0] * 3])
def test_means_that_tell_nothing_are_undefined(differences):
    assert detectable_by_means(differences) is None


def test_means_of_five_problems_can_tell_nothing_for_no_signs_are_significant():
    few = [0.25, 0.25, 0.125, 0.25, 0.25]
    assert sign_flip(few, 100, 0) > 0.05 > sign_flip([*few, 0.25], 100, 0)
    assert detectable_by_means(few) is None
    assert 0 < detectable_by_means([*few, 0.25]) < 0.25
