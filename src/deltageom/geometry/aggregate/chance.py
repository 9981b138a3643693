"""Means and standard deviations of what chance gives, for one module and over the modules where a pair is defined.

Arrays are (pairs, modules) with NaN where a pair is undefined; over modules (pairs,). Modules are drawn independently.
"""

from collections import Counter
from functools import cache

import numpy as np
from numpy.typing import NDArray

from deltageom.geometry import quantiles, random_subspaces
from deltageom.geometry.aggregate.arrays import Drawn
from deltageom.geometry.random_subspaces import ANGLES

Array = NDArray[np.float64]
Moments = tuple[Array, Array]  # mean and standard deviation

NORMALS = 256  # draws of a normal cosine in each module
VALUES = 512  # of an angle with the runs' own A in each module, for their median over modules
AT_ONCE = 2**18  # numbers that are measured at a time, of some pairs in all modules: they fit into a core's cache
SEED = 1812
# What rounding alone spreads: a draw's angle near 0 is an arccos near 1, with an error of some 1e-6 degrees.
FLAT = {**dict.fromkeys(ANGLES, 1e-5), "overlap": 1e-12}


def moments(draws: Array, flat: float) -> Moments:
    """Over the last axis; a standard deviation (ddof 1) up to `flat` is 0."""
    return flattened((draws.mean(-1), draws.std(-1, ddof=1)), flat)


def flattened(found: Moments, flat: float) -> Moments:
    """The same, a standard deviation up to `flat` being 0."""
    return found[0], np.where(found[1] <= flat, 0.0, found[1])


def mean(values: Array) -> Array:
    """Over the last axis, NaN left out; NaN if all are."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        found: Array = np.where(defined, values, 0.0).sum(-1) / defined.sum(-1)
    return found


def median(values: Array) -> Array:
    """Over the last axis, NaN left out; NaN if all are."""
    rows = np.sort(np.ascontiguousarray(values), axis=-1).reshape(-1, values.shape[-1])  # NaN last
    n = np.count_nonzero(~np.isnan(rows), axis=-1)
    every = np.arange(len(rows))
    middle: Array = (rows[every, (n - 1) // 2] + rows[every, n // 2]) / 2
    return middle.reshape(values.shape[:-1])


def mean_moments(chance: Moments) -> Moments:
    """Of the mean over modules, from each module's."""
    n = (~np.isnan(chance[0])).sum(-1)
    with np.errstate(invalid="ignore"):
        return mean(chance[0]), np.sqrt(np.nansum(chance[1] ** 2, axis=-1)) / n


def drawn(own: Drawn, flat: float) -> Moments:
    """In each module."""
    return flattened((own.mean, own.sd), flat)


def drawn_mean(own: Drawn, flat: float) -> Moments:
    """Of the mean over modules, exact given each module's."""
    return mean_moments(drawn(own, flat))


def drawn_median(own: Drawn, flat: float) -> Moments:
    """Of the median over modules, which moments do not decide: of VALUES that are spread as in each module by its
    quantiles, with its mean and sd, each module's in a random order of its own. All pairs share the orders, so pairs of
    the same quantiles have the same chance."""
    pairs, modules = own.mean.shape
    orders = _orders(modules)
    medians = np.empty((pairs, VALUES))
    at_once = max(1, AT_ONCE // (modules * VALUES))
    for start in range(0, pairs, at_once):
        some = slice(start, start + at_once)
        values = quantiles.spread(own.mean[some], own.sd[some], own.quantiles[some], VALUES)
        ordered = np.take_along_axis(values, orders[None], axis=-1)
        medians[some] = median(ordered.transpose(0, 2, 1))
    return moments(medians, flat)


@cache
def _orders(modules: int) -> NDArray[np.intp]:
    """(modules, VALUES): random orders of the numbers below VALUES."""
    every = np.tile(np.arange(VALUES), (modules, 1))
    return np.random.default_rng([SEED, modules, VALUES]).permuted(every, axis=1)


def orthogonal_fraction(shares: Array) -> Moments:
    """Of sqrt(1 - |x|^2) to leading order, x the cosines of a pair's modules times their shares of the norm.

    shares (..., modules): standard deviations of x, which are normal and small: E |x|^2 = sum s^2, and
    Var |x|^2 = 2 sum s^4. The root halves both deviations from 1: mean 1 - sum s^2 / 2, sd sqrt(sum s^4 / 2).
    """
    return 1 - (shares**2).sum(-1) / 2, np.sqrt((shares**4).sum(-1) / 2)


def subspaces(d: Array, k: Array) -> dict[str, Moments]:
    """Of two Haar subspaces in each module: ANGLES and "overlap", (pairs, modules) each; d (modules,)."""
    found = {which: (np.full(k.shape, np.nan), np.full(k.shape, np.nan)) for which in (*ANGLES, "overlap")}
    for dim in np.unique(d).tolist():
        of_dim = d == dim
        for used in _defined(k[:, of_dim]):
            place = of_dim & (k == used)
            for which, (center, sd) in _subspace(int(dim), used).items():
                found[which][0][place], found[which][1][place] = center, sd
    return found


@cache
def _subspace(d: int, k: int) -> dict[str, tuple[float, float]]:
    draws = random_subspaces.angles(d, k)
    found = {which: moments(draws[which], FLAT[which]) for which in ANGLES}
    exact = (random_subspaces.overlap_mean(d, k), random_subspaces.overlap_sd(d, k))
    return {which: (float(center), float(sd)) for which, (center, sd) in found.items()} | {"overlap": exact}


def _defined(k: Array) -> list[int]:
    return [int(used) for used in np.unique(k[~np.isnan(k)])]


def first_vectors(d: Array) -> Moments:
    """Of |<u, u'>| in each module, (modules,)."""
    dims, place = np.unique(d, return_inverse=True)
    mean = np.array([random_subspaces.first_vector_mean(int(dim)) for dim in dims])
    sd = np.array([random_subspaces.first_vector_sd(int(dim)) for dim in dims])
    return mean[place], sd[place]


def median_angles(d: Array, k: Array) -> dict[str, Moments]:
    """Of the medians over modules of Haar subspaces' ANGLES, (pairs,) each; pairs of one composition share draws."""
    found = {which: (np.full(len(k), np.nan), np.full(len(k), np.nan)) for which in ANGLES}
    rows, place = np.unique(np.nan_to_num(k), axis=0, return_inverse=True)
    for i, row in enumerate(rows):
        modules = Counter((int(dim), int(used)) for dim, used in zip(d, row, strict=True) if used)
        if modules:
            draws = random_subspaces.median_angles(tuple((*key, modules[key]) for key in sorted(modules)))
            for which in ANGLES:
                found[which][0][place == i], found[which][1][place == i] = moments(draws[which], FLAT[which])
    return found


def median_cosine_sd(sds: Array) -> Array:
    """(pairs,): the standard deviation of the median of normal cosines of mean 0 and the modules' sds, from draws."""
    rows, place = np.unique(sds, axis=0, return_inverse=True)
    normals = np.random.default_rng([SEED, sds.shape[1]]).standard_normal((NORMALS, sds.shape[1]))
    normals /= np.sqrt((normals**2).mean(0))
    chunks = np.array_split(rows, -(-rows.size * NORMALS // AT_ONCE))
    found = np.concatenate([np.sqrt((median(chunk[:, None] * normals) ** 2).mean(-1)) for chunk in chunks])
    return found[place]
