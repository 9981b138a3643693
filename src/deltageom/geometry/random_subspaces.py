"""What chance gives two independent subspaces, each uniform (Haar) among the k-dimensional ones of R^d.

The squared cosines of their principal angles are the eigenvalues of a matrix-variate Beta(k/2, (d - k)/2)
(Muirhead 1982, theorem 3.3.3; Absil, Edelman and Koev 2006), so no vector of R^d is ever formed.
"""

from functools import cache
from math import exp, lgamma, pi, sqrt

import numpy as np

from deltageom.geometry.factored import Array, rough_cosines

ANGLES = ("smallest", "median", "largest")
DRAWS = 2000  # of every number that chance gives and no formula does
SEED = 1789


def angles(d: int, k: int, draws: int = DRAWS, seed: int = SEED) -> dict[str, Array]:
    """smallest, median and largest principal angle (degrees) and overlap (mean cos^2), each (draws,), read-only.

    Raises ValueError unless 1 <= k <= d.
    """
    if not 1 <= k <= d:
        raise ValueError(f"no subspace of dimension {k} in {d} dimensions")
    return _angles(d, k, draws, seed)


@cache  # which tells a default that is given from one that is not
def _angles(d: int, k: int, draws: int, seed: int) -> dict[str, Array]:
    rng = np.random.default_rng([seed, d, k])
    # One subspace is fixed as the first k axes; the other is the span of a Gaussian (d, k) matrix, its first k rows
    # `inside`, the others `outside`, which enter through their Gram matrix alone.
    inside = rng.standard_normal((draws, k, k))
    outside = wishart_root(rng, d - k, k, draws)
    gram = _gram(inside) + _gram(outside)
    inside = inside @ np.linalg.inv(np.linalg.cholesky(gram)).transpose(0, 2, 1)
    cosines = rough_cosines(inside)
    cosines[:, : max(0, 2 * k - d)] = 1.0  # so many dimensions are shared whatever is drawn
    found = summaries(cosines)
    for values in found.values():
        values.flags.writeable = False  # every caller gets these very arrays
    return found


def wishart_root(rng: np.random.Generator, freedom: int, k: int, draws: int) -> Array:
    """(draws, min(freedom, k), k): R of the QR decomposition of Gaussian matrices (freedom, k), so that R^T R is
    Wishart_k(freedom) distributed.

    Bartlett's decomposition: chi variables of freedom, freedom - 1, ... on the diagonal, normal ones above it.
    """
    diagonal = np.arange(min(freedom, k))
    roots = rng.standard_normal((draws, diagonal.size, k)) * np.triu(np.ones((diagonal.size, k)))
    roots[:, diagonal, diagonal] = np.sqrt(rng.chisquare(freedom - diagonal, (draws, diagonal.size)))
    return roots


def summaries(cosines: Array) -> dict[str, Array]:
    """smallest, median and largest angle (degrees) and overlap (mean cos^2), each (...,), from the cosines of
    principal angles, descending, (..., k)."""
    k = cosines.shape[-1]
    smallest, below, above, largest = np.degrees(np.arccos([cosines[..., i] for i in (0, (k - 1) // 2, k // 2, k - 1)]))
    return {
        "smallest": smallest,
        "median": (below + above) / 2,
        "largest": largest,
        "overlap": (cosines**2).mean(-1),
    }


def _gram(x: Array) -> Array:
    product: Array = x.transpose(0, 2, 1) @ x
    return product


@cache
def median_angles(modules: tuple[tuple[int, int, int], ...], draws: int = DRAWS, seed: int = SEED) -> dict[str, Array]:
    """Draws of the medians over independent modules: `angles` without overlap, each (draws,).

    modules: (d, k, how many modules are alike). Alike modules take the same draws in other orders, so a mean is off
    by up to about sqrt(modules / draws) standard deviations of such a median.
    """
    rng = np.random.default_rng([seed, 0])
    found = {}
    for which in ANGLES:
        rows = [np.tile(angles(d, k, draws, seed)[which], (count, 1)) for d, k, count in modules]
        found[which] = np.median(np.vstack([rng.permuted(row, axis=1) for row in rows]), axis=0)
    return found


def overlap_mean(d: int, k: int) -> float:
    """E of the overlap of two independent subspaces, exact."""
    return k / d


def overlap_sd(d: int, k: int) -> float:
    """Standard deviation of the overlap of two independent subspaces, exact.

    The projectors less their traces are symmetric traceless matrices, a space of (d - 1)(d + 2)/2 dimensions on which
    rotations act irreducibly: the squared inner product is |P|^2 |P'|^2 over that dimension, |P|^2 = k (d - k)/d.
    """
    return 0.0 if d == k else (d - k) / d * sqrt(2 / ((d - 1) * (d + 2)))


def first_vector_mean(d: int) -> float:
    """E |<u, u'>| of independent unit vectors of R^d, exact: Gamma(d/2) / (sqrt(pi) Gamma((d + 1)/2))."""
    return exp(lgamma(d / 2) - lgamma((d + 1) / 2)) / sqrt(pi)


def first_vector_sd(d: int) -> float:
    """Standard deviation of |<u, u'>|, exact, for E <u, u'>^2 = 1/d."""
    return 0.0 if d == 1 else sqrt(1 / d - first_vector_mean(d) ** 2)
