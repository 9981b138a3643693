from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltageom.statistics import holm, mcnemar, wilson


@pytest.mark.parametrize(("correct", "n"), [(8, 10), (0, 30), (30, 30), (1240, 1319)])
def test_wilson_is_the_closed_form(correct, n):
    z, p = 1.959963984540054, correct / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert wilson(correct, n) == pytest.approx((max(0, middle - half), min(1, middle + half)), abs=1e-12)


def test_wilson_takes_the_level():
    z, n = 1.6448536269514722, 10  # 90 %
    assert wilson(0, n, 0.9) == pytest.approx((0, z**2 / (n + z**2)), abs=1e-12)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(correct, n):
    with pytest.raises(ValueError, match="must"):
        wilson(correct, n)


def paired(both, only_a, only_b, neither):
    counts = [both, only_a, only_b, neither]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(6, 0, 0.03125), (0, 6, 0.03125), (5, 0, 0.0625), (0, 0, 1.0), (3, 3, 1.0), (8, 1, 20 / 512)],
)
def test_mcnemar_by_hand(only_a, only_b, p):
    result = mcnemar(*paired(7, only_a, only_b, 5))
    assert (result.only_a, result.only_b) == (only_a, only_b)
    assert result.p == pytest.approx(p, rel=1e-12)


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_is_twice_the_smaller_tail_and_symmetric(only_a, only_b):
    a, b = paired(2, only_a, only_b, 3)
    n = only_a + only_b
    tail = sum(comb(n, i) for i in range(min(only_a, only_b) + 1)) / 2**n
    assert mcnemar(a, b).p == pytest.approx(min(1, 2 * tail), rel=1e-9)
    assert mcnemar(b, a).p == pytest.approx(mcnemar(a, b).p, rel=1e-12)


@pytest.mark.parametrize(("a", "b"), [([True], [True, False]), ([1, 0], [True, False]), ([[True]], [[True]])])
def test_mcnemar_refuses_what_is_not_paired_bools(a, b):
    with pytest.raises(ValueError, match=r"paired|bool"):
        mcnemar(a, b)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], rel=1e-12)
    assert holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert holm([]).shape == (0,)


def test_holm_steps_down():
    p = np.random.default_rng(0).uniform(0, 0.2, size=21)
    worst, expected = 0.0, np.empty(21)
    for step, at in enumerate(np.argsort(p)):
        worst = max(worst, min(1.0, p[at] * (21 - step)))
        expected[at] = worst
    assert holm(p) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("p", [[0.1, float("nan")], [1.5], [-0.1]])
def test_holm_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm(p)
