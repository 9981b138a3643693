"""Thin-factor geometry against dense float64 linear algebra, and its laws."""

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from deltageom.deltas.delta import Dense, Factors
from deltageom.errors import UserError
from deltageom.geometry import stack as stacks
from deltageom.geometry.factored import principal_angles, thin_svd
from deltageom.geometry.module_numbers import measure_module

D_OUT, D_IN, RANK = 30, 22, 6
KINDS = ("plain", "deficient", "cancelling", "repeated", "tiny", "graded", "bent", "skewed")


def make(seed, kind="plain", d_out=D_OUT, d_in=D_IN, rank=RANK):
    rng = np.random.default_rng(seed)
    b, a, scale = rng.normal(size=(d_out, rank)), rng.normal(size=(rank, d_in)), 2.0
    if kind == "deficient":  # rank - 2
        b[:, -2:] = b[:, :2]
    elif kind == "cancelling":  # rank - 2 in the product, though both factors have full rank
        b[:, 1] = b[:, 0] + 1e-3 * b[:, 1]
        a[1] = -a[0]
        a[2] = 0
    elif kind == "repeated":  # the same singular value throughout, u and v at random
        b, a = np.linalg.qr(b)[0], np.linalg.qr(a.T)[0].T
    elif kind == "tiny":
        b *= 1e-12
    elif kind == "graded":  # singular values over six decades
        b *= np.logspace(0, -6, rank)
    elif kind == "bent":  # condition number of some hundreds, after scaling too
        b = b[:, :1] + 2e-2 * b
    elif kind == "skewed":  # columns of norm 1 that nearly coincide: condition number 1e5
        b = b[:, :1] + 1e-5 * b
    elif kind == "zero":
        b *= 0
    elif kind == "zero a":
        a *= 0
    return Factors(b, a, scale)


def dense(factors):
    return factors.scale * (factors.b @ factors.a)


def dense_svd(factors):
    u, sigma, vt = np.linalg.svd(dense(factors), full_matrices=False)
    return u, sigma, vt.T


def dense_angles(a, b):
    """Ascending, in degrees, by another hand (Knyazev & Argentati 2002)."""
    return np.degrees(subspace_angles(a, b))[::-1]


def measure(deltas, *top_ks):
    return measure_module("layers.0.q", deltas, top_ks, draws=4)


def pair(a, b, top_k=3):
    """The pair row of a first, b second, with the angles of its one k."""
    (row,) = measure({"a": a, "b": b}, top_k)["pairs"]
    return row | with_overlaps(*row["angles"])


def with_overlaps(angles):
    left, right = angles["left"], angles["right"]
    overlaps = {f"{side}_overlap": (np.cos(np.radians(angles[side])) ** 2).mean() for side in ("left", "right")}
    return {"k": angles["k"], "left_angles": left, "right_angles": right} | overlaps


def near(value):
    return pytest.approx(value, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_agrees_with_the_dense_svd(kind):
    factors = make(0, kind)
    sigma = dense_svd(factors)[1]
    rank = {"deficient": RANK - 2, "cancelling": RANK - 2}.get(kind, RANK)
    row = measure({"x": factors}, 3)["runs"][0]
    sigma = sigma[:rank]
    assert row["rank"] == rank
    np.testing.assert_allclose(row["singular_values"], sigma, rtol=1e-9, atol=1e-13 * sigma[0])
    assert row["norm"] == pytest.approx(np.linalg.norm(dense(factors)), rel=1e-12)
    assert row["spectral_norm"] == pytest.approx(np.linalg.norm(dense(factors), 2), rel=1e-12)
    assert row["stable_rank"] == pytest.approx((sigma**2).sum() / sigma[0] ** 2)
    p, q = sigma / sigma.sum(), sigma**2 / (sigma**2).sum()
    assert row["effective_rank_sigma"] == pytest.approx(np.prod(p**-p))
    assert row["effective_rank_sigma2"] == pytest.approx(np.prod(q**-q))
    assert row["reason"] is None


def test_ranks_by_hand():
    eye = np.eye(5)
    factors = Factors(eye[:, :3] * [2.0, 1.0, 1.0], eye[:3], 1.0)
    row = measure({"x": factors}, 1)["runs"][0]
    assert row["singular_values"] == near([2, 1, 1])
    assert row["norm"] == near(6**0.5)
    assert row["stable_rank"] == near(1.5)
    assert row["effective_rank_sigma"] == near(2 * 2**0.5)  # p = 1/2, 1/4, 1/4: entropy 1.5 ln 2
    assert row["effective_rank_sigma2"] == near(6 / 4 ** (4 / 6))  # p = 4/6, 1/6, 1/6


@pytest.mark.parametrize(("kind_a", "kind_b"), [*combinations(KINDS, 2), ("plain", "plain"), ("graded", "graded")])
def test_a_pair_agrees_with_the_dense_svd(kind_a, kind_b):
    k = 3
    a, b = make(1, kind_a), make(2, kind_b)
    b = Factors(b.b, 0.6 * a.a / np.linalg.norm(a.a) + 0.4 * b.a / np.linalg.norm(b.a), b.scale)
    if kind_b != "repeated":
        k = 4
    ma, mb, row = dense(a), dense(b), pair(a, b, k)
    cosine = (ma * mb).sum() / np.linalg.norm(ma) / np.linalg.norm(mb)
    residual = np.linalg.norm(mb - (ma * mb).sum() / (ma**2).sum() * ma) / np.linalg.norm(mb)
    assert row["k"] == k
    size = np.linalg.norm(ma) * np.linalg.norm(mb)
    assert row["inner"] == pytest.approx((ma * mb).sum(), abs=1e-12 * size)
    assert row["cosine"] == pytest.approx(cosine, abs=1e-9)
    assert row["orthogonal_fraction"] == pytest.approx(residual, abs=1e-9)
    (ua, _, va), (ub, _, vb) = dense_svd(a), dense_svd(b)
    if "repeated" in (kind_a, kind_b):  # top singular vectors are anyone's choice
        return
    left, right = dense_angles(ua[:, :k], ub[:, :k]), dense_angles(va[:, :k], vb[:, :k])
    np.testing.assert_allclose(row["left_angles"], left, atol=1e-6)
    np.testing.assert_allclose(row["right_angles"], right, atol=1e-6)
    assert row["left_overlap"] == near((np.cos(np.radians(left)) ** 2).mean())
    assert row["right_overlap"] == near((np.cos(np.radians(right)) ** 2).mean())
    assert row["u1_overlap"] == near(abs(ua[:, 0] @ ub[:, 0]))
    assert row["v1_overlap"] == near(abs(va[:, 0] @ vb[:, 0]))


@pytest.mark.parametrize(("d_out", "d_in"), [(4, 22), (30, 3), (5, 5)])
def test_a_rank_above_the_module_s_size(d_out, d_in):
    a, b = (make(seed, d_out=d_out, d_in=d_in) for seed in (3, 4))
    row = pair(a, b, top_k=RANK)
    least = min(d_out, d_in)
    assert row["k"] == least
    (ua, _, va), (ub, _, vb) = dense_svd(a), dense_svd(b)
    np.testing.assert_allclose(row["left_angles"], dense_angles(ua, ub), atol=1e-6)
    np.testing.assert_allclose(row["right_angles"], dense_angles(va, vb), atol=1e-6)
    side = "left" if d_out == least else "right"
    np.testing.assert_allclose(row[f"{side}_angles"], 0, atol=1e-6)  # both span everything


@pytest.mark.parametrize("degrees", [1e-12, 1e-9, 1e-6, 0.01, 44.9, 45.1, 89.99, 90 - 1e-7, 90.0])
def test_a_known_angle_keeps_its_digits(degrees):
    t = np.radians(degrees)
    eye = np.eye(6)
    turned = np.stack([eye[0], np.cos(t) * eye[1] + np.sin(t) * eye[2]], axis=1)
    angles = principal_angles(eye[:, :2], turned)
    assert angles[0] == pytest.approx(0, abs=1e-14)
    assert angles[1] == pytest.approx(degrees, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("epsilon", [1e-6, 1e-3, 0.1, 0.19, 0.21, 1.0])
def test_the_orthogonal_fraction_is_exact_for_factors_and_dense_deltas(epsilon, sign):
    rng, eye = np.random.default_rng(22), np.eye(8)
    b = Factors(eye[:, :3] * [1, 1, epsilon], eye[:3], sign)
    g = rng.normal(size=(2, 2)) + 2 * np.eye(2)
    a = Factors(eye[:, :2] @ g, np.linalg.solve(g, eye[:2]), 1.0)
    expected = epsilon / np.hypot(epsilon, 2**0.5)
    for first, second in ((a, b), (Dense(dense(a)), b), (Dense(dense(a)), Dense(dense(b)))):
        row = pair(first, second, 2)
        assert row["orthogonal_fraction"] == pytest.approx(expected, rel=1e-9)
        assert row["cosine"] == pytest.approx(sign * 2**0.5 / np.hypot(epsilon, 2**0.5), rel=1e-12)


@pytest.mark.parametrize("epsilon", [1e-11, 1e-8, 1e-4, 0.1, 1.0, 10.0])
def test_the_orthogonal_fraction_of_a_known_residual(epsilon):
    eye = np.eye(8)
    a = Factors(eye[:, :2], eye[:2], 3.0)
    b = Factors(eye[:, :3] * [1, 1, epsilon], eye[:3], 1.0)  # residual epsilon beside a part of norm sqrt 2
    expected = epsilon / np.hypot(epsilon, 2**0.5)
    assert pair(a, b)["orthogonal_fraction"] == pytest.approx(expected, rel=1e-4 if epsilon < 1e-9 else 1e-7)
    assert pair(b, a)["orthogonal_fraction"] == pytest.approx(pair(a, b)["orthogonal_fraction"], rel=1e-4)


def test_singular_directions_are_signed_and_sided():
    eye = np.eye(4)
    a = Factors(eye[:, :1], eye[:1], 1.0)
    b = Factors(-eye[:, :1], (eye[:1] + eye[1:2]) / 2**0.5, 1.0)
    row = pair(a, b, 1)
    assert row["cosine"] == near(-(0.5**0.5))
    assert (row["u1_overlap"], row["v1_overlap"]) == near((1, 0.5**0.5))
    assert (row["left_angles"], row["right_angles"]) == (pytest.approx([0], abs=1e-6), near([45]))
    assert (row["left_overlap"], row["right_overlap"]) == near((1, 0.5))


@pytest.mark.parametrize("kind", ["zero", "zero a"])
@pytest.mark.filterwarnings("error")
def test_a_zero_delta_is_named_and_leaves_the_rest_alone(kind):
    factors = {"a": make(5), "b": make(6, kind), "c": make(7)}
    result = measure(factors, 3)
    json.dumps(result, allow_nan=False)
    zero = result["runs"][1]
    assert (zero["norm"], zero["rank"], zero["singular_values"]) == (0, 0, [])
    assert zero["stable_rank"] is zero["effective_rank_sigma"] is zero["effective_rank_sigma2"] is None
    reasons = {(row["a"], row["b"]): row["reason"] for row in result["pairs"]}
    assert reasons == {("a", "b"): "zero delta", ("a", "c"): None, ("b", "c"): "zero delta"}
    row = result["pairs"][0]
    assert row["cosine"] is row["orthogonal_fraction"] is row["u1_overlap"] is row["coefficient_a_on_b"] is None
    assert (row["inner"], row["angles"], row["chance"]) == (0, [], None)
    other = result["pairs"][1]
    assert_same(other | with_overlaps(*other["angles"]), pair(make(5), make(7)))
    assert measure({"a": make(6, "zero"), "b": make(6, "zero")}, 2)["pairs"][0]["reason"] == "zero delta"


def test_rows_are_sorted_and_complete():
    result = measure({name: make(i) for i, name in enumerate("cab")}, 2)
    assert [row["run"] for row in result["runs"]] == ["a", "b", "c"]
    assert [(row["a"], row["b"]) for row in result["pairs"]] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert result["pairs"][1]["inner"] == near((dense(make(1)) * dense(make(0))).sum())
    assert measure({"a": make(0)}, 2)["pairs"] == []


def test_k_is_the_smaller_rank():
    row = pair(make(8, "deficient"), make(9), top_k=10)
    assert row["k"] == len(row["left_angles"]) == len(row["right_angles"]) == RANK - 2


@pytest.mark.parametrize(("ratio", "rank"), [(1e-13, 2), (1e-14, 1)])
def test_a_singular_value_below_rounding_is_zero(ratio, rank):
    eye = np.eye(300)  # max(d) eps = 6.7e-14
    factors = Factors(eye[:, :2] * [1, ratio], eye[:2, :3], 5.0)
    row = measure({"x": factors}, 1)["runs"][0]
    assert (row["rank"], len(row["singular_values"])) == (rank, rank)


def test_factors_that_cancel_make_a_zero_delta():
    for seed in range(20):
        f = make(seed)
        result = measure({"x": Factors(np.hstack([f.b, f.b]), np.vstack([f.a, -f.a]), 2.0), "y": f}, 2)
        assert result["runs"][0]["reason"] == result["pairs"][0]["reason"] == "zero delta"


def test_modules_of_unlike_shape_name_both_runs():
    with pytest.raises(UserError, match=r"'x' \(30, 22\) and 'y' \(30, 21\)"):
        measure({"x": make(0), "y": make(1, d_in=21)}, 2)
    for top_ks in ([0], []):
        with pytest.raises(ValueError, match="top_k"):
            measure({"x": make(0)}, *top_ks)


SIDES = ("left_angles", "right_angles")
SAME = ("cosine", "orthogonal_fraction", "left_overlap", "right_overlap", "u1_overlap", "v1_overlap")
laws = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 10**6)
kinds = st.sampled_from([kind for kind in KINDS if kind != "repeated"])


def blend(seed, kind_a, kind_b):
    """Two related deltas, so that no angle or cosine is only noise."""
    a, b = make(seed, kind_a), make(seed + 1, kind_b)
    return a, Factors(b.b, 0.7 * a.a + 0.5 * b.a, b.scale)


def assert_same(row, other):
    assert {key: row[key] for key in SAME} == pytest.approx({key: other[key] for key in SAME}, abs=1e-7)
    for side in SIDES:
        np.testing.assert_allclose(row[side], other[side], atol=1e-5)


@laws
@given(seeds, kinds, kinds)
def test_symmetric(seed, kind_a, kind_b):
    a, b = blend(seed, kind_a, kind_b)
    assert_same(pair(a, b), pair(b, a))
    assert pair(a, b)["inner"] == pytest.approx(pair(b, a)["inner"])


@laws
@given(seeds, kinds, st.sampled_from([1e-9, 0.3, 1e6]), st.sampled_from([-1, 1]))
def test_blind_to_scale_and_signed_in_sign(seed, kind, scale, sign):
    a, b = blend(seed, kind, "plain")
    row = pair(a, b)
    scaled = pair(Factors(a.b, a.a, a.scale * scale * sign), b)
    assert scaled["cosine"] == pytest.approx(sign * row["cosine"], abs=1e-9)
    assert scaled["inner"] == pytest.approx(sign * scale * row["inner"], rel=1e-6)
    assert_same(row, scaled | {"cosine": row["cosine"]})


@laws
@given(seeds, kinds)
def test_blind_to_how_the_delta_is_factored(seed, kind):
    a, b = blend(seed, kind, "plain")
    g = np.random.default_rng(seed).normal(size=(RANK, RANK)) + 3 * np.eye(RANK)
    if np.linalg.cond(g) < 1e3:
        assert_same(pair(a, b), pair(Factors(a.b @ g, np.linalg.solve(g, a.a), a.scale), b))
    doubled = Factors(np.hstack([a.b, a.b]) / 2, np.vstack([a.a, a.a]), a.scale)
    assert_same(pair(a, b), pair(doubled, b))


@laws
@given(seeds, kinds)
def test_blind_to_an_orthogonal_change_of_basis(seed, kind):
    a, b = blend(seed, kind, "plain")
    rng = np.random.default_rng(seed)
    out, into = (np.linalg.qr(rng.normal(size=(d, d)))[0] for d in (D_OUT, D_IN))
    assert_same(pair(a, b), pair(*(Factors(out @ f.b, f.a @ into, f.scale) for f in (a, b))))


@laws
@given(seeds, kinds, kinds, st.floats(0, 1))
def test_pythagoras(seed, kind_a, kind_b, mix):
    a, b = blend(seed, kind_a, kind_b)
    b = Factors(np.hstack([a.b, mix * b.b]), np.vstack([a.a, b.a]), b.scale)  # from equal to a to mostly b
    row = pair(a, b)
    assert row["cosine"] ** 2 + row["orthogonal_fraction"] ** 2 == pytest.approx(1, abs=1e-12)
    for side in SIDES:
        angles = np.array(row[side])
        assert (np.diff(angles) >= 0).all()
        assert (angles >= 0).all()
        assert (angles <= 90).all()


@pytest.mark.filterwarnings("error")
@laws
@given(seeds, kinds)
def test_a_delta_has_no_angle_with_itself(seed, kind):
    a = make(seed, kind)
    row = pair(a, a)
    assert row["cosine"] == pytest.approx(1, abs=1e-12)
    assert row["orthogonal_fraction"] < 1e-12
    # products of ill-conditioned factors are exact to 6e-11, those of others to rounding
    assert max(row["left_angles"] + row["right_angles"]) < (1e-8 if kind == "bent" else 1e-10)
    assert [row[key] for key in SAME[2:]] == pytest.approx([1, 1, 1, 1], abs=1e-12)


def test_random_subspaces_at_real_width_are_nearly_orthogonal():
    """Ten random directions of 2560: the chance level that published angles are to be held against."""
    rng = np.random.default_rng(0)
    a, b = (np.linalg.qr(rng.normal(size=(2560, 10)))[0] for _ in range(2))
    angles = principal_angles(a, b)
    assert 80 < angles[0] < 88
    assert angles[-1] > 89


def test_the_svd_multiplies_out_to_the_delta():
    factors = make(11, "graded")
    svd = thin_svd(factors)
    np.testing.assert_allclose((svd.u * svd.sigma) @ svd.v.T, dense(factors), atol=1e-13)
    for side in (svd.u, svd.v):
        np.testing.assert_allclose(side.T @ side, np.eye(svd.sigma.size), atol=1e-13)


def test_every_k_asked_for():
    a, b = make(12), make(13, "deficient")
    (row,) = measure({"a": a, "b": b}, 5, 1, 2)["pairs"]
    assert [(angles["top_k"], angles["k"]) for angles in row["angles"]] == [(1, 1), (2, 2), (5, RANK - 2)]
    (ua, _, va), (ub, _, vb) = dense_svd(a), dense_svd(b)
    for angles in row["angles"]:
        k = angles["k"]
        np.testing.assert_allclose(angles["left"], dense_angles(ua[:, :k], ub[:, :k]), atol=1e-9)
        np.testing.assert_allclose(angles["right"], dense_angles(va[:, :k], vb[:, :k]), atol=1e-9)
    assert row["u1_overlap"] == near(np.cos(np.radians(row["angles"][0]["left"][0])))


@pytest.mark.parametrize(("kind_a", "kind_b"), [("plain", "graded"), ("tiny", "deficient"), ("cancelling", "skewed")])
def test_projection_coefficients_leave_an_orthogonal_residual(kind_a, kind_b):
    a, b = blend(14, kind_a, kind_b)
    ma, mb, row = dense(a), dense(b), pair(a, b)
    for of, on, coefficient in ((ma, mb, row["coefficient_a_on_b"]), (mb, ma, row["coefficient_b_on_a"])):
        residual = of - coefficient * on
        size = np.linalg.norm(of)
        assert abs((residual * on).sum()) < 1e-12 * size * np.linalg.norm(on)
        assert np.linalg.norm(residual) / size == pytest.approx(row["orthogonal_fraction"], abs=1e-12)


def test_a_pair_is_blind_to_the_other_runs():
    factors = {name: make(i, rank=4 + i) for i, name in enumerate("abcd")}
    everything = measure(factors, 2, 3)
    two = measure({name: factors[name] for name in "bd"}, 2, 3)
    (row,) = [row for row in everything["pairs"] if (row["a"], row["b"]) == ("b", "d")]
    assert flat(row) == pytest.approx(flat(two["pairs"][0]), abs=1e-10)
    some = measure_module("layers.0.q", factors, [2, 3], pairs=[("b", "d"), ("a", "c")], draws=4)
    assert [(row["a"], row["b"]) for row in some["pairs"]] == [("a", "c"), ("b", "d")]
    assert flat(some["pairs"][1]) == pytest.approx(flat(row), abs=1e-12)


def flat(value):
    """Every number of a row, in order."""
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in flat(value[key])]
    if isinstance(value, list):
        return [number for item in value for number in flat(item)]
    return [value] if isinstance(value, int | float) else []


@pytest.mark.parametrize("kind", KINDS)
def test_householder_only_where_cholesky_loses_digits(kind, monkeypatch):
    factors, calls = [make(15, kind).b, make(16).b], []
    householder = np.linalg.qr
    monkeypatch.setattr(np.linalg, "qr", lambda *arguments: calls.append(1) or householder(*arguments))
    side = stacks.side(factors)
    assert len(calls) == (kind in ("deficient", "cancelling", "skewed"))
    for basis, coefficients, triangle, factor in zip(
        side.bases, side.coefficients, side.triangles, factors, strict=True
    ):
        orthonormal = basis @ coefficients
        np.testing.assert_allclose(orthonormal.T @ orthonormal, np.eye(RANK), atol=6e-11 if kind == "bent" else 1e-12)
        np.testing.assert_allclose(orthonormal @ triangle, factor, atol=1e-12 * abs(factor).max())


@pytest.mark.parametrize("condition", [1, 100, 450])
@pytest.mark.parametrize("degrees", [1e-9, 1e-6, 1e-3, 5e-3, 0.1, 0.57, 0.58, 1, 45, 89.9999])
def test_a_small_angle_between_two_deltas_keeps_its_digits(degrees, condition):
    """From the products of the factors alone the angle 1e-6 degrees would be lost in their rounding."""
    rng, t = np.random.default_rng(17), np.radians(degrees)
    q, v = np.linalg.qr(rng.normal(size=(D_OUT, 5)))[0], rng.normal(size=(4, D_IN))
    turned = q[:, :4].copy()
    turned[:, 3] = np.cos(t) * q[:, 3] + np.sin(t) * q[:, 4]
    out, into = (np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(2))
    g = out * np.geomspace(1, 1 / condition, 4) @ into
    row = pair(Factors(q[:, :4] @ g, np.linalg.solve(g, v), 1.0), Factors(turned @ g, np.linalg.solve(g, v), 1.0), 4)
    assert row["left_angles"][:3] == pytest.approx([0, 0, 0], abs=1e-6)
    assert row["left_angles"][3] == pytest.approx(degrees, rel=1e-9, abs=1e-6)
    if condition == 1:
        assert row["left_angles"][3] == pytest.approx(degrees, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_and_an_adapter_of_one_delta_are_one(kind):
    a, b = blend(18, kind, "plain")
    factored = pair(a, b)
    for first, second in ((Dense(dense(a)), b), (a, Dense(dense(b))), (Dense(dense(a)), Dense(dense(b)))):
        row = pair(first, second)
        if kind != "repeated":
            assert_same(row, factored)
        assert row["inner"] == pytest.approx(factored["inner"], rel=1e-9)
        assert row["chance"]["own"] is row["chance"]["cosine_sd_own"] is row["chance"]["own_v1_overlap"] is None
    same = pair(Dense(dense(a)), a)
    assert same["orthogonal_fraction"] < 1e-9
    assert same["cosine"] == pytest.approx(1)
    assert measure({"a": Dense(0 * dense(a)), "b": b}, 3)["pairs"][0]["reason"] == "zero delta"
    with pytest.raises(UserError, match="differ in the shape"):
        pair(Dense(np.eye(3)), b)
