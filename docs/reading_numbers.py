"""The numbers of docs/reading.md, line by line; tests hold the page against them."""

from math import acos, degrees, sqrt

import numpy as np
from scipy.stats import t

from deltageom.evaluation.power import detectable_by_mcnemar
from deltageom.evaluation.statistics import mcnemar, wilson
from deltageom.geometry import random_subspaces

OUT, IN, RANK, K = 4096, 2560, 32, 10  # q_proj of Qwen3-4B, the paper's rank and subspaces


def p_of(only_a: int, only_b: int) -> float:
    """Exact McNemar where so many problems are solved by just one of the two models."""
    a = np.repeat([True, False], [only_a, only_b])
    return mcnemar(a, ~a).p


def chance(dimension: int) -> str:
    found = random_subspaces.angles(dimension, K)
    return ", ".join(f"{which} {np.median(found[which]):.1f}" for which in ("smallest", "largest"))


def other_a() -> float:
    """The cosine of B A and B A' for one B and two independent Gaussian A."""
    rng = np.random.default_rng(0)
    b, first, second = (rng.standard_normal(shape) for shape in ((OUT, RANK), (RANK, IN), (RANK, IN)))
    inner = [np.sum((b.T @ b) * (one @ other.T)) for one, other in ((first, second), (first, first), (second, second))]
    return float(inner[0] / sqrt(inner[1] * inner[2]))


def main() -> None:
    for cosine in (0.97, 0.5):
        print(f"cosine {cosine}: {degrees(acos(cosine)):.0f} degrees, orthogonal part {sqrt(1 - cosine**2):.2f}")
    print(f"random B, one A: standard deviation of the cosine {1 / sqrt(RANK * OUT):.4f}")
    print(f"one B, two A: cosine {other_a():.3f}")
    print(f"chance angles of {K} directions in {OUT}: {chance(OUT)}; within one A's {RANK}: {chance(RANK)}")
    for correct, n in ((5, 30), (9, 30), (219, 1319)):
        low, high = wilson(correct, n)
        print(f"{correct} of {n}: {correct / n:.3f} [{low:.3f}, {high:.3f}]")
    print(f"McNemar 6-0: {p_of(6, 0):.3f}; 5-0: {p_of(5, 0):.3f}; 9-2: {p_of(9, 2):.3f}")
    for n in (30, 200, 1319):
        print(f"n = {n}, one in five solved by just one: detectable difference {detectable_by_mcnemar(n, 0.2):.3f}")
    for n in (3, 5, 10):
        print(f"{n} replicates: mean +- {t.ppf(0.975, n - 1) / sqrt(n):.2f} sd; sign-flip at best {2 / 2**n:.3f}")


if __name__ == "__main__":
    main()
