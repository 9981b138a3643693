"""Seed noise: what two runs differ by that differ in nothing but their seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pair = tuple[str, str]


@dataclass(frozen=True)
class Identity:
    """What a run is: its settings apart from seeds, the seed of its training, and its initial A (a digest or seed)."""

    settings: str
    seed: str
    init: str


def noise_pairs(identities: Mapping[str, Identity]) -> dict[Pair, list[Pair]]:
    """For every pair of runs a < b the pairs x < y to hold it against, sorted; an empty list where there is none.

    x and y differ only in seeds, have both a's settings or both b's, and share the initial A if and only if a and b
    do: the seed of A rotates the input side, so runs that share A are nearer to each other than runs that do not.
    The pair (a, b) itself is left out.
    """
    pairs = list(combinations(sorted(identities), 2))
    alike: dict[tuple[str, bool], list[Pair]] = {}
    for pair in pairs:
        if _only_seeds(identities, pair):
            alike.setdefault((identities[pair[0]].settings, _share_init(identities, pair)), []).append(pair)
    found = {}
    for pair in pairs:
        share = _share_init(identities, pair)
        settings = {identities[name].settings for name in pair}
        found[pair] = sorted(other for one in settings for other in alike.get((one, share), []) if other != pair)
    return found


def _only_seeds(identities: Mapping[str, Identity], pair: Pair) -> bool:
    x, y = (identities[name] for name in pair)
    return x.settings == y.settings and x != y  # equal ones are one run under two names


def _share_init(identities: Mapping[str, Identity], pair: Pair) -> bool:
    return identities[pair[0]].init == identities[pair[1]].init


def seed_columns(
    values: Array, k: Array, pairs: Sequence[Pair], noise: Mapping[Pair, Sequence[Pair]]
) -> dict[str, Array]:
    """seed_n, seed_mean and seed_sd (ddof 1, NaN for n < 2) of each value over the pairs that `noise` gives its pair.

    values, k (..., pairs, measures): NaN where undefined, or where a measure has no k; only values of an equal k are
    held against each other. A noise pair that is not among `pairs` does not count.
    """
    place = {pair: i for i, pair in enumerate(pairs)}
    k = np.nan_to_num(k, nan=-1.0)
    found = {"seed_n": np.zeros_like(values), "seed_mean": np.full_like(values, np.nan)}
    found["seed_sd"] = found["seed_mean"].copy()
    for i, pair in enumerate(pairs):
        others = [place[other] for other in noise.get(pair, ()) if other in place]
        if others:
            theirs = np.where(k[..., others, :] == k[..., [i], :], values[..., others, :], np.nan)
            moments = _moments(theirs)
            for column, values_of_pair in zip(found, moments, strict=True):
                found[column][..., i, :] = values_of_pair
    return found


def _moments(values: Array) -> tuple[Array, Array, Array]:
    """Count, mean and standard deviation (ddof 1) over the last axis but one, NaN left out."""
    defined = ~np.isnan(values)
    n = defined.sum(-2).astype(float)
    start = np.where(defined, values, -np.inf).max(-2)  # counted from one of them, equal values differ by 0 exactly
    away = np.where(defined, values - np.where(n > 0, start, 0.0)[..., None, :], 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = away.sum(-2) / n
        squares = np.where(defined, (away - mean[..., None, :]) ** 2, 0.0).sum(-2)
        sd = np.where(n > 1, np.sqrt(squares / (n - 1)), np.nan)
        return n, start + mean, sd
