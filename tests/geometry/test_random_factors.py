"""What chance gives with the runs' own A against dense linear algebra, and in closed form."""

from itertools import combinations

import numpy as np
import pytest
from scipy.linalg import subspace_angles

from deltageom.deltas.delta import Factors
from deltageom.geometry import random_factors, random_subspaces
from deltageom.geometry.module_numbers import measure_module

D_OUT, D_IN, RANK = 30, 22, 6
ANGLES = ("right_smallest", "right_median", "right_largest")


def make(seed, d_out=D_OUT, d_in=D_IN, rank=RANK):
    rng = np.random.default_rng(seed)
    return Factors(rng.normal(size=(d_out, rank)), rng.normal(size=(rank, d_in)), 2.0)


def chance(deltas, *top_ks, module="layers.0.q", draws=random_subspaces.DRAWS, pairs=None):
    """Of each pair, in order."""
    return [row["chance"] for row in measure_module(module, deltas, top_ks, pairs, draws)["pairs"]]


def in_short(found):
    """mean and sd by measure, of the first k."""
    rows = {key: row for key, row in found["own"][0].items() if key != "top_k"} | {"v1": found["own_v1_overlap"]}
    return {key: (row["mean"], row["sd"]) for key, row in rows.items()}


def simulated(a, b, d_out, draws, k):
    """Cosines, and the right side's numbers, of B a and B' b, by dense algebra."""
    rng = np.random.default_rng(19)
    cosines, angles, overlaps = [], [], []
    for _ in range(draws):
        one, other = (rng.normal(size=(d_out, f.shape[0])) @ f for f in (a, b))
        cosines.append((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))
        v, w = (np.linalg.svd(delta)[2][:k].T for delta in (one, other))
        angles.append(np.degrees(subspace_angles(v, w))[::-1])  # Knyazev & Argentati 2002
        overlaps.append(abs(v[:, 0] @ w[:, 0]))
    angles = np.array(angles)
    found = dict(zip(ANGLES, (angles[:, 0], np.median(angles, axis=1), angles[:, -1]), strict=True))
    return np.array(cosines), found | {
        "right_overlap": (np.cos(np.radians(angles)) ** 2).mean(1),
        "v1": np.array(overlaps),
    }


def agree(found, values, draws):
    """A mean and sd from so many draws with other draws, within four standard errors of each."""
    sd, parts = values.std(ddof=1), 1 / draws + 1 / values.size
    assert found[0] == pytest.approx(values.mean(), abs=4 * sd * np.sqrt(parts))
    fourth = (((values - values.mean()) / sd) ** 4).mean()
    assert found[1] == pytest.approx(sd, abs=4 * sd * np.sqrt((fourth - 1) / 4 * parts))


@pytest.mark.parametrize("shape", ["shared", "related", "graded", "unrelated", "few rows", "other rank"])
def test_it_is_what_random_b_give(shape):
    rng = np.random.default_rng(20)
    d_out, k = (3, 2) if shape == "few rows" else (40, 3)
    a = rng.normal(size=(RANK, D_IN))
    b = {
        "shared": a,
        "related": a + 0.3 * rng.normal(size=a.shape),
        "graded": a * np.logspace(0, -2, RANK)[:, None],
        "other rank": a[:4],
    }.get(shape, rng.normal(size=a.shape))
    deltas = {
        name: Factors(rng.normal(size=(d_out, f.shape[0])), f, scale)
        for name, f, scale in (("a", a, 3.0), ("b", b, 1e-9))
    }
    (found,) = chance(deltas, k)
    cosines, expected = simulated(a, b, d_out, 800, k)
    assert found["draws"] == random_subspaces.DRAWS
    assert cosines.std() == pytest.approx(found["cosine_sd_own"], rel=0.15 if shape == "few rows" else 0.1)
    assert found["cosine_sd_fresh"] == pytest.approx(1 / np.sqrt(d_out * D_IN))
    of_runs = in_short(found)
    assert set(of_runs) == set(expected)
    for key, values in expected.items():
        agree(of_runs[key], values, random_subspaces.DRAWS)
    for key in ANGLES:
        quantiles = found["own"][0][key]["quantiles"]
        inner = np.quantile(expected[key], [0.25, 0.5, 0.75], method="hazen")
        assert [quantiles[5], quantiles[7], quantiles[9]] == pytest.approx(inner, abs=0.25 * expected[key].std())


@pytest.mark.parametrize(("rank", "k"), [(6, 2), (12, 1), (7, 3)])
def test_an_isotropic_a_gives_haar_subspaces_of_its_rows(rank, k):
    """A with orthonormal rows that two runs share: closed forms in `rank` dimensions."""
    a = np.linalg.qr(np.random.default_rng(1).normal(size=(D_IN, rank)))[0].T
    runs = {name: Factors(make(i, rank=rank).b, a, 1.0) for i, name in enumerate("ab")}
    found, n = in_short(chance(runs, k)[0]), random_subspaces.DRAWS
    sd = random_subspaces.overlap_sd(rank, k)
    assert found["right_overlap"][0] == pytest.approx(k / rank, abs=4 * sd / np.sqrt(n))
    assert found["right_overlap"][1] == pytest.approx(sd, rel=0.1)
    sd = random_subspaces.first_vector_sd(rank)
    assert found["v1"][0] == pytest.approx(random_subspaces.first_vector_mean(rank), abs=4 * sd / np.sqrt(n))
    assert found["v1"][1] == pytest.approx(sd, rel=0.1)
    for which, draws in random_subspaces.angles(rank, k).items():
        agree(found[f"right_{which}"], draws, n)


def test_as_many_directions_as_a_has_rows_do_not_vary():
    runs = {"a": make(0), "b": make(1)}
    found = in_short(chance(runs, RANK, draws=50)[0])
    angles = np.degrees(subspace_angles(*(run.a.T for run in runs.values())))[::-1]
    assert [found[key][0] for key in ANGLES] == pytest.approx([angles[0], np.median(angles), angles[-1]], abs=1e-5)
    assert max(found[key][1] for key in ANGLES) < 1e-5
    assert found["v1"][1] > 0.01


def test_draws_of_a_pair_are_independent():
    """Means over 20 draws spread by sd / sqrt(20); draws that come of fewer decompositions spread more."""
    a, means, sds = make(0).a, [], []
    for i in range(150):
        runs = {f"{name}{i}": Factors(make(j).b, a, 1.0) for j, name in enumerate("ab")}
        found = in_short(chance(runs, 2, draws=20)[0])
        means.append([center for center, _ in found.values()])
        sds.append([sd for _, sd in found.values()])
    ratio = np.var(means, axis=0, ddof=1) / (np.square(sds).mean(0) / 20)
    assert ratio == pytest.approx(np.ones(5), abs=4 * np.sqrt(2 / 149))


@pytest.mark.parametrize(("d_out", "rank"), [(40, 6), (7, 6), (3, 5)])
def test_random_triangles_are_those_of_gaussian_matrices(d_out, rank):
    """R^T R is G^T G: of mean d_out on the diagonal and 0 beside it; R_ii^2 has d_out - i degrees of freedom."""
    n = 8000
    drawn = random_subspaces.wishart_root(np.random.default_rng(23), d_out, rank, n)
    assert drawn.shape == (n, min(d_out, rank), rank)
    assert not np.tril(drawn, -1).any()
    product = drawn.swapaxes(1, 2) @ drawn
    np.testing.assert_allclose(product.mean(0), d_out * np.eye(rank), atol=5 * np.sqrt(2 * d_out / n))
    freedom = d_out - np.arange(min(d_out, rank))
    squares = np.einsum("nii->ni", drawn[:, :, : min(d_out, rank)]) ** 2
    np.testing.assert_allclose(squares.mean(0), freedom, atol=5 * np.sqrt(2 * d_out / n))
    np.testing.assert_allclose(squares.var(0), 2 * freedom, rtol=0.25)


def test_random_cosines_of_fresh_factors():
    rng = np.random.default_rng(21)
    cosines = []
    for _ in range(3000):
        one, other = (rng.normal(size=(7, 2)) @ rng.normal(size=(2, 5)) for _ in range(2))
        cosines.append((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))
    runs = {name: make(i, d_out=7, d_in=5, rank=2) for i, name in enumerate("ab")}
    assert np.std(cosines) == pytest.approx(chance(runs, 1, draws=2)[0]["cosine_sd_fresh"], rel=0.05)


def test_it_is_the_same_whoever_else_is_there():
    """Others of a higher rank too, which get fewer draws where the draws are few."""
    factors = {name: make(i, rank=rank) for i, (name, rank) in enumerate(zip("abc", (20, 6, 6), strict=True))}
    for draws in (None, 300):
        everything = chance(factors, 2, draws=draws)
        alone = chance({name: factors[name] for name in "cb"}, 2, draws=draws)[0]
        assert numbers(everything[-1]) == pytest.approx(numbers(alone), abs=1e-7)
        assert chance(factors, 2, draws=draws, pairs=[("b", "c")]) == [everything[-1]]
        assert chance(dict(reversed(factors.items())), 2, draws=draws) == everything
    other = chance({name: factors[name] for name in "bc"}, 2, module="layers.1.q")[0]
    assert other["own_v1_overlap"] != pytest.approx(alone["own_v1_overlap"])
    twins = chance({"a": factors["b"], "b": factors["b"]}, 2)[0]
    assert twins["own_v1_overlap"]["mean"] < 0.95  # two runs of one A draw B apart


def test_pairs_of_unlike_ranks_are_what_each_is_alone():
    """Of other k and other numbers of draws, some of them more than are in memory at once."""
    ranks = zip("abcde", (3, 6, 20, 6, 3), strict=True)
    runs = {name: make(i, rank=rank) for i, (name, rank) in enumerate(ranks)}
    for draws in (None, random_factors.AT_ONCE + 20):
        together = chance(runs, 2, 5, 10, draws=draws)
        for pair, found in zip(combinations("abcde", 2), together, strict=True):
            (alone,) = chance({name: runs[name] for name in pair}, 2, 5, 10, draws=draws)
            assert numbers(found) == pytest.approx(numbers(alone), abs=1e-7)


def numbers(value):
    """Every number of a row, in order."""
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in numbers(value[key])]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value]


def test_a_pair_has_as_many_draws_as_its_higher_rank_where_they_are_few():
    runs = {"a": make(0, rank=2), "b": make(1, rank=16), "c": make(2, rank=20)}
    few = [random_factors.few(rank) for rank in (2, 16, 20)]
    assert few == [256, 32, 25]
    assert [found["draws"] for found in chance(runs, 2, draws=None)] == [few[1], few[2], few[2]]
    assert [found["draws"] for found in chance(runs, 2, draws=7)] == [7] * 3
    assert (random_factors.few(1), random_factors.few(1000)) == (512, 8)
