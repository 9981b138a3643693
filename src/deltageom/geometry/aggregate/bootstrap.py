"""Percentile bootstrap of the median (Efron 1979)."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

RESAMPLES = 2000
LEVEL = 0.95
SEED = 1979


def median_interval(values: Array) -> tuple[Array, Array]:
    """(low, high), each (columns,): the 95 % interval of the median of each row of `values` (columns, n).

    NaN stands for a missing value. One value has the interval [value, value], none has NaN.
    """
    values = np.sort(values, axis=1)  # NaN last
    counts = np.count_nonzero(~np.isnan(values), axis=1)
    found = np.full((2, len(values)), np.nan)
    for n in np.unique(counts[counts > 0]).tolist():
        found[:, counts == n] = _interval(values[counts == n, :n])
    return found[0], found[1]


def _interval(values: Array) -> Array:
    """(2, columns) from sorted values (columns, n)."""
    ranks, times = _middle_ranks(values.shape[1])
    medians = (values[:, ranks[:, 0]] + values[:, ranks[:, 1]]) / 2
    order = np.argsort(medians, axis=1)
    medians, last = np.take_along_axis(medians, order, axis=1), np.cumsum(times[order], axis=1)
    return np.stack([_quantile(medians, last, q) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)])


def _quantile(medians: Array, last: Indices, q: float) -> Array:
    """The q-quantile, linear as numpy's, of medians of which the i-th ends at place last[i] of the sorted resamples."""
    place = q * (RESAMPLES - 1)
    below, above = (
        np.take_along_axis(medians, np.argmax(last > at, axis=1)[:, None], axis=1)[:, 0]
        for at in (int(place), int(place) + 1)
    )
    return below + (place - int(place)) * (above - below)


@cache
def _middle_ranks(n: int) -> tuple[Indices, Indices]:
    """Which two of the n sorted values average to a resample's median, (u, 2), and how often of RESAMPLES, (u,).

    These ranks alone decide the median and do not depend on the values, so one draw serves all columns of n.
    """
    resamples = np.sort(resampled(n), axis=1)
    middle = resamples[:, [(n - 1) // 2, n // 2]]
    ranks, times = np.unique(middle, axis=0, return_counts=True)
    return ranks, times


def resampled(n: int) -> Indices:
    """(RESAMPLES, n): the places in 0..n-1 that each resample draws."""
    return np.random.default_rng([SEED, n]).integers(0, n, (RESAMPLES, n))
