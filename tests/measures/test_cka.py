import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltageom.measures.shared.linear_cka import linear_cka_biased, linear_cka_debiased

BOTH = pytest.mark.parametrize("cka", [linear_cka_biased, linear_cka_debiased])


def related(seed, n, p, q):
    """x (n, p) and y (n, q) that share some of what they say, with columns of unlike means and sizes."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 3))
    x = shared @ rng.normal(size=(3, p)) + rng.normal(size=(n, p)) * 0.7 + 5
    y = shared @ rng.normal(size=(3, q)) + rng.normal(size=(n, q)) * np.linspace(0.1, 2, q) - 3
    return x, y


def dense_biased(x, y):
    n = len(x)
    h = np.eye(n) - 1 / n
    k, l = h @ x @ x.T @ h, h @ y @ y.T @ h  # noqa: E741
    return np.trace(k @ l) / math.sqrt(np.trace(k @ k) * np.trace(l @ l))


def song_hsic(k, l):  # noqa: E741
    """Song et al. 2012, eq. 5, term by term."""
    n = len(k)
    k, l = k * (1 - np.eye(n)), l * (1 - np.eye(n))  # noqa: E741
    one = np.ones(n)
    middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + middle - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))


def dense_debiased(x, y):
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return song_hsic(k, l) / math.sqrt(song_hsic(k, k) * song_hsic(l, l))


SHAPES = pytest.mark.parametrize(("n", "p", "q"), [(4, 3, 2), (50, 4, 6), (12, 40, 30), (20, 3, 200)])


@SHAPES
def test_agrees_with_gram_matrices_written_out(n, p, q):
    x, y = related(0, n, p, q)
    assert linear_cka_biased(x, y) == pytest.approx(dense_biased(x, y), abs=1e-10)
    assert linear_cka_debiased(x, y) == pytest.approx(dense_debiased(x, y), abs=1e-10)


def test_biased_by_hand():
    x = np.array([[-1.0], [0.0], [1.0]])
    y = np.array([[1.0], [-2.0], [1.0]])
    z = np.array([[-1.0], [1.0], [0.0]])
    assert linear_cka_biased(x, y) == pytest.approx(0, abs=1e-12)
    assert linear_cka_biased(x, z) == pytest.approx((1 / 2) ** 2)  # one feature: the squared correlation


@BOTH
@SHAPES
def test_self_is_one_and_order_does_not_matter(cka, n, p, q):
    x, y = related(1, n, p, q)
    assert cka(x, x) == pytest.approx(1, abs=1e-9)
    assert cka(x, y) == pytest.approx(cka(y, x), abs=1e-12)


@BOTH
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-12, -0.3, 7.0, 1e9]), n=st.integers(5, 30))
def test_blind_to_rotation_scale_and_shift_but_not_to_stretching(cka, seed, scale, n):
    x, y = related(seed, n, 8, 5)
    rng = np.random.default_rng(seed + 1)
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    value = cka(x, y)
    assert cka(x @ rotation * scale, y) == pytest.approx(value, abs=1e-8)
    assert cka(x + rng.normal(size=8), y) == pytest.approx(value, abs=1e-8)
    order = rng.permutation(n)
    assert cka(x[order], y[order]) == pytest.approx(value, abs=1e-8)
    assert abs(cka(x * [30, 1, 1, 1, 1, 1, 1, 1], y) - value) > 1e-6
    assert value <= 1 + 1e-12
    assert cka is linear_cka_debiased or value >= 0


def test_only_the_biased_one_is_inflated_when_features_outnumber_examples():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 100, 2560))
    assert linear_cka_biased(x, y) > 0.9
    assert abs(linear_cka_debiased(x, y)) < 0.02


def test_debiased_is_near_zero_on_average_for_unrelated_data():
    rng = np.random.default_rng(4)
    values = [linear_cka_debiased(*rng.normal(size=(2, 20, 60))) for _ in range(300)]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(300)
    assert min(values) < 0  # unbiased, so not clipped


@BOTH
def test_undefined_where_every_example_looks_the_same(cka):
    constant = np.full((10, 6), 0.1)  # 0.1 has no exact mean in binary: rounding must not pass for a signal
    assert math.isnan(cka(constant, np.random.default_rng(5).normal(size=(10, 6))))
    assert math.isnan(cka(np.zeros((10, 6)), constant))


def test_debiased_is_undefined_where_all_examples_are_equally_far_apart():
    x, _ = related(6, 8, 3, 3)
    rng = np.random.default_rng(6)
    for _ in range(20):  # turned and moved, so that only rounding is left of its HSIC
        simplex = np.linalg.qr(rng.normal(size=(8, 8)))[0] * 3 + rng.normal(size=8)
        assert math.isnan(linear_cka_debiased(simplex, x))
        assert math.isnan(linear_cka_debiased(x, simplex))


@BOTH
@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.ones((5, 2)), np.ones((6, 2))),
        (np.ones(5), np.ones(5)),
        (np.ones((1, 2)), np.ones((1, 2))),
        (np.full((5, 2), np.nan), np.ones((5, 2))),
    ],
)
def test_bad_input_is_refused(cka, x, y):
    with pytest.raises(ValueError, match=r"expected|NaN"):
        cka(x, y)


def test_debiased_needs_four_examples():
    x, y = related(7, 3, 2, 2)
    linear_cka_biased(x, y)
    with pytest.raises(ValueError, match="n >= 4"):
        linear_cka_debiased(x, y)
