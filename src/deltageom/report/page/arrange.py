"""Where runs stand in a picture: the order of a heat map by likeness, and a map of the updates."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import squareform

Array = NDArray[np.float64]

BASE = "base"  # the update of norm zero


def square(table: pd.DataFrame, measure: str, runs: Sequence[str], diagonal: Array) -> Array:
    """(runs, runs): a measure of pairs from the global table, NaN where it is missing."""
    at = {run: index for index, run in enumerate(runs)}
    found = np.full((len(runs), len(runs)), np.nan)
    np.fill_diagonal(found, diagonal)
    rows = table[(table["measure"] == measure) & table["b"].notna()]
    for a, b, value in zip(rows["a"], rows["b"], rows["value"], strict=True):
        if a in at and b in at:
            found[at[a], at[b]] = found[at[b], at[a]] = value
    return found


def order(table: pd.DataFrame, runs: Sequence[str]) -> list[str]:
    """The runs so that those with like updates are neighbours: average linkage of 1 - cosine, leaves in the best order
    (Bar-Joseph et al. 2001). A cosine that is not defined counts as 0."""
    if len(runs) < 3:
        return list(runs)
    distance = 1 - np.nan_to_num(square(table, "cosine", runs, np.ones(len(runs))))
    tree = linkage(squareform(np.clip(distance, 0, 2), checks=False), "average", optimal_ordering=True)
    return [runs[index] for index in leaves_list(tree).tolist()]


def plane(table: pd.DataFrame, runs: Sequence[str], replicates: Sequence[pd.DataFrame]) -> dict[str, Any] | None:
    """A map of the updates in two dimensions: classical multidimensional scaling (Torgerson 1952) of their Gram matrix.

    The base, the update zero, is a point too and the origin: distances in all dimensions together are exactly the
    Frobenius norms of differences. shares: of the variance, by dimension. Each of `replicates` has a Gram matrix of
    its own and none with the others, so it has a map of its own, turned (and mirrored) onto the first by Procrustes.
    None for fewer than two updates.
    """
    found = _scaled(table, runs)
    if found is None:
        return None
    names, points, shares = found
    clouds = []
    for number, other in enumerate(replicates, 2):
        its = _scaled(other, names)
        if its is None or its[0] != names:
            continue
        turn, _ = orthogonal_procrustes(its[1], points)
        clouds += [_point(name, xy, replicate=number) for name, xy in zip(names, its[1] @ turn, strict=True)]
    return {
        "points": [_point(name, xy) for name, xy in zip([BASE, *names], [np.zeros(2), *points], strict=True)],
        "shares": shares,
        "clouds": clouds,
    }


def _scaled(table: pd.DataFrame, runs: Sequence[str]) -> tuple[list[str], Array, list[float]] | None:
    """The runs that have a norm, their coordinates from the base (runs, 2), and the shares of variance."""
    norms = table[table["measure"] == "norm"].set_index("a")["value"]
    names = [run for run in runs if run in norms.index and np.isfinite(norms[run])]
    if len(names) < 2:
        return None
    gram = np.zeros((len(names) + 1, len(names) + 1))
    gram[1:, 1:] = square(table, "inner", names, norms[names].to_numpy(float) ** 2)
    if not np.isfinite(gram).all():
        return None
    centred = gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()
    values, vectors = np.linalg.eigh(centred)
    values, vectors = np.clip(values[::-1], 0, None), vectors[:, ::-1]
    points = vectors[:, :2] * np.sqrt(values[:2])
    points = points - points[0]
    largest = points[np.abs(points).argmax(0), [0, 1]]  # an axis has no direction of its own: to the right, and up
    total = values.sum()
    shares = [float(value / total) if total else 0.0 for value in values[:2]]
    return names, (points * np.where(largest < 0, -1.0, 1.0))[1:], shares


def _point(run: str, xy: Array, **more: int) -> dict[str, Any]:
    return {"run": run, "x": float(xy[0]), "y": float(xy[1])} | more
