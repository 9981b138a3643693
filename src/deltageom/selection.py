"""Which rollouts, pairs and advantages a method sees: numpy in, numpy out.

Shapes: `rewards` (N,) in {0, 1} and `problems` (N,), the problem id of each row; rows of one id are a group.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]
Floats = NDArray[np.float64]
Strings = NDArray[Any]


def correct(rewards: Floats) -> Indices:
    """Indices of the correct rows, ascending: what RFT (2308.01825) keeps."""
    return np.flatnonzero(rewards > 0)


def group_advantages(rewards: Floats, problems: Strings, bias: float) -> Floats:
    """A = r - mean of r over the row's group + bias, (N,), not divided by a deviation (2606.23740)."""
    _, group = np.unique(problems, return_inverse=True)
    means = np.bincount(group, weights=rewards) / np.bincount(group)
    advantages: Floats = rewards - means[group] + bias
    return advantages


def preference_pairs(rewards: Floats, problems: Strings, max_pairs: int, seed: int) -> tuple[Indices, Indices]:
    """Row indices (n,) of the correct and of the wrong half of each pair, by problem id.

    A problem gives min(max_pairs, correct x wrong) distinct pairs, drawn by its own generator, seeded with
    `seed` and its id: neither other problems nor the order of their rows change them, and a larger
    `max_pairs` only adds pairs.
    """
    pairs = [
        pair
        for rows in _groups(problems)
        for pair in _pairs_of(rows, rewards, max_pairs, _generator(seed, str(problems[rows[0]])))
    ]
    chosen, rejected = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    return chosen, rejected


def counts(rewards: Floats, problems: Strings) -> dict[str, int]:
    """How many rows there are, correct and wrong, and of how many problems; mixed ones have both."""
    right = len(correct(rewards))
    mixed = sum(0 < len(correct(rewards[rows])) < len(rows) for rows in _groups(problems))
    return {
        "rows": len(rewards),
        "correct": right,
        "wrong": len(rewards) - right,
        "problems": len(np.unique(problems)),
        "mixed_problems": mixed,
    }


def _groups(problems: Strings) -> list[Indices]:
    """The rows of each problem, ascending, by problem id."""
    if not len(problems):
        return []
    order = np.argsort(problems, kind="stable")
    _, starts = np.unique(problems[order], return_index=True)
    return np.split(order, starts[1:])


def _pairs_of(
    rows: Indices, rewards: Floats, max_pairs: int, generator: np.random.Generator
) -> list[tuple[np.intp, np.intp]]:
    right, wrong = rows[rewards[rows] > 0], rows[rewards[rows] <= 0]
    drawn = generator.permutation(len(right) * len(wrong))[:max_pairs]
    return [(right[i // len(wrong)], wrong[i % len(wrong)]) for i in drawn]


def _generator(seed: int, problem: str) -> np.random.Generator:
    digest = hashlib.sha256(problem.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
