"""What a delta does to the base's spectrum, against full SVDs, numbers by hand, and laws."""

import json
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltageom.deltas.delta import Dense, Factors
from deltageom.errors import UserError
from deltageom.geometry import against_base as against
from deltageom.geometry import base_spectrum as spectra
from deltageom.geometry.against_base import against_base, intruders, unchanged_bf16
from deltageom.geometry.base_spectrum import BaseSpectrum, base_spectrum

LARGE = (600, 400)  # above the smaller side that the fixture leaves to LAPACK


@pytest.fixture
def iterated(monkeypatch):
    """Lets LAPACK do nothing but what is smaller than LARGE, as 512 does for a real model."""
    monkeypatch.setattr(spectra, "DENSE", 32)
    monkeypatch.setattr(against, "DENSE", 32)


def orthonormal(rng, d, n):
    return np.linalg.qr(rng.normal(size=(d, n)))[0]


@cache
def slow(seed=0, shape=LARGE):
    """Singular values i^-0.5 and noise: they decay as slowly as a model's weights'."""
    rng = np.random.default_rng(seed)
    n = min(shape)
    weight = (orthonormal(rng, shape[0], n) * np.arange(1, n + 1) ** -0.5) @ orthonormal(rng, shape[1], n).T
    weight += 1e-3 * rng.normal(size=shape)
    weight.setflags(write=False)
    return weight


def lora(seed, shape, rank=8, scale=1.0):
    rng = np.random.default_rng(seed)
    b, a = rng.normal(size=(shape[0], rank)), rng.normal(size=(rank, shape[1]))
    return Factors(b / np.linalg.norm(b, 2), a / np.linalg.norm(a, 2), scale)


def dense(factors):
    return factors.scale * (factors.b @ factors.a)


def outer(u, v, scale):
    """The rank-one delta scale * u v^T."""
    return Factors(u[:, None], v[None], scale)


def axis(d, i):
    return np.eye(d)[i]


def diagonal(d_out=12, d_in=9, largest=9.0):
    """Singular values 9, 8, ... 1 along the axes."""
    weight = np.zeros((d_out, d_in))
    np.fill_diagonal(weight, largest - np.arange(d_in))
    return weight


def measure(weight, delta, *top_ks, rank=64):
    return against_base(weight, base_spectrum(weight, rank), delta, top_ks)


def values(found, name):
    return [row["value"] for row in found[name]]


def by_full_svd(weight, step, *top_ks):
    """Each measure from full SVDs of W and W + dW alone, by the papers' definitions, for each k."""
    old, new = (np.linalg.svd(matrix, full_matrices=False) for matrix in (weight, weight + step))
    return [at_k(step, *old, *new[:2], k) for k in top_ks]


def at_k(step, u, sigma, vt, u_new, sigma_new, k):
    projected = (u[:, :k] @ u[:, :k].T @ step, step @ vt[:k].T @ vt[:k])
    energies = [np.square(p).sum() / np.square(step).sum() for p in projected]
    drift = np.sqrt(np.square(sigma_new[:k] - sigma[:k]).sum() / np.square(sigma[:k]).sum())
    count = sum(max(abs(u_new[:, i] @ u[:, j]) for j in range(sigma.size)) < 0.5 for i in range(k))
    return *energies, drift, count


@pytest.mark.parametrize("shape", [LARGE, LARGE[::-1]])
@pytest.mark.usefixtures("iterated")
def test_the_iteration_finds_lapacks_triplets(shape):
    weight = slow(shape=shape)
    found = base_spectrum(weight, 64)
    u, sigma, vt = np.linalg.svd(weight, full_matrices=False)
    assert not found.exact
    assert (found.u.shape, found.sigma.shape, found.v.shape) == ((shape[0], 64), (64,), (shape[1], 64))
    assert found.sigma == pytest.approx(sigma[:64], rel=1e-12)
    assert np.abs((found.u * u[:, :64]).sum(0)) == pytest.approx(np.ones(64), abs=1e-9)
    assert np.abs((found.v.T * vt[:64]).sum(1)) == pytest.approx(np.ones(64), abs=1e-9)
    assert found.frobenius == pytest.approx(np.sqrt((sigma**2).sum()), rel=1e-12)


@pytest.mark.usefixtures("iterated")
def test_the_residual_is_the_larger_of_both_sides_and_is_kept_where_steps_do_not_do(monkeypatch):
    weight = slow()
    assert 0 < base_spectrum(weight, 64).residual <= 1e-8
    monkeypatch.setattr(spectra, "STEPS", 2)
    found = base_spectrum(weight, 64)
    right = np.linalg.norm(weight @ found.v - found.u * found.sigma, axis=0).max()
    left = np.linalg.norm(weight.T @ found.u - found.v * found.sigma, axis=0).max()
    assert found.residual == pytest.approx(max(left, right) / found.sigma[0], rel=1e-6)
    assert found.residual > 1e-4


def test_the_residual_sees_a_fault_on_either_side():
    weight = diagonal()
    u, v = np.eye(12)[:, :9], np.eye(9)
    for ends in ((u, v[:, [1, 0, *range(2, 9)]]), (u[:, [1, 0, *range(2, 9)]], v)):
        found = spectra.relative_residual(
            weight.__matmul__, weight.T.__matmul__, ends[0], np.arange(9.0, 0, -1), ends[1]
        )
        assert found == pytest.approx(np.hypot(9, 9) / 9)
    u_only = spectra.relative_residual(weight.__matmul__, weight.T.__matmul__, u[:, :1], np.array([9.5]), v[:, :1])
    assert u_only == pytest.approx(0.5 / 9.5)


def test_a_small_weight_is_done_whole():
    weight = slow(1, (40, 25))
    found = base_spectrum(weight, 7)
    assert found.exact
    assert found.sigma.size == 25
    assert (found.u * found.sigma) @ found.v.T == pytest.approx(weight, abs=1e-13)
    assert found.residual < 1e-13


@pytest.mark.usefixtures("iterated")
def test_a_rank_near_the_smaller_side_is_done_whole():
    assert base_spectrum(slow(shape=(120, 80)), 20).exact
    assert not base_spectrum(slow(shape=(120, 80)), 19).exact


@pytest.mark.parametrize("rank", [0, 1, 20])
@pytest.mark.usefixtures("iterated")
def test_a_weight_of_low_rank_has_zeros_for_the_rest(rank):
    rng = np.random.default_rng(3)
    weight = orthonormal(rng, 600, 20)[:, :rank] @ rng.normal(size=(rank, 400))
    found = base_spectrum(weight, 30)
    assert found.sigma == pytest.approx(np.linalg.svd(weight, compute_uv=False)[:30], abs=1e-12)
    assert found.residual <= 1e-8
    assert found.u.T @ found.u == pytest.approx(np.eye(30), abs=1e-10)
    assert found.v.T @ found.v == pytest.approx(np.eye(30), abs=1e-10)


@pytest.mark.usefixtures("iterated")
def test_equal_singular_values_are_found_as_often_as_they_occur():
    weight = np.zeros(LARGE)
    np.fill_diagonal(weight, np.repeat(np.arange(20.0, 0, -1), 20))
    assert base_spectrum(weight, 50).sigma == pytest.approx(np.diag(weight)[:50], rel=1e-12)


@pytest.mark.usefixtures("iterated")
def test_a_basis_that_is_full_is_cut_back(monkeypatch):
    """Gaussian weights: no gap anywhere, so that many steps are needed."""
    weight = np.random.default_rng(5).normal(size=LARGE)
    widths = []
    plain = spectra._orthonormal_beyond
    monkeypatch.setattr(
        spectra, "_orthonormal_beyond", lambda basis, block: widths.append(basis.shape[1]) or plain(basis, block)
    )
    found = base_spectrum(weight, 10)
    assert any(later < earlier for earlier, later in pairwise(widths))
    assert max(widths) <= 26 + 4 * 26
    assert found.sigma == pytest.approx(np.linalg.svd(weight, compute_uv=False)[:10], rel=1e-12)
    assert found.residual <= 1e-8


@pytest.mark.usefixtures("iterated")
def test_the_same_seed_gives_the_same_spectrum():
    weight = slow()
    one, two = base_spectrum(weight, 20), base_spectrum(weight, 20)
    other = base_spectrum(weight, 20, seed=1)
    for name in ("u", "sigma", "v"):
        assert (getattr(one, name) == getattr(two, name)).all()
    assert (one.v != other.v).any()
    assert other.sigma == pytest.approx(one.sigma, rel=1e-12)
    delta = lora(0, LARGE)
    assert against_base(weight, one, delta, [5]) == against_base(weight, two, delta, [5])


@pytest.mark.parametrize("kind", ["factors", "dense"])
@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0, 20.0])
@pytest.mark.usefixtures("iterated")
def test_the_measures_agree_with_full_svds(size, kind):
    weight, factors = slow(), lora(1, LARGE, scale=size)
    delta = Dense(dense(factors)) if kind == "dense" else factors
    found = measure(weight, delta, 1, 5, 10)
    for i, (output, into, drift, count) in enumerate(by_full_svd(weight, dense(factors), 1, 5, 10)):
        assert values(found, "output_energy")[i] == pytest.approx(output, rel=1e-8)
        assert values(found, "input_energy")[i] == pytest.approx(into, rel=1e-8)
        assert values(found, "spectral_drift")[i] == pytest.approx(drift, rel=1e-8)
        assert values(found, "intruders")[i] == count
    assert found["spectral_residual"] <= 1e-8


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("iterated")
def test_a_tiny_drift_is_right_to_six_digits(seed):
    """A drift of about 1e-7 in 1 / 30 of the values: the sizes that a small learning rate leaves."""
    weight = slow(seed)
    for size in (1e-5, 1e-3):
        delta = lora(seed, LARGE, scale=size)
        (found,) = values(measure(weight, delta, 10), "spectral_drift")
        assert found < 0.1 * size
        assert found == pytest.approx(by_full_svd(weight, dense(delta), 10)[0][2], rel=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.usefixtures("iterated")
def test_a_delta_that_turns_the_leading_vectors_out_is_followed(sign):
    """All that the warm start holds of W is removed; the new leaders lie among directions it has never seen."""
    weight = slow()
    u, sigma, vt = np.linalg.svd(weight, full_matrices=False)
    removed = Factors(u[:, :30] * sigma[:30], vt[:30], -1.0 if sign < 0 else 2.0)
    for delta in (removed, Dense(dense(removed))):
        (drift,) = values(measure(weight, delta, 10, rank=40), "spectral_drift")
        assert drift == pytest.approx(by_full_svd(weight, dense(removed), 10)[0][2], rel=1e-8)


@pytest.mark.usefixtures("iterated")
def test_leaders_orthogonal_to_all_that_the_warm_start_spans_are_found():
    """W along the axes; dW takes its first 30 away, and W + dW is zero on these and on dW's own directions."""
    weight = np.zeros(LARGE)
    np.fill_diagonal(weight, np.arange(1, 401) ** -0.5)
    delta = Factors(-weight[:, :30], np.eye(400)[:30], 1.0)
    known = BaseSpectrum(np.eye(600)[:, :64], np.diag(weight)[:64], np.eye(400)[:, :64], 0.0, 1.0, False)
    (drift,) = values(against_base(weight, known, delta, [10]), "spectral_drift")
    assert drift == pytest.approx(by_full_svd(weight, dense(delta), 10)[0][2], rel=1e-8)


@pytest.mark.usefixtures("iterated")
@pytest.mark.parametrize(("size", "steps"), [(1e-4, 4), (10.0, 3)])
def test_a_warm_start_needs_few_steps(size, steps, monkeypatch):
    """Of a large delta the leading directions are at hand, of a small one W's."""
    spectrum = base_spectrum(slow(), 64)
    monkeypatch.setattr(spectra, "STEPS", steps)
    found = against_base(slow(), spectrum, lora(1, LARGE, rank=64, scale=size), [10])
    assert found["spectral_residual"] <= 1e-8


@pytest.mark.usefixtures("iterated")
def test_the_iteration_ends_when_the_residual_allows(monkeypatch):
    steps = []
    plain = spectra._orthonormal_beyond
    monkeypatch.setattr(spectra, "_orthonormal_beyond", lambda *given: steps.append(1) or plain(*given))
    base_spectrum(slow(), 20)
    assert 3 < len(steps) < 15


@pytest.mark.usefixtures("iterated")
def test_a_dense_delta_of_full_rank_agrees_with_full_svds():
    weight = slow()
    step = 0.02 * np.random.default_rng(8).normal(size=LARGE)
    found = measure(weight, Dense(step), 10)
    ((output, into, drift, count),) = by_full_svd(weight, step, 10)
    assert values(found, "output_energy") == pytest.approx([output], rel=1e-9)
    assert values(found, "input_energy") == pytest.approx([into], rel=1e-9)
    assert values(found, "spectral_drift") == pytest.approx([drift], rel=1e-9)
    assert values(found, "intruders") == [count]


def test_a_rank_one_delta_along_a_singular_pair_by_hand():
    """W = diag(9, 8, 7, ...) + 1.5 u_3 v_3^T: all energy in the third direction, whose value becomes the second."""
    found = measure(diagonal(), outer(axis(12, 2), axis(9, 2), 1.5), 1, 2, 3, 4)
    for side in ("output_energy", "input_energy"):
        assert values(found, side) == pytest.approx([0, 0, 1, 1], abs=1e-14)
    moved = np.sqrt([0, 0.5**2, 0.5**2 + 1**2, 0.5**2 + 1**2])  # 9, 8, 7, 6 become 9, 8.5, 8, 6
    assert values(found, "spectral_drift") == pytest.approx(moved / np.sqrt([81, 145, 194, 230]), abs=1e-14)
    assert values(found, "intruders") == [0, 0, 0, 0]
    assert found["spectral_residual"] < 1e-14


def test_left_is_the_output_side_and_right_the_input_side():
    """dW writes along u_1 and reads along v_9, and the other way round."""
    found = measure(diagonal(), outer(axis(12, 0), axis(9, 8), 0.1), 3)
    assert (*values(found, "output_energy"), *values(found, "input_energy")) == pytest.approx((1, 0), abs=1e-14)
    found = measure(diagonal(), outer(axis(12, 8), axis(9, 0), 0.1), 3)
    assert (*values(found, "output_energy"), *values(found, "input_energy")) == pytest.approx((0, 1), abs=1e-14)
    assert [found[side][0]["chance"] for side in ("output_energy", "input_energy")] == [3 / 12, 3 / 9]


def test_chance_is_what_isotropic_deltas_have_on_average():
    weight, rng = diagonal(), np.random.default_rng(0)
    spectrum = base_spectrum(weight)
    drawn = [against_base(weight, spectrum, Dense(rng.normal(size=weight.shape)), [3]) for _ in range(300)]
    for side in ("output_energy", "input_energy"):
        of_side = [found[side][0]["value"] for found in drawn]
        assert np.mean(of_side) == pytest.approx(drawn[0][side][0]["chance"], abs=5 * np.std(of_side) / np.sqrt(300))


def test_a_large_delta_outside_the_base_is_one_intruder_and_a_small_one_none():
    """u = e_10 is no singular vector of W. The ninth column becomes (0, ..., 1, scale, 0, 0)."""
    for scale, counts, drift in ((20.0, [1, 1], (np.hypot(1, 20) - 9) / 9), (5.0, [0, 0], 0), (0.1, [0, 0], 0)):
        found = measure(diagonal(), outer(axis(12, 9), axis(9, 8), scale), 1, 3)
        assert values(found, "intruders") == counts
        assert all(row["certain"] for row in found["intruders"])
        assert values(found, "spectral_drift")[0] == pytest.approx(drift, abs=1e-12)


def test_the_threshold_is_one_half_of_the_absolute_cosine():
    spectrum = base_spectrum(diagonal())
    for cosine, count in ((0.49, 1), (-0.49, 1), (0.51, 0), (-0.51, 0)):
        u = cosine * axis(12, 4) + np.sqrt(1 - cosine**2) * axis(12, 11)
        assert intruders(spectrum, u[:, None]) == {"value": count, "certain": True}


def test_intruders_are_certain_where_the_unknown_vectors_cannot_matter():
    """Known: e_1 to e_4. A vector's part outside them may lie along an unknown one of the base."""
    known = BaseSpectrum(np.eye(12)[:, :4], np.arange(4.0, 0, -1), np.eye(9)[:, :4], 0.0, 9.0, False)
    spread = np.full(4, np.sqrt((1 - 0.49**2) / 4))  # cosines 0.436 with each known vector
    for inside, outside, expected in (
        (spread, 0.49, {"value": 1, "certain": True}),
        (spread * np.sqrt((1 - 0.51**2) / (1 - 0.49**2)), 0.51, {"value": 1, "certain": False}),
        (np.array([0.6, 0, 0, 0]), 0.8, {"value": 0, "certain": True}),
        (np.zeros(4), 1.0, {"value": 1, "certain": False}),
    ):
        u = np.concatenate([inside, np.zeros(8)]) + outside * axis(12, 7)
        assert np.linalg.norm(u) == pytest.approx(1)
        assert intruders(known, u[:, None]) == expected
    both = np.column_stack([axis(12, 0), axis(12, 7)])
    assert intruders(known, both) == {"value": 1, "certain": False}


@pytest.mark.usefixtures("iterated")
def test_one_known_too_few_makes_an_upper_bound():
    """dW lifts W's 60th direction to the top: no intruder among all, one among the 20 known, and it says so."""
    weight = slow()
    u, _, vt = np.linalg.svd(weight, full_matrices=False)
    delta = outer(u[:, 59], vt[59], 3.0)
    few, many = (measure(weight, delta, 5, rank=rank)["intruders"][0] for rank in (20, 64))
    assert (few["value"], few["certain"]) == (1, False)
    assert (many["value"], many["certain"]) == (0, True)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(5, 14), st.integers(5, 14), st.integers(1, 4))
def test_laws(seed, d_out, d_in, rank):
    """In one scale of W and dW, and in other orthonormal bases of both sides, all is the same."""
    rng = np.random.default_rng(seed)
    weight, delta = rng.normal(size=(d_out, d_in)), lora(seed, (d_out, d_in), rank, 2.0)
    top_ks = [1, 3, 20]
    found = measure(weight, delta, *top_ks)
    left, right = orthonormal(rng, d_out, d_out), orthonormal(rng, d_in, d_in)
    for other in (
        measure(-4 * weight, Factors(delta.b, delta.a, -4 * delta.scale), *top_ks),
        measure(left @ weight @ right.T, Factors(left @ delta.b, delta.a @ right.T, delta.scale), *top_ks),
        measure(weight.T, Factors(delta.a.T, delta.b.T, delta.scale), *top_ks)
        | {"output_energy": found["output_energy"], "input_energy": found["input_energy"]},
        measure(weight, Dense(dense(delta)), *top_ks),
    ):
        for name in ("output_energy", "input_energy", "spectral_drift"):
            assert values(other, name) == pytest.approx(values(found, name), rel=1e-7, abs=1e-10)
    transposed = measure(weight.T, Factors(delta.a.T, delta.b.T, delta.scale), *top_ks)
    assert values(transposed, "output_energy") == pytest.approx(values(found, "input_energy"), rel=1e-7, abs=1e-10)
    for side, d in (("output_energy", d_out), ("input_energy", d_in)):
        shares = values(found, side)
        assert 0 <= shares[0] <= shares[1] <= shares[2] <= 1
        if d <= min(d_out, d_in):  # W's vectors span the whole of the narrow side
            assert shares[2] == pytest.approx(1, abs=1e-12)
    assert found["spectral_drift"][2]["k"] == min(d_out, d_in)


def test_an_orthogonal_change_of_basis_keeps_the_intruders():
    rng = np.random.default_rng(2)
    left, right = orthonormal(rng, 12, 12), orthonormal(rng, 9, 9)
    weight, delta = left @ diagonal() @ right.T, outer(left[:, 9], right[:, 8], 20.0)
    assert values(measure(weight, delta, 3), "intruders") == [1]


@pytest.mark.parametrize("kind", ["factors", "cancelling", "dense"])
def test_a_zero_delta_changes_nothing_and_has_no_energies(kind):
    weight = slow(0, (30, 20))
    zero = lora(0, (30, 20))
    delta = {
        "factors": Factors(0 * zero.b, zero.a, 1.0),
        "cancelling": Factors(np.hstack([zero.b, zero.b]), np.vstack([zero.a, -zero.a]), 1.0),
        "dense": Dense(np.zeros((30, 20))),
    }[kind]
    found = measure(weight, delta, 2, 5)
    assert values(found, "output_energy") == values(found, "input_energy") == [None, None]
    assert values(found, "spectral_drift") == [0.0, 0.0]
    assert values(found, "intruders") == [0, 0]
    assert found["unchanged_bf16"] == 1.0
    assert found["output_energy"][1] == {"top_k": 5, "k": 5, "value": None, "chance": 5 / 30}


def test_a_rank_deficient_delta_is_measured_by_its_product():
    weight, delta = slow(0, (30, 20)), lora(0, (30, 20), 3)
    repeated = Factors(np.hstack([delta.b, delta.b]), np.vstack([delta.a, delta.a]), 0.5)
    for name in ("output_energy", "input_energy", "spectral_drift"):
        one, two = (values(measure(weight, d, 2, 5), name) for d in (delta, repeated))
        assert two == pytest.approx(one, rel=1e-10)


def test_a_base_of_zeros_has_no_relative_drift():
    found = measure(np.zeros((8, 6)), lora(0, (8, 6), 2), 2)
    assert values(found, "spectral_drift") == [None]


@pytest.mark.usefixtures("iterated")
def test_a_record_is_json_of_all_keys_for_each_k_in_order():
    found = measure(slow(), lora(0, LARGE), 10, 1)
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {
        "input_energy", "output_energy", "spectral_drift", "intruders", "unchanged_bf16", "spectral_residual"
    }  # fmt: skip
    for name in ("input_energy", "output_energy", "spectral_drift", "intruders"):
        assert [(row["top_k"], row["k"]) for row in found[name]] == [(1, 1), (10, 10)]


def torch_unchanged(weight, step):
    before, after = torch.from_numpy(weight), torch.from_numpy(weight + step)
    return (before.to(torch.bfloat16) == after.to(torch.bfloat16)).double().mean().item()


@pytest.mark.parametrize("size", [0, 1e-7, 1e-4, 1e-3, 1e-2, 1])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_unchanged_weights_are_those_that_torch_rounds_to_the_same(size, stored, monkeypatch):
    monkeypatch.setattr(against, "BLOCK", 1000)  # blocks of 14 rows, the last of 4
    rng = np.random.default_rng(0)
    weight = torch.from_numpy(0.02 * rng.normal(size=(60, 70))).to(stored).double().numpy()
    delta = lora(0, weight.shape, scale=size)
    expected = torch_unchanged(weight, dense(delta))
    assert unchanged_bf16(weight, delta) == unchanged_bf16(weight, Dense(dense(delta))) == expected
    assert {0: expected == 1, 1: expected < 0.8}.get(size, True)


def test_ties_go_to_the_even_neighbour():
    """Half way from 1 to 1 + 2^-7 is back to 1; half way from there to 1 + 2^-6 is on to that."""
    weight, step = np.array([[1, 1 + 2**-7, -1, 1, 1]]), np.array([[2**-8, 2**-8, -(2**-8), 2**-8 + 2**-20, 2**-9]])
    assert unchanged_bf16(weight, Dense(step)) == torch_unchanged(weight, step) == 3 / 5


def test_a_weight_of_minus_zero_counts_as_unchanged():
    assert unchanged_bf16(np.array([[-0.0, 1.0]]), Dense(np.array([[0.0, 1.0]]))) == 0.5


@pytest.mark.usefixtures("iterated")
def test_mistakes_are_told():
    weight = slow()
    spectrum = base_spectrum(weight, 20)
    with pytest.raises(UserError, match="top_k 21 is above the 20 triplets"):
        against_base(weight, spectrum, lora(0, LARGE), [5, 21])
    for top_ks in ([], [0]):
        with pytest.raises(UserError, match="top_k must be"):
            against_base(weight, spectrum, lora(0, LARGE), top_ks)
    for delta in (lora(0, (600, 399)), Dense(weight[1:])):
        with pytest.raises(UserError, match=r"weight is \(600, 400\)"):
            against_base(weight, spectrum, delta, [5])
    with pytest.raises(UserError, match="rank must be"):
        base_spectrum(weight, 0)
    with pytest.raises(UserError, match="finite"):
        base_spectrum(np.array([[1.0, np.nan]]))
    with pytest.raises(UserError, match="finite"):
        base_spectrum(np.ones(3))
