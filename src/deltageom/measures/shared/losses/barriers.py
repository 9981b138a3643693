"""Linear mode connectivity: the path alpha dW_a + (1 - alpha) dW_b and the barriers on it. Pure numpy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Barriers:
    """Heights in the unit of the loss; worst_alpha: where the path is highest above the chord, NaN where it is not."""

    chord: float
    worst_alpha: float
    mean_of_ends: float


def path(points: int, beyond: float = 0.0) -> NDArray[np.float64]:
    """alpha, the weight of run a: `points` in equal steps from 0 (run b) to 1 (run a), both included.

    The steps go on past both ends, no farther than `beyond`.
    """
    if points < 2:
        raise ValueError(f"a path needs its two ends, not {points} points")
    past = np.arange(1, int(beyond * (points - 1) + 1e-9) + 1) / (points - 1)
    return np.concatenate([-past[::-1], np.linspace(0.0, 1.0, points), 1.0 + past])


def between(alphas: Sequence[float], losses: Sequence[float]) -> list[float]:
    """The middles of the one or two steps around the point that is highest above the chord; alphas from 0 to 1."""
    alpha, loss = np.asarray(alphas), np.asarray(losses)
    worst = int((loss - (alpha * loss[-1] + (1 - alpha) * loss[0])).argmax())
    return [(alphas[i] + alphas[i + 1]) / 2 for i in (worst - 1, worst) if 0 <= i < len(alphas) - 1]


def barriers(alphas: ArrayLike, losses: ArrayLike) -> Barriers:
    """The barriers of a path from the losses (points,) at alphas (points,), ascending from 0 to 1.

    mean_of_ends: max over alpha of the loss, less the mean of the two ends' (Frankle et al. 2020, sec. 2).
    chord: max over alpha of the loss less alpha L_a + (1 - alpha) L_b (Entezari et al. 2022, def. 2.1).
    Both are maxima over the grid with its ends, so never negative: nothing is clipped. A path on or below its
    chord has chord 0, at no alpha; if it only rises, its mean_of_ends is half the rise all the same.
    Raises ValueError for other alphas, other shapes, and losses that are not finite.
    """
    alpha, loss = np.asarray(alphas, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if alpha.ndim != 1 or alpha.shape != loss.shape or alpha.size < 2:
        raise ValueError(f"expected alphas and losses (points,), got {alpha.shape} and {loss.shape}")
    if alpha[0] != 0 or alpha[-1] != 1 or not (np.diff(alpha) > 0).all():
        raise ValueError("alphas must ascend from 0 to 1")
    if not np.isfinite(loss).all():
        raise ValueError("a loss on the path is not finite")
    above = loss - (alpha * loss[-1] + (1 - alpha) * loss[0])
    worst = int(above.argmax())
    mean_of_ends = loss.max() - (loss[0] + loss[-1]) / 2
    inside = 0 < worst < len(above) - 1  # at the ends the path meets its chord
    return Barriers(float(above[worst]), float(alpha[worst]) if inside else float("nan"), float(mean_of_ends))


def chord_interval(
    alphas: NDArray[np.float64],
    nll: NDArray[np.float64],
    tokens: NDArray[np.float64],
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval over problems of the barrier above the chord: (low, high).

    nll: (points, problems), summed over each answer, at alphas (points,) from 0 to 1; tokens: (problems,). Each
    resample of the problems has a path of its own. A maximum over the path is never negative, nor is its interval: a
    low of 0 says that a straight valley is among what the problems allow.
    """
    problems = nll.shape[1]
    rng = np.random.default_rng(seed)
    times = rng.multinomial(problems, np.full(problems, 1 / problems), resamples)
    loss = (times @ nll.T) / (times @ tokens)[:, None]
    above = loss - (loss[:, :1] + alphas * (loss[:, -1:] - loss[:, :1]))
    low, high = np.quantile(above.max(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
