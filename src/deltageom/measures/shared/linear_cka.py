"""Linear CKA of models' hidden states, layer by layer, biased and debiased."""

from collections.abc import Mapping
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file

from deltageom.errors import UserError

Array = NDArray[np.float64]


def linear_cka_biased(x: ArrayLike, y: ArrayLike) -> float:
    """Linear CKA of x (n, p) and y (n, q): |Y^T X|^2 / (|X^T X| |Y^T Y|), centred (Kornblith et al. 2019).

    In [0, 1]; at n << p it is near 1 even for unrelated x and y. NaN if x or y is the same for every example.
    Raises ValueError for shapes that do not match, n < 2, or values that are not finite.
    """
    x, y = _centred(x, y, least=2)
    if not (x.any() and y.any()):
        return float("nan")
    return _cross(x, y) / sqrt(_cross(x, x) * _cross(y, y))


def linear_cka_debiased(x: ArrayLike, y: ArrayLike) -> float:
    """CKA with the unbiased HSIC (Song et al. 2012, eq. 5; Nguyen et al. 2021, eq. 3), linear kernels.

    Near 0 for unrelated x (n, p) and y (n, q) at any n, so it may be negative; at most 1. NaN where the
    unbiased HSIC of x or of y with itself is 0: the same for every example, or all examples equally far from
    each other. Raises ValueError for shapes that do not match, n < 4, or values that are not finite.
    """
    x, y = _centred(x, y, least=4)
    own_x, own_y = _hsic_unbiased(x, x), _hsic_unbiased(y, y)
    rounding = x.shape[0] * float(np.finfo(np.float64).eps)
    if own_x <= rounding * _cross(x, x) or own_y <= rounding * _cross(y, y):
        return float("nan")
    return _hsic_unbiased(x, y) / sqrt(own_x * own_y)


def _centred(x: ArrayLike, y: ArrayLike, least: int) -> tuple[Array, Array]:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < least:
        raise ValueError(f"expected (n, p) and (n, q) with n >= {least}, got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("hidden states hold NaN or infinite values")
    return _centre(x), _centre(y)


def _centre(x: Array) -> Array:
    """Columns of mean 0 and the whole of norm 1 (CKA knows no scale), or zeros if all rows are equal."""
    centred = x - x.mean(axis=0)
    size = np.linalg.norm(centred)
    if size <= len(x) * np.finfo(np.float64).eps * np.linalg.norm(x):
        return np.zeros_like(x)
    return np.asarray(centred / size)


def _cross(x: Array, y: Array) -> float:
    """tr(X X^T Y Y^T) = |Y^T X|_F^2, over features or over examples, whichever is fewer multiplications."""
    (n, p), q = x.shape, y.shape[1]
    if p * q <= n * (p + q):
        return float(np.linalg.norm(y.T @ x) ** 2)
    return float(np.vdot(x @ x.T, y @ y.T))


def _hsic_unbiased(x: Array, y: Array) -> float:
    """n (n - 3) times the unbiased HSIC of centred x and y.

    Song et al.'s three terms in Gram matrices K, L with zeroed diagonals. A centred K has row sums 0, so a
    zeroed one has -diag(K): all three follow from tr(K L) and the rows' squared norms.
    """
    n = x.shape[0]
    rows_x, rows_y = (x**2).sum(axis=1), (y**2).sum(axis=1)
    trace = _cross(x, y) - float(rows_x @ rows_y)
    sums = float(rows_x.sum() * rows_y.sum()) / ((n - 1) * (n - 2))
    return float(trace + sums - 2 / (n - 2) * (rows_x @ rows_y))


ESTIMATORS = {
    "biased": linear_cka_biased,
    "debiased": linear_cka_debiased,
}


def compare(a: Path, others: Mapping[str, Path]) -> list[dict[str, float | str | int]]:
    """One row an other, layer and estimator: b, layer, estimator, similarity, n (prompts)."""
    first = load_file(a)["hidden"]
    rows: list[dict[str, float | str | int]] = []
    for name, b in others.items():
        second = load_file(b)["hidden"]
        if first.shape != second.shape:
            raise UserError(f"{a} holds hidden states of shape {first.shape}, {b} of {second.shape}: they do not match")
        rows += [
            {
                "b": name,
                "layer": layer,
                "estimator": estimator,
                "similarity": cka(first[layer], second[layer]),
                "n": first.shape[1],
            }
            for layer in range(first.shape[0])
            for estimator, cka in ESTIMATORS.items()
        ]
    return rows
