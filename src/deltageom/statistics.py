"""Intervals and tests for accuracies on one benchmark. Pure."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest


@dataclass(frozen=True)
class McNemar:
    """only_a, only_b: problems that only one of the two solves; p: two-sided."""

    only_a: int
    only_b: int
    p: float


def wilson(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927): (low, high).

    Raises ValueError unless 0 <= correct <= n and n >= 1.
    """
    interval = binomtest(correct, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(a: ArrayLike, b: ArrayLike) -> McNemar:
    """Exact McNemar test (McNemar 1947): binomial test of the discordant pairs at 1/2; p = 1 without any.

    a, b: bool (n,), whether each model solves each problem, in one order. Raises ValueError otherwise.
    """
    solved_a, solved_b = _solved(a), _solved(b)
    if solved_a.shape != solved_b.shape:
        raise ValueError(f"not paired: {solved_a.size} and {solved_b.size} problems")
    only_a, only_b = int((solved_a & ~solved_b).sum()), int((solved_b & ~solved_a).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p)


def _solved(values: ArrayLike) -> NDArray[np.bool_]:
    solved: NDArray[Any] = np.asarray(values)
    if solved.ndim != 1 or solved.dtype != np.bool_:
        raise ValueError(f"expected bool (n,), got {solved.dtype} {solved.shape}")
    return solved


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p-values (Holm 1979) of one family, in the order given. Raises ValueError for NaN."""
    p: NDArray[np.float64] = np.asarray(p_values, dtype=np.float64)
    if p.size == 0:
        return p
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError("p-values must lie in [0, 1]")
    from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]  # slow

    return np.asarray(multipletests(p, method="holm")[1], dtype=np.float64)
