"""What several replicates say of one number, and of a difference of two. Pure: arrays in, numbers out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

from deltageom.evaluation.statistics import sign_flip

ENOUGH = 3  # replicates for an interval: of two, t's quantile is 12.7


@dataclass(frozen=True)
class Spread:
    """n replicates have the number; mean, sd (n - 1; NaN of one), smallest and largest; low, high: the t interval of
    the mean, NaN of fewer than ENOUGH, and where all values are equal: they say nothing of the spread."""

    n: int
    mean: float
    sd: float
    low: float
    high: float
    smallest: float
    largest: float


def spread(values: ArrayLike, level: float = 0.95) -> Spread:
    """Of values (n,), one per replicate; those that are not finite are left out. All is NaN of none.

    The interval is Student's: replicates are independent draws of what the study varies, and of nothing else.
    """
    found = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found)]
    n, nan = len(found), float("nan")
    if n == 0:
        return Spread(0, nan, nan, nan, nan, nan, nan)
    mean, sd = float(found.mean()), float(found.std(ddof=1)) if n > 1 else nan
    half = float(t.ppf((1 + level) / 2, n - 1)) * sd / np.sqrt(n) if n >= ENOUGH and np.ptp(found) > 1e-12 else nan
    return Spread(n, mean, sd, mean - half, mean + half, float(found.min()), float(found.max()))


def paired(differences: ArrayLike) -> tuple[Spread, float, bool]:
    """Of differences (n,), one per replicate: their spread, the exact two-sided p of the sign-flip test (Fisher 1935)
    of a mean of zero, and whether so many replicates could show any difference at 5 %: n could reach p = 2 / 2^n."""
    found = np.asarray(differences, dtype=np.float64)
    found = found[np.isfinite(found)]
    p = sign_flip(found, 2 ** len(found), seed=0) if len(found) else float("nan")
    return spread(found), p, bool(len(found)) and 2 / 2 ** len(found) <= 0.05


def crossed_bootstrap(
    scores: NDArray[np.float64], resamples: int, seed: int, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile interval of the mean of scores (replicates, problems), both drawn with replacement: (low, high).

    The pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1(2)): every replicate answers the same problems,
    so replicates and problems are crossed, not nested. It is slightly too wide for many and too narrow for few
    replicates. None of fewer than ENOUGH, and where all scores are equal.
    """
    replicates, problems = scores.shape
    if replicates < ENOUGH or np.ptp(scores) == 0:
        return None
    rng = np.random.default_rng(seed)
    rows = rng.multinomial(replicates, np.full(replicates, 1 / replicates), resamples)
    columns = rng.multinomial(problems, np.full(problems, 1 / problems), resamples)
    means = np.einsum("br,rp,bp->b", rows, scores, columns, optimize=True) / (replicates * problems)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
