"""Intervals and tests against closed forms, enumeration by hand and independent computation."""

from itertools import combinations, product
from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import xlogy
from scipy.stats import norm

from deltageom.evaluation.statistics import (
    benjamini_hochberg,
    bootstrap,
    clopper_pearson,
    holm,
    mcnemar,
    pass_at_k,
    sign_flip,
    tango,
    wilson,
)


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
@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
def test_intervals_refuse_impossible_counts(interval, correct, n):
    with pytest.raises(ValueError, match="must"):
        interval(correct, n)


def at_most(x, n, p):
    return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(x + 1))


@pytest.mark.parametrize(("correct", "n"), [(8, 10), (1, 30), (29, 30), (150, 200)])
def test_clopper_pearson_leaves_2_5_percent_in_each_tail(correct, n):
    low, high = clopper_pearson(correct, n)
    assert 1 - at_most(correct - 1, n, low) == pytest.approx(0.025, rel=1e-9)
    assert at_most(correct, n, high) == pytest.approx(0.025, rel=1e-9)


def test_clopper_pearson_at_the_ends_and_at_another_level():
    assert clopper_pearson(0, 30) == pytest.approx((0, 1 - 0.025 ** (1 / 30)), abs=1e-12)
    assert clopper_pearson(30, 30) == pytest.approx((0.025 ** (1 / 30), 1), abs=1e-12)
    assert clopper_pearson(0, 5, 0.9)[1] == pytest.approx(1 - 0.05 ** (1 / 5), abs=1e-12)


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


# sampled scores


def enumerated(differences):
    """P(|T*| >= |T|) over all signs, in whole numbers."""
    whole = [round(8 * d) for d in differences]
    sums = [abs(sum(s * w for s, w in zip(signs, whole, strict=True))) for signs in product((1, -1), repeat=len(whole))]
    return np.mean([total >= abs(sum(whole)) for total in sums])


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([0.25] * 6, 2 / 64),  # the least that six can give: all one way
        ([-0.25] * 6, 2 / 64),
        ([0.5, 0.25, 0.125], 2 / 8),
        ([0.5, 0.25, -0.125], 4 / 8),  # + + - and + + + reach it, and their opposites
        ([1.0, -1.0], 1.0),
        ([0.125], 1.0),
        ([0.0, 0.0, 0.0], 1.0),
    ],
)
def test_sign_flip_by_hand(differences, p):
    assert sign_flip(differences, 1000, 0) == pytest.approx(p, rel=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-8, 8), min_size=1, max_size=9))
def test_sign_flip_tries_all_signs_and_zeros_change_nothing(eighths):
    differences = np.array(eighths) / 8
    p = sign_flip(differences, 512, 0)
    assert p == pytest.approx(enumerated(differences), rel=1e-9)
    assert sign_flip(-differences, 512, 1) == p
    assert sign_flip([*differences, *[0.0] * 100], 512, 0) == p


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 7), st.integers(0, 6))
def test_sign_flip_of_single_answers_is_mcnemar(only_a, only_b):
    a, b = paired(3, only_a, only_b, 2)
    assert sign_flip(a.astype(float) - b, 2**13, 0) == pytest.approx(mcnemar(a, b).p, rel=1e-9)


def test_drawn_signs_count_the_observed_ones_too():
    assert sign_flip(np.ones(60), 999, 0) == pytest.approx(2 / 1000, rel=1e-12)  # none of the drawn ones reaches it
    assert sign_flip(np.ones(7), 128, 0) == pytest.approx(2 / 128, rel=1e-12)  # 2^7 patterns: all of them
    times = sign_flip(np.ones(7), 100, 0) * 101 / 2  # too few for all of them: drawn, and the observed one
    assert times == pytest.approx(round(times), abs=1e-9)
    assert times >= 1


def test_drawn_signs_are_near_the_exact_p_and_follow_the_seed():
    a, b = paired(5, 25, 15, 5)
    differences = a.astype(float) - b
    exact, drawn = mcnemar(a, b).p, sign_flip(differences, 20000, 1)
    assert abs(drawn - exact) < 5 * sqrt(2 * exact / 20000)  # five standard errors of a doubled tail
    assert sign_flip(differences, 20000, 1) == drawn == sign_flip(-differences, 20000, 1)
    assert sign_flip(differences, 20000, 2) != drawn


def bca(values, resamples, rng, level=0.95):
    """Efron 1987, written out: percentiles shifted by z0 (bias) and a (acceleration)."""
    values, n = np.asarray(values), len(values)
    means = values[rng.integers(n, size=(resamples, n))].mean(axis=1)
    below = (np.mean(means < values.mean() - 1e-12) + np.mean(means <= values.mean() + 1e-12)) / 2
    z0 = norm.ppf(below)
    left_out = (values.sum() - values) / (n - 1)
    spread = left_out.mean() - left_out
    a = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    z = z0 + norm.ppf([(1 - level) / 2, (1 + level) / 2])
    return np.quantile(means, norm.cdf(z0 + z / (1 - a * z)))


def test_tangos_interval_is_the_published_one():
    """Tango 1999 and Newcombe 1998 (method 8): 36 both, 12 and 2 discordant, 0 neither, of 50."""
    assert tango(12, 2, 50) == pytest.approx((0.0611, 0.3447), abs=5e-5)


@pytest.mark.parametrize(("b", "c", "n"), [(12, 2, 50), (4, 0, 200), (3, 3, 6), (1, 0, 44), (50, 0, 50), (0, 1, 1)])
def test_tangos_interval_is_where_the_score_test_does_not_reject(b, c, n):
    """By brute force: the constrained maximum likelihood over a grid of the nuisance probability."""
    low, high = tango(b, c, n)
    assert -1 <= low <= (b - c) / n <= high <= 1
    assert tango(c, b, n) == pytest.approx((-high, -low), abs=1e-8)
    for end, inside in ((low, 1e-3), (high, -1e-3)):
        if abs(end) < 1 and abs(end + inside) < 1:
            assert abs(score(b, c, n, end)) == pytest.approx(norm.ppf(0.975), abs=0.01)
            assert abs(score(b, c, n, end + inside)) < norm.ppf(0.975)


def score(b, c, n, d):
    """(b - c - n d) over its standard deviation at the most likely probability q of `only b` given d."""
    q = np.linspace(max(0, -d), (1 - d) / 2, 200_001)[1:-1] if d < 1 else np.array([0.0])
    with np.errstate(divide="ignore", invalid="ignore"):
        likelihood = xlogy(b, q + d) + xlogy(c, q) + xlogy(n - b - c, 1 - 2 * q - d)
    best = q[np.nanargmax(likelihood)]
    return (b - c - n * d) / sqrt(n * (2 * best + d * (1 - d)))


@pytest.mark.parametrize(("p_b", "p_c", "n"), [(0.02, 0, 200), (0.02, 0.01, 200), (0.1, 0.05, 200), (0.2, 0.1, 30)])
def test_tangos_interval_covers(p_b, p_c, n):
    drawn = np.random.default_rng(0).multinomial(n, [p_b, p_c, 1 - p_b - p_c], 3000)
    pairs, counts = np.unique(drawn[:, :2], axis=0, return_counts=True)
    inside = [low - 1e-9 <= p_b - p_c <= high + 1e-9 for low, high in (tango(int(b), int(c), n) for b, c in pairs)]
    assert 0.925 <= np.average(inside, weights=counts) <= 0.985


def test_tangos_interval_of_no_discordant_pair_has_a_width():
    z = norm.ppf(0.975) ** 2
    assert tango(0, 0, 44) == pytest.approx((-z / (44 + z), z / (44 + z)), abs=1e-6)
    for wrong in ((-1, 0, 5), (3, 3, 5), (0, 0, 0)):
        with pytest.raises(ValueError, match="not disjoint parts of"):
            tango(*wrong)


def test_bootstrap_is_bca():
    values = np.random.default_rng(0).exponential(size=40)  # skewed: the plain percentiles lie elsewhere
    expected = bca(values, 40000, np.random.default_rng(1))
    assert bootstrap(values, 40000, 2) == pytest.approx(tuple(expected), rel=0.01)
    drawn = values[np.random.default_rng(1).integers(40, size=(40000, 40))].mean(axis=1)
    assert np.all(expected / np.quantile(drawn, [0.025, 0.975]) > 1.04)


def test_bootstrap_of_many_is_the_normal_interval_and_follows_the_seed():
    values = np.random.default_rng(0).integers(-8, 9, size=2000) / 8
    half = 1.959963984540054 * values.std(ddof=1) / sqrt(2000)
    found = bootstrap(values, 5000, 0)
    assert found == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert bootstrap(values, 5000, 0) == found != bootstrap(values, 5000, 1)
    low, high = bootstrap(values, 5000, 0, level=0.5)
    assert found[0] < low < high < found[1]
    assert bootstrap(-values, 5000, 0) == pytest.approx((-found[1], -found[0]), abs=0.02 * half)


@pytest.mark.parametrize("values", [[0.0] * 30, [1.0] * 30, [0.25], [0.1 + 0.2, 0.3, 0.3], [-0.5, -0.5]])
def test_bootstrap_of_equal_values_is_undefined(values):
    assert bootstrap(values, 100, 0) is None


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=12))
def test_bootstrap_lies_within_the_values(quarters):
    values = np.array(quarters) / 4
    found = bootstrap(values, 200, 0)
    assert (found is None) == (len(set(quarters)) == 1)
    if found:
        assert values.min() <= found[0] <= found[1] <= values.max()


@pytest.mark.parametrize("values", [[], [0.5, float("nan")], [float("inf")], [[0.5]]])
def test_resampling_refuses_what_is_no_list_of_numbers(values):
    for resample in (bootstrap, sign_flip):
        with pytest.raises(ValueError, match="finite numbers"):
            resample(values, 100, 0)


@pytest.mark.parametrize("samples", [1, 2, 5, 6])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_one(samples):
    for correct, k in product(range(samples + 1), range(1, samples + 1)):
        subsets = list(combinations([True] * correct + [False] * (samples - correct), k))
        expected = sum(any(subset) for subset in subsets) / len(subsets)
        assert pass_at_k([correct], samples, k)[0] == pytest.approx(expected, abs=1e-15)


def test_pass_at_k_of_one_is_the_mean_and_large_counts_do_not_overflow():
    assert pass_at_k([0, 3, 8], 8, 1).tolist() == [0, 3 / 8, 1]
    n, c, k = 20000, 3, 10000
    expected = 1 - (n - k) * (n - k - 1) * (n - k - 2) / (n * (n - 1) * (n - 2))  # the 3 all outside the k
    assert pass_at_k([c], n, k)[0] == pytest.approx(expected, rel=1e-12)
    assert np.all(np.diff([pass_at_k([1], 64, k)[0] for k in range(1, 65)]) > 0)


@pytest.mark.parametrize(("correct", "samples", "k"), [([1], 4, 0), ([1], 4, 5), ([5], 4, 1), ([-1], 4, 1)])
def test_pass_at_k_refuses_impossible_counts(correct, samples, k):
    with pytest.raises(ValueError, match=r"1 \.\.\. 4|0 \.\.\. 4"):
        pass_at_k(correct, samples, k)


# several tests


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


def test_benjamini_hochberg_by_hand():
    # 4 p: 0.04, 0.16, 0.12, 0.02 at ranks 2, 4, 3, 1
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02], rel=1e-12)
    assert benjamini_hochberg([0.9, 0.5]) == pytest.approx([0.9, 0.9])
    assert benjamini_hochberg([0.25]) == pytest.approx([0.25])
    assert benjamini_hochberg([]).shape == (0,)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.01, 0.5))
def test_benjamini_hochberg_finds_what_its_procedure_finds(p, level):
    """The largest k with p_(k) <= k level / n: the k smallest are found."""
    ordered, n = sorted(p), len(p)
    limits = [ordered[k - 1] for k in range(1, n + 1) if ordered[k - 1] <= k * level / n]
    q = benjamini_hochberg(p)
    expected = [bool(limits) and value <= max(limits) for value in p]
    near = np.isclose(q, level, rtol=1e-9)
    assert [found for found, close in zip(q <= level, near, strict=True) if not close] == [
        found for found, close in zip(expected, near, strict=True) if not close
    ]
    assert np.all(q >= np.array(p) * (1 - 1e-12))
    assert np.all(holm(p) >= q * (1 - 1e-12))


@pytest.mark.parametrize("p", [[0.1, float("nan")], [1.5], [-0.1]])
@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
def test_corrections_refuse_what_is_no_probability(correct, p):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        correct(p)
