"""Angles of random subspaces against the QR decomposition of Gaussian matrices, and closed forms."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from deltageom.geometry import random_subspaces
from deltageom.geometry.random_subspaces import angles, median_angles


def drawn(d, k, draws, seed=0):
    """Cosines (draws, k), descending, of two spans of Gaussian (d, k) matrices."""
    rng = np.random.default_rng(seed)
    a, b = (np.linalg.qr(rng.standard_normal((draws, d, k)))[0] for _ in range(2))
    return np.clip(np.linalg.svd(a.transpose(0, 2, 1) @ b, compute_uv=False), 0, 1)


@pytest.mark.parametrize(("d", "k"), [(12, 3), (9, 1), (7, 5), (8, 4), (60, 6)])  # (7, 5): fewer rows outside than k
def test_angles_are_distributed_as_those_of_gaussian_spans(d, k):
    cosines = drawn(d, k, 3000)
    degrees = np.degrees(np.arccos(cosines))
    expected = {
        "smallest": degrees[:, 0],
        "median": np.median(degrees, axis=1),
        "largest": degrees[:, -1],
        "overlap": (cosines**2).mean(1),
    }
    found = angles(d, k, 3000, seed=1)
    assert set(found) == set(expected)
    for name, values in expected.items():
        values = np.where(values < 1e-5, 0, values)  # arccos near 1
        assert found[name].shape == (3000,)
        assert ks_2samp(found[name], values).pvalue > 1e-3, name


def test_the_published_level():
    """arXiv 2606.23740: random 10-dimensional subspaces of R^2560 give 80-85 degrees, and 89.6-89.8 at worst."""
    found = angles(2560, 10)
    assert 80 < found["smallest"].mean() < 85
    assert 89.6 < found["largest"].mean() < 89.8
    assert found["smallest"].shape == (random_subspaces.DRAWS,)


@pytest.mark.parametrize(("d", "k"), [(12, 3), (2, 1), (7, 5), (2560, 10)])
def test_overlap_has_the_exact_moments(d, k):
    draws = angles(d, k, 8000)["overlap"]
    sd = random_subspaces.overlap_sd(d, k)
    assert random_subspaces.overlap_mean(d, k) == k / d
    assert draws.mean() == pytest.approx(k / d, abs=4 * sd / np.sqrt(8000))
    assert draws.std() == pytest.approx(sd, rel=0.04)


def test_overlap_of_lines_is_a_beta_variable():
    for d in (2, 3, 50):  # Beta(1/2, (d - 1)/2)
        assert random_subspaces.overlap_sd(d, 1) ** 2 == pytest.approx(2 * (d - 1) / (d**2 * (d + 2)))


def test_the_whole_space_shares_everything():
    found = angles(4, 4)
    assert found["smallest"].tolist() == found["largest"].tolist() == [0.0] * random_subspaces.DRAWS
    assert set(found["overlap"].tolist()) == {1.0}
    assert random_subspaces.overlap_sd(4, 4) == 0 == random_subspaces.overlap_sd(1, 1)


def test_draws_are_fixed_by_their_arguments_and_nobody_can_change_them():
    found = angles(20, 3)
    assert angles(20, 3)["median"] is found["median"]
    assert not np.array_equal(angles(20, 3, seed=5)["median"], found["median"])
    with pytest.raises(ValueError, match="read-only"):
        found["median"][0] = 0
    for k in (0, 21):
        with pytest.raises(ValueError, match=f"dimension {k} in 20"):
            angles(20, k)


@pytest.mark.parametrize("d", [1, 2, 3, 40, 2560])
def test_first_vectors(d):
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((4000, d))
    found = abs(vectors[:, 0]) / np.linalg.norm(vectors, axis=1)
    mean, sd = random_subspaces.first_vector_mean(d), random_subspaces.first_vector_sd(d)
    assert found.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(4000) + 1e-12)
    assert found.std() == pytest.approx(sd, rel=0.06, abs=1e-12)
    if d > 1:
        assert mean**2 + sd**2 == pytest.approx(1 / d)


def test_first_vectors_in_closed_form():
    assert random_subspaces.first_vector_mean(1) == pytest.approx(1)
    assert random_subspaces.first_vector_mean(2) == pytest.approx(2 / np.pi)  # E |cos| over the circle
    assert random_subspaces.first_vector_mean(3) == pytest.approx(1 / 2)  # Archimedes: |z| is uniform
    assert random_subspaces.first_vector_mean(10**6) == pytest.approx(np.sqrt(2 / np.pi / 10**6), rel=1e-5)
    assert random_subspaces.first_vector_sd(1) == 0


def test_medians_over_modules_take_the_draws_that_single_modules_have():
    random_subspaces.median_angles(((13, 3, 2),))
    before = random_subspaces._angles.cache_info().misses
    random_subspaces.angles(13, 3)
    assert random_subspaces._angles.cache_info().misses == before


def test_medians_over_modules():
    """Three modules of one kind and two of another, every one drawn anew."""
    degrees = [
        np.degrees(np.arccos(drawn(d, k, 6000, seed))) for seed, (d, k) in enumerate([(12, 3)] * 3 + [(40, 2)] * 2)
    ]
    found = median_angles(((12, 3, 3), (40, 2, 2)), draws=6000)
    of_module = {
        "smallest": [module[:, 0] for module in degrees],
        "median": [np.median(module, axis=1) for module in degrees],
        "largest": [module[:, -1] for module in degrees],
    }
    for which, values in of_module.items():
        expected = np.median(values, axis=0)
        assert found[which].mean() == pytest.approx(expected.mean(), abs=0.06 * expected.std())
        assert found[which].std() == pytest.approx(expected.std(), rel=0.05)
