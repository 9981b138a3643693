"""Draws of a number in short: their mean, standard deviation and some quantiles, by which they can be drawn again."""

from functools import cache
from typing import Any

import numpy as np

from deltageom.geometry.factored import Array

_LOWER = (0, 1 / 256, 1 / 64, 1 / 16, 1 / 8, 1 / 4, 3 / 8)  # close together where a straight line would lengthen a tail
LEVELS = np.array([*_LOWER, 1 / 2, *(1 - level for level in reversed(_LOWER))])
DECIMALS = 6  # of a quantile: degrees


def in_short(draws: Array, median: bool) -> list[dict[str, Any]]:
    """Of each row of draws (n, m), m > 1: mean and sd (ddof 1), which suffice for a mean over modules; for their
    `median` also quantiles at LEVELS, linear between the draws, of which the i-th of m in order is at the level
    (i - 1/2) / m (Hazen 1914)."""
    columns = {"mean": draws.mean(-1), "sd": draws.std(-1, ddof=1)}
    if median:
        ordered, m = np.sort(draws, axis=-1), draws.shape[-1]
        place = np.clip(LEVELS * m - 0.5, 0, m - 1)
        below = np.minimum(place.astype(int), m - 2)
        values = ordered[:, below] + (ordered[:, below + 1] - ordered[:, below]) * (place - below)
        columns["quantiles"] = values.round(DECIMALS)
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def spread(mean: Array, sd: Array, quantiles: Array, n: int) -> Array:
    """(..., n), ascending: n equally likely values by quantiles (..., LEVELS), linear between them, shifted and scaled
    to mean (...) and sd (ddof 1), which are kept exactly."""
    values: Array = quantiles @ _weights(n)
    values -= values.mean(-1, keepdims=True)
    size = values.std(-1, ddof=1)
    scale = np.divide(sd, size, out=np.zeros_like(sd), where=(size > 0) | np.isnan(size))
    values *= scale[..., None]
    values += mean[..., None]
    return values


@cache
def _weights(n: int) -> Array:
    """(LEVELS, n): how much of each quantile is in each of the values."""
    at = (np.arange(n) + 0.5) / n
    return np.stack([np.interp(at, LEVELS, unit) for unit in np.eye(LEVELS.size)])
