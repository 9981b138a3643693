"""How large a difference of two models' accuracies must be for a test at 5 % to find it. Pure."""

from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import binom, norm

LEVEL = 0.05  # two-sided, of one test: before any correction for several
POWER = 0.8
FEWEST = 6  # 2 / 2^6 < LEVEL < 2 / 2^5: with fewer problems neither exact test can reject


def mcnemar_power(n: int, difference: float, discordant: float) -> float:
    """Probability that exact McNemar rejects at LEVEL, two-sided, on n problems. Exact, no simulation.

    `discordant` is the probability that just one of the two models solves a problem, `difference` how much more
    probable the one way is than the other (0 <= difference <= discordant, discordant > 0). Of the n problems
    M ~ Bin(n, discordant) are discordant, and X ~ Bin(M, (1 + difference / discordant) / 2) of them go the one way:

        power = sum over m of P(M = m) [P(X < t_m) + P(X > m - t_m)],

    t_m being the smallest t with P(Bin(m, 1/2) <= t) >= LEVEL / 2, so that all below it are rejected.
    """
    m = np.arange(n + 1)
    share = (1 + difference / discordant) / 2
    threshold = binom.ppf(LEVEL / 2, m, 0.5)
    rejects = binom.cdf(threshold - 1, m, share) + binom.sf(m - threshold, m, share)
    return float(binom.pmf(m, n, discordant) @ rejects)


def detectable_by_mcnemar(n: int, discordant: float) -> float | None:
    """The smallest true difference of accuracies that exact McNemar finds with power POWER on n problems.

    `discordant`: the share of problems that just one of the two solves, as observed (0 to 1). A difference cannot
    exceed it: a larger one is tried with as many discordant problems as it needs, all going one way. `mcnemar_power`
    rises with the difference, so the answer is where it crosses POWER. None where not even a difference of 1 would
    do: below n = 6, for 6-0 is the least outcome that is significant.
    """

    def excess(difference: float) -> float:
        return mcnemar_power(n, difference, max(discordant, difference)) - POWER

    return float(brentq(excess, 1e-9, 1.0, xtol=1e-10)) if excess(1.0) >= 0 else None


def detectable_by_means(differences: ArrayLike) -> float | None:
    """The smallest true mean difference that a test of the mean finds with power POWER, in closed form.

    differences: (n,), one a problem. (z_{1 - LEVEL/2} + z_POWER) times the standard error of their mean, which is
    s / sqrt(n) with s^2 = sum (d - mean)^2 / (n - 1): the normal approximation, which of few problems promises too
    much. None where all are equal, for then they do not tell their spread, where it would be more than 1, and below
    n = 6, where no outcome of the sign-flip test is significant.
    """
    d: NDArray[np.float64] = np.asarray(differences, dtype=np.float64)
    if d.size < FEWEST or np.ptp(d) <= 1e-12 * np.abs(d).max():
        return None
    found = float((norm.ppf(1 - LEVEL / 2) + norm.ppf(POWER)) * d.std(ddof=1) / sqrt(d.size))
    return found if found <= 1 else None
