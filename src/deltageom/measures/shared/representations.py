"""A run's hidden states beside the base's and beside another run's: CKA and its interval, Procrustes distance, shifts.

hidden: float (prompts, width), the states of one layer. What is undefined is None.
"""

from collections.abc import Iterator, Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file
from scipy.stats import t as student

from deltageom.errors import UserError
from deltageom.measures.shared.linear_cka import linear_cka_debiased

Array = NDArray[np.float64]
Row = dict[str, Any]

OF_RUN = ("cka", "cka_low", "cka_high", "procrustes", "shift")
OF_PAIR = ("procrustes", "shift_cosine", "shift_cosine_se", "unmoved")
LEAST = 4  # prompts that the debiased estimator takes
EPS = float(np.finfo(np.float64).eps)


def compare(base: Path, a: Path, others: Mapping[str, Path], resamples: int, seed: int) -> Iterator[Row]:
    """Rows of run `a` and of its pairs with each of `others`, from files of hidden states (layers, prompts, width).

    b: the other run, None of the run itself, which is held against the base; layer; n, prompts; OF_RUN or OF_PAIR.
    """
    start = load_file(base)["hidden"]
    moved = _like(start, base, a)
    layers, n = start.shape[:2]
    empty = dict.fromkeys((*OF_RUN, *OF_PAIR))
    parts = parts_of(n, resamples, seed)
    for layer in range(layers):
        yield {"b": None, "layer": layer, "n": n, **empty, **of_run(start[layer], moved[layer], parts)}
    for name, path in others.items():
        other = _like(start, base, path)
        for layer in range(layers):
            yield {"b": name, "layer": layer, "n": n, **empty, **of_pair(start[layer], moved[layer], other[layer])}


def of_run(base: ArrayLike, run: ArrayLike, parts: NDArray[np.bool_]) -> Row:
    """A run against the base: debiased CKA with its interval, Procrustes distance and relative length of the shift."""
    cka = linear_cka_debiased(base, run)
    low, high = interval(cka, cka_of_parts(base, run, parts), parts) or (None, None)
    return {
        "cka": cka if np.isfinite(cka) else None,
        "cka_low": low,
        "cka_high": high,
        "procrustes": procrustes(base, run),
        "shift": relative_shift(base, run),
    }


def of_pair(base: ArrayLike, a: ArrayLike, b: ArrayLike) -> Row:
    """Two runs: Procrustes distance, and whether their shifts from the base point the same way."""
    cosines = shift_cosines(base, a, b)
    known = cosines[np.isfinite(cosines)]
    return {
        "procrustes": procrustes(a, b),
        "shift_cosine": float(known.mean()) if known.size else None,
        "shift_cosine_se": float(known.std(ddof=1) / sqrt(known.size)) if known.size > 1 else None,
        "unmoved": int(cosines.size - known.size),
    }


def procrustes(x: ArrayLike, y: ArrayLike) -> float | None:
    """Orthogonal Procrustes distance |X|^2 + |Y|^2 - 2 |X^T Y|_* (Ding et al. 2021), X and Y centred and of norm 1.

    From 0, equal up to a rotation, to 2. None if x or y is the same for every prompt.
    """
    x, y = _normalised(x), _normalised(y)
    if not (x.any() and y.any()):
        return None
    nuclear = np.linalg.svd(_thin(x).T @ _thin(y), compute_uv=False).sum()
    return max(0.0, float(2 - 2 * nuclear))


def relative_shift(base: ArrayLike, run: ArrayLike) -> float | None:
    """Root mean square over prompts of |run - base|, per that of the base's states about their own mean."""
    base, run = np.asarray(base, np.float64), np.asarray(run, np.float64)
    if not _normalised(base).any():
        return None
    return float(np.linalg.norm(run - base) / np.linalg.norm(base - base.mean(axis=0)))


def shift_cosines(base: ArrayLike, a: ArrayLike, b: ArrayLike) -> Array:
    """(prompts,), the cosine of a - base and b - base; NaN where one of them is 0."""
    base = np.asarray(base, np.float64)
    one, other = _directions(np.asarray(a, np.float64) - base), _directions(np.asarray(b, np.float64) - base)
    return np.asarray(np.clip((one * other).sum(axis=1), -1.0, 1.0))


def parts_of(n: int, resamples: int, seed: int) -> NDArray[np.bool_]:
    """(resamples, n), which prompts are in each part: all but a random quarter; none if a part would have no CKA.

    Nothing is drawn twice: such a prompt, as the bootstrap draws it, is as similar to itself as can be in both models,
    which raises every CKA.
    """
    kept = n - max(1, n // 4)
    if kept < LEAST:
        return np.zeros((0, n), dtype=np.bool_)
    return np.random.default_rng(seed).permuted(np.tile(np.arange(n) < kept, (resamples, 1)), axis=1)


def cka_of_parts(x: ArrayLike, y: ArrayLike, parts: NDArray[np.bool_]) -> Array:
    """(parts,), the debiased CKA of those prompts alone that each part (parts, n) takes; NaN where it is undefined.

    Song et al.'s three terms in Gram matrices with zeroed diagonals, all parts at once.
    """
    grams = [x @ x.T for x in (_normalised(x), _normalised(y))]
    for gram in grams:
        np.fill_diagonal(gram, 0.0)
    taken = parts.astype(np.float64)
    m = taken.sum(axis=1)

    def hsic(k: Array, l: Array) -> tuple[Array, Array]:  # noqa: E741
        """m (m - 3) times the unbiased HSIC of each part, and the first of its terms."""
        trace = ((taken @ (k * l)) * taken).sum(axis=1)
        of_k, of_l = (taken @ k) * taken, (taken @ l) * taken
        sums = of_k.sum(axis=1) * of_l.sum(axis=1) / ((m - 1) * (m - 2))
        return trace + sums - 2 / (m - 2) * (of_k * of_l).sum(axis=1), trace

    (own_x, of_x), (own_y, of_y) = (hsic(gram, gram) for gram in grams)
    defined = (own_x > m * EPS * of_x) & (own_y > m * EPS * of_y)
    found = np.full(len(parts), np.nan)
    found[defined] = hsic(*grams)[0][defined] / np.sqrt(own_x[defined] * own_y[defined])
    return found


def interval(whole: float, found: Array, parts: NDArray[np.bool_], level: float = 0.95) -> tuple[float, float] | None:
    """Of the CKA of all n prompts, from those `found` of parts that leave out d: the delete-d jackknife.

    The squared standard error is the mean square of (part - whole), times (n - d) / d (Shao and Wu 1989); the interval
    is Student's with n - 1 degrees of freedom, cut at -1 and 1. None where there are no parts or one is undefined.
    """
    if not found.size or not np.isfinite([whole, *found]).all():
        return None
    n = parts.shape[1]
    kept = int(parts[0].sum())
    error = sqrt(kept / (n - kept) * float(((found - whole) ** 2).mean()))
    reach = float(student.ppf((1 + level) / 2, n - 1)) * error
    return max(-1.0, whole - reach), min(1.0, whole + reach)


def _like(start: NDArray[np.float32], base: Path, path: Path) -> NDArray[np.float32]:
    """A run's hidden states. Raises UserError if they are not of the base's layers, prompts and width."""
    found = load_file(path)["hidden"]
    if found.shape != start.shape:
        raise UserError(
            f"{path} holds hidden states of shape {found.shape}, {base} of {start.shape}: they do not match"
        )
    return found


def _normalised(hidden: ArrayLike) -> Array:
    """Columns of mean 0 and the whole of norm 1, or zeros if all rows are equal but for rounding."""
    x = np.asarray(hidden, dtype=np.float64)
    centred = x - x.mean(axis=0)
    size = np.linalg.norm(centred)
    if size <= len(x) * EPS * np.linalg.norm(x):
        return np.zeros_like(x)
    return np.asarray(centred / size)


def _thin(x: Array) -> Array:
    """x (n, p), turned so that it has n columns at most: the same inner products of rows, the same singular values."""
    return x if x.shape[1] <= len(x) else np.asarray(np.linalg.qr(x.T, mode="r")).T


def _directions(shifts: Array) -> Array:
    """Rows of norm 1, NaN where a row is 0."""
    sizes = np.linalg.norm(shifts, axis=1, keepdims=True)
    unknown = np.full_like(shifts, np.nan)
    return np.asarray(np.divide(shifts, sizes, out=unknown, where=sizes > 0))
