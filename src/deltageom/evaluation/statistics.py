"""Intervals and tests for scores on one benchmark. Pure: arrays in, numbers out; what is undefined is None."""

from dataclasses import dataclass
from math import comb, isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, false_discovery_control, norm, permutation_test
from scipy.stats import bootstrap as scipy_bootstrap

BATCH = 1000  # resamples drawn at once: fast, and of GSM8K's 1,319 problems about 10 MB


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


def clopper_pearson(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a proportion (Clopper and Pearson 1934): (low, high). It holds `level` at least.

    low is where P(X >= correct) = (1 - level) / 2 for X of Bin(n, low), high where P(X <= correct) is.
    Raises ValueError unless 0 <= correct <= n and n >= 1.
    """
    interval = binomtest(correct, n).proportion_ci(level, method="exact")
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


def tango(only_a: int, only_b: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The score interval of a difference of paired proportions (Tango 1998, Statistics in Medicine 17:891): low, high.

    only_a, only_b: of n problems, those that only one of the two solves. It holds the differences d that the score test
    does not reject, |only_a - only_b - n d| <= z sqrt(n (2 q + d (1 - d))), where q is the maximum-likelihood
    probability of `only b` given d. It is defined without any discordant pair too. Raises ValueError unless
    0 <= only_a, only_b, their sum <= n, and n >= 1.
    """
    if min(only_a, only_b) < 0 or n < 1 or only_a + only_b > n:
        raise ValueError(f"{only_a} and {only_b} are not disjoint parts of {n} problems")
    z = float(norm.ppf((1 + level) / 2))

    def excess(d: float) -> float:
        """How much larger |score| is than z: negative within the interval."""
        middle = (2 * n - only_a + only_b) * d - only_a - only_b
        root = sqrt(max(middle**2 + 8 * n * only_b * d * (1 - d), 0.0))
        q = (root - middle) / (4 * n)
        return abs(only_a - only_b - n * d) - z * sqrt(max(n * (2 * q + d * (1 - d)), 0.0))

    found, beside = (only_a - only_b) / n, 1e-9  # at the difference itself q may be 0, and so is `excess`
    low = -1.0 if found - beside <= -1 else brentq(excess, -1.0, found - beside, xtol=1e-12)
    high = 1.0 if found + beside >= 1 else brentq(excess, found + beside, 1.0, xtol=1e-12)
    return float(low), float(high)


def sign_flip(differences: ArrayLike, resamples: int, seed: int) -> float:
    """Two-sided p of the mean of paired differences under random signs (Fisher 1935): p = P(|T*| >= |T|).

    differences: (n,), one a problem. T* is the mean with the sign of each difference drawn anew. Differences of
    zero are left out, for their sign changes nothing. With m others all 2^m signs are tried where 2^m <= resamples
    (exact); else `resamples` are drawn from `seed`, and p = 2 (1 + drawn tail) / (1 + resamples), at most 1, is
    never 0 (Phipson and Smyth 2010). p = 1 where all are zero. Raises ValueError if any is not finite.
    """
    values = _finite(differences)
    values = values[values != 0]
    if values.size < 2:  # one sign or its opposite: both are as far from zero
        return 1.0
    test = permutation_test(
        (values,), np.mean, permutation_type="samples", vectorized=True, n_resamples=resamples, batch=BATCH,
        alternative="two-sided", rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(test.pvalue)


def bootstrap(values: ArrayLike, resamples: int, seed: int, level: float = 0.95) -> tuple[float, float] | None:
    """Bootstrap interval of the mean over problems, bias-corrected and accelerated (BCa; Efron 1987): (low, high).

    values: (n,), one a problem: a score, or the difference of two models' scores (the paired bootstrap). Problems
    are drawn with replacement, `resamples` times from `seed`. None where all values are equal: such a sample says
    nothing of the spread, and an interval of width zero would claim that it does. Raises ValueError if any is not
    finite or there is none.
    """
    values = _finite(values)
    if np.ptp(values) <= 1e-12 * np.abs(values).max():  # equal, but for the rounding of a mean
        return None
    interval = scipy_bootstrap(
        (values,), np.mean, n_resamples=resamples, confidence_level=level, method="BCa", batch=BATCH,
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    low, high = float(interval.low), float(interval.high)
    return (low, high) if isfinite(low) and isfinite(high) else None


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p-values (Holm 1979) of one family, in the order given. Raises ValueError for NaN."""
    p = _probabilities(p_values)
    if p.size == 0:
        return p
    from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]  # slow

    return np.asarray(multipletests(p, method="holm")[1], dtype=np.float64)


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """q-values (Benjamini and Hochberg 1995): the smallest false discovery rate at which each would be found.

    q_(i) = min over j >= i of p_(j) n / j, in the order given. Raises ValueError for NaN.
    """
    p = _probabilities(p_values)
    return np.asarray(false_discovery_control(p, method="bh"), dtype=np.float64) if p.size else p


def ratio_of_sums(sums: ArrayLike, sizes: ArrayLike) -> tuple[float, float | None]:
    """The mean over all tokens of samples with such sums (n,) and numbers of tokens (n,), and its standard error over
    samples, that of a ratio of two means (Cochran 1977, section 6.4); None of one sample."""
    totals, tokens = np.asarray(sums, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    mean = float(totals.sum() / tokens.sum())
    if len(totals) < 2:
        return mean, None
    return mean, float((totals - mean * tokens).std(ddof=1) / tokens.mean() / sqrt(len(totals)))


def pass_at_k(correct: ArrayLike, samples: int, k: int) -> NDArray[np.float64]:
    """Unbiased pass@k of each problem (Chen et al. 2021, 2107.03374, eq. 1): 1 - C(n-c, k) / C(n, k).

    correct: int (problems,), c of the n = `samples` completions. The binomials are whole numbers of any size, so
    that nothing overflows. Raises ValueError unless 1 <= k <= samples and 0 <= correct <= samples.
    """
    counts: NDArray[np.int64] = np.asarray(correct, dtype=np.int64)
    if not 1 <= k <= samples:
        raise ValueError(f"k = {k} is not in 1 ... {samples}, the samples a problem")
    if np.any((counts < 0) | (counts > samples)):
        raise ValueError(f"counts must lie in 0 ... {samples}")
    different, where = np.unique(counts, return_inverse=True)
    values = np.array([1 - comb(samples - int(c), k) / comb(samples, k) for c in different])
    return np.asarray(values[where], dtype=np.float64)


def _solved(values: ArrayLike) -> NDArray[np.bool_]:
    solved: NDArray[Any] = np.asarray(values)
    if solved.ndim != 1 or solved.dtype != np.bool_:
        raise ValueError(f"expected bool (n,), got {solved.dtype} {solved.shape}")
    return solved


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or found.size == 0 or not np.isfinite(found).all():
        raise ValueError("expected finite numbers (n,), n >= 1")
    return found


def _probabilities(values: ArrayLike) -> NDArray[np.float64]:
    p: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError("p-values must lie in [0, 1]")
    return p
