"""Singular values and leading triplets of large dense deltas, against LAPACK's whole decomposition."""

import numpy as np
import pytest
import scipy.linalg
from scipy.linalg import subspace_angles

from deltageom.deltas.delta import Dense, Factors
from deltageom.geometry import base_spectrum
from deltageom.geometry import dense_svd as svds
from deltageom.geometry.dense_svd import dense_svd
from deltageom.geometry.module_numbers import measure_module

EPS = np.finfo(float).eps
LARGE = (300, 200)
K = 5
# by kind, whether the squares hold all singular values
KINDS = dict.fromkeys(("slow", "flat", "square", "tied"), True) | dict.fromkeys(
    ("fast", "steep", "deficient", "graded"), False
)


@pytest.fixture(autouse=True)
def _small_matrices_are_large(monkeypatch):
    monkeypatch.setattr(svds, "DENSE", 40)


def make(kind, shape=LARGE, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "square":
        shape = shape[:1] * 2
    if kind in ("flat", "square"):
        return rng.normal(size=shape)
    i = np.arange(min(shape))
    sigma = {
        "fast": np.exp(-i / 4.0),  # to 2e-22, below rounding
        "steep": np.where(i < 6, 0.1**i, 1e-6 / (i + 1.0)),  # the squares of the leading ones alone reach to 1e-8
        "slow": (i + 1.0) ** -0.5,
        "tied": np.where(i < 3, 3.0, 2 / (i + 1.0)),
        "deficient": np.where(i < 30, 1 / (i + 1.0), 0.0),
        "graded": np.where(i < 30, 1 / (i + 1.0), 1e-9 / (i + 1.0)),  # the squares of the last are under rounding
    }[kind]
    u, v = (np.linalg.qr(rng.normal(size=(d, sigma.size)))[0] for d in shape)
    return 1e-3 * (u * sigma) @ v.T


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_vectors_agree_with_the_whole_svd(kind, transposed):
    weight = make(kind)
    weight = weight.T if transposed else weight
    u, sigma, vt = np.linalg.svd(weight, full_matrices=False)
    sigma = sigma[sigma > sigma[0] * max(weight.shape) * EPS]
    found = dense_svd(weight, K)
    off = abs(found.sigma - sigma)
    assert found.sigma.size == sigma.size
    assert off.max() <= found.errors["singular_value"]
    assert found.errors["singular_value"] <= 1e-6 * sigma[0]
    assert off.max() <= 1e-11 * sigma[0]
    if KINDS[kind]:
        assert found.errors["singular_value"] <= 1e-2 * sigma[-1]
        np.testing.assert_allclose(found.sigma, sigma, rtol=1e-8)
    rest = (
        np.linalg.norm(weight @ found.v - found.u * sigma[:K], axis=0),
        np.linalg.norm(weight.T @ found.u - found.v * sigma[:K], axis=0),
    )
    residual = np.max(rest) / sigma[0]
    assert residual <= max(weight.shape) * EPS
    assert found.errors["residual"] == pytest.approx(residual, abs=20 * EPS)
    for ours, dense in ((found.u, u), (found.v, vt.T)):
        np.testing.assert_allclose(ours.T @ ours, np.eye(K), atol=1e-12)
        for j in (3, 5) if kind == "tied" else range(1, K + 1):
            gap = (sigma[j - 1] - sigma[j]) / sigma[0]
            angle = subspace_angles(ours[:, :j], dense[:, :j]).max()
            assert angle <= 4 * j**0.5 * (found.errors["residual"] + 10 * EPS) / gap
            assert np.degrees(angle) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_lapack_finds_no_vectors_and_the_values_only_where_squares_lose_them(kind, monkeypatch):
    weight, calls, lapack = make(kind), [], np.linalg.svd

    def counted(matrix, **options):
        if min(matrix.shape) == min(weight.shape):
            calls.append(options)
        return lapack(matrix, **options)

    monkeypatch.setattr(np.linalg, "svd", counted)
    dense_svd(weight, K)
    assert calls == ([] if KINDS[kind] else [{"compute_uv": False}])


def test_values_below_the_resolution_of_squares_are_not_taken_from_them():
    weight = make("graded")
    squares = np.linalg.eigvalsh(weight.T @ weight)[::-1]
    off = abs(np.sqrt(abs(squares)) / np.linalg.svd(weight, compute_uv=False) - 1)
    assert off.max() > 0.1  # what it would be
    sigma = dense_svd(weight, K).sigma
    np.testing.assert_allclose(sigma, np.linalg.svd(weight, compute_uv=False), rtol=1e-5)


def test_eigenvalues_and_leading_eigenvectors():
    gram = make("slow").T @ make("slow")
    values, vectors = np.linalg.eigh(gram)
    found, leading = svds._eigen(gram, 7)
    np.testing.assert_allclose(found, values[::-1], rtol=1e-12)
    np.testing.assert_allclose(abs(leading.T @ vectors[:, :-8:-1]), np.eye(7), atol=1e-12)


def test_zero():
    found = dense_svd(np.zeros(LARGE), K)
    assert (found.u.shape, found.sigma.shape, found.v.shape, found.errors) == ((300, 0), (0,), (200, 0), {})
    found = dense_svd(np.zeros(LARGE[::-1]), K)
    assert (found.u.shape, found.v.shape) == ((200, 0), (300, 0))


def test_fewer_directions_than_k():
    rng = np.random.default_rng(1)
    found = dense_svd(rng.normal(size=(300, 3)) @ rng.normal(size=(3, 200)), K)
    assert (found.u.shape, found.sigma.shape, found.v.shape) == ((300, 3), (3,), (200, 3))


def test_lapack_decomposes_small_matrices_and_many_directions_whole():
    for weight, k in ((make("flat", (60, 40)), 5), (make("flat"), 50)):
        found, (u, sigma, vt) = dense_svd(weight, k), np.linalg.svd(weight, full_matrices=False)
        assert found.errors == {}
        for ours, theirs in ((found.u, u[:, :k]), (found.sigma, sigma), (found.v, vt[:k].T)):
            np.testing.assert_array_equal(ours, theirs)
    assert dense_svd(make("flat", (60, 41)), 5).errors
    assert dense_svd(make("flat"), 49).errors


def test_triplets_that_do_not_converge_are_found_by_lapack(monkeypatch):
    weight, eigen, rng = make("slow"), svds._eigen, np.random.default_rng(4)

    def nearly(gram, count):  # of which the singular values, but not the vectors, are right to rounding
        values, vectors = eigen(gram, count)
        return values, vectors + 1e-8 * rng.normal(size=vectors.shape)

    monkeypatch.setattr(svds, "_eigen", nearly)
    assert dense_svd(weight, K).errors["residual"] <= 300 * EPS
    monkeypatch.setattr(base_spectrum, "STEPS", 1)
    found = dense_svd(weight, K)
    assert found.errors == {}
    np.testing.assert_array_equal(found.sigma, np.linalg.svd(weight, full_matrices=False)[1])


def test_triplets_that_are_not_the_first_are_noticed(monkeypatch):
    weight, eigen = make("slow"), svds._eigen

    def without_the_first(gram, count):
        values, vectors = eigen(gram, count + 1)
        return values, vectors[:, 1:]

    monkeypatch.setattr(svds, "_eigen", without_the_first)
    found = dense_svd(weight, K)
    assert found.errors == {}
    assert found.sigma[0] == pytest.approx(1e-3)


@pytest.mark.parametrize("apart", [0, 1e-13, 1e-8])
@pytest.mark.parametrize("seed", range(4))
def test_all_singular_values_equal_but_for_rounding(seed, apart):
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.normal(size=(d, 200)))[0] for d in LARGE)
    expected = np.sort(1 + apart * rng.random(200))[::-1]
    found = dense_svd((u * expected) @ v.T, K)
    np.testing.assert_allclose(found.sigma, expected, rtol=0, atol=1e-13)
    assert 0 <= found.errors["residual"] <= 300 * EPS


def test_where_eigenvectors_are_not_found_the_start_is_random(monkeypatch):
    def fails(*_, **__):
        raise np.linalg.LinAlgError

    weight = make("slow")
    u, sigma, _ = np.linalg.svd(weight, full_matrices=False)
    monkeypatch.setattr(scipy.linalg, "eigh_tridiagonal", fails)
    found = dense_svd(weight, K)
    np.testing.assert_allclose(found.sigma, sigma, rtol=1e-8)
    assert subspace_angles(found.u, u[:, :K]).max() < 1e-10
    assert found.errors["residual"] <= 300 * EPS
    assert found.u.tobytes() == dense_svd(weight, K).u.tobytes()


@pytest.mark.parametrize("rank", [1, 200])
def test_the_error_of_the_squares_is_bounded(rank):
    weight, rng = make("flat"), np.random.default_rng(2)
    wrong = rng.normal(size=(200, rank)) @ rng.normal(size=(rank, 200)) * 1e-6
    wrong += wrong.T
    size, found = np.linalg.norm(wrong, 2), svds._error(weight.T @ weight + wrong, weight)
    assert size < found < 10 * np.sqrt(200) * 2 * size
    assert 0 < svds._error(weight.T @ weight, weight) < 1e-12 * np.linalg.norm(weight, 2) ** 2


def test_a_wrong_square_shows_in_the_stated_error(monkeypatch):
    weight, error = make("flat"), 1e-9
    exact = dense_svd(weight, K)
    monkeypatch.setattr(svds, "_error", lambda *_: error)
    found = dense_svd(weight, K).errors["singular_value"]
    own = 300 * EPS * exact.sigma[0] ** 2
    assert found == pytest.approx((error + own) / exact.sigma[-1], rel=1e-9)


@pytest.mark.parametrize("scale", [1e-40, 1e38])
def test_blind_to_scale_over_the_range_of_float32(scale):
    one, other = dense_svd(make("slow"), K), dense_svd(scale * make("slow"), K)
    np.testing.assert_allclose(other.sigma, scale * one.sigma, rtol=1e-9)
    assert other.errors["singular_value"] == pytest.approx(scale * one.errors["singular_value"], rel=1)
    assert abs(np.sum(one.v * other.v, axis=0)) == pytest.approx(np.ones(K), abs=1e-12)


@pytest.mark.parametrize("kind", ["flat", "graded"])
def test_the_same_bytes_each_time(kind):
    one, two = dense_svd(make(kind), K), dense_svd(make(kind), K)
    assert [one.u.tobytes(), one.sigma.tobytes(), one.v.tobytes(), one.errors] == [
        two.u.tobytes(),
        two.sigma.tobytes(),
        two.v.tobytes(),
        two.errors,
    ]


def test_a_module_s_numbers_are_those_of_the_whole_svd(monkeypatch):
    one, other = make("slow"), make("slow", seed=1)
    rng = np.random.default_rng(3)
    factors = Factors(rng.normal(size=(300, 6)), rng.normal(size=(6, 200)), 1e-3)
    deltas = {"a": Dense(one), "b": Dense(other + 0.5 * one), "c": factors, "d": Dense(0 * one)}
    found = measure_module("layers.0.q", deltas, [1, K], draws=4)
    monkeypatch.setattr(svds, "DENSE", 512)
    whole = measure_module("layers.0.q", deltas, [1, K], draws=4)
    errors = [row.pop("errors", None) for row in found["runs"]]
    assert [sorted(of_run or ()) for of_run in errors] == [["residual", "singular_value"]] * 2 + [[], []]
    assert "errors" not in whole["runs"][0]
    for row, expected in zip(found["runs"] + found["pairs"], whole["runs"] + whole["pairs"], strict=True):
        assert_near(row, expected)


def assert_near(found, expected):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_near(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_near(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-8, abs=1e-12)
    else:
        assert found == expected
