"""Which rollouts, pairs and advantages a method sees: numpy in, numpy out.

Shapes: `rewards` (N,) in {0, 1} and `problems` (N,), the problem id of each row; rows of one id are a group.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deltageom.errors import UserError

Order = Literal["random", "longest", "shortest", "closest"]
Indices = NDArray[np.intp]
Floats = NDArray[np.float64]
Strings = NDArray[Any]


def correct(rewards: Floats) -> Indices:
    """Indices of the correct rows, ascending: what RFT (2308.01825) keeps."""
    return np.flatnonzero(rewards > 0)


def group_means(rewards: Floats, problems: Strings) -> Floats:
    """The mean of r over each row's group, (N,)."""
    _, group = np.unique(problems, return_inverse=True)
    means: Floats = np.bincount(group, weights=rewards) / np.bincount(group)
    return means[group]


def group_sizes(problems: Strings) -> Indices:
    """The number of rows in each row's group, (N,)."""
    _, group, sizes = np.unique(problems, return_inverse=True, return_counts=True)
    return sizes[group]


def advantages(rewards: Floats, means: Floats, bias: float) -> Floats:
    """A = r - mean + bias, (N,), not divided by a deviation (2606.23740); `means` (N,) are those of `group_means`."""
    return rewards - means + bias


def all_correct_advantages(rewards: Floats, means: Floats, all_correct: float) -> Floats:
    """A = r - mean, (N,), and `all_correct` in a group whose mean is 1, where A would be 0 (KRAFTON 2025)."""
    return np.where(means == 1, all_correct, rewards - means)


def preference_pairs(
    rewards: Floats, problems: Strings, lengths: Indices, order: Order, max_pairs: int | None, seed: int
) -> tuple[Indices, Indices]:
    """Row indices (n,) of the correct and of the wrong half of each pair, by problem id.

    A problem gives the first `max_pairs` of its correct x wrong distinct pairs, or all for None. They stand in an order
    drawn by the problem's own generator, seeded with `seed` and its id, then are sorted by `lengths` (N,), ties left as
    drawn: `longest` and `shortest` by the pair's summed length, `closest` by its difference. So neither other problems
    nor the order of their rows change a problem's pairs, and a larger `max_pairs` only adds some.
    """
    pairs = [
        pair
        for rows in _groups(problems)
        for pair in _pairs_of(rows, rewards, lengths, order, _generator(seed, str(problems[rows[0]])))[:max_pairs]
    ]
    chosen, rejected = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    return chosen, rejected


def first_of_equals(problems: Strings, token_ids: Sequence[NDArray[Any]]) -> Indices:
    """Indices of the rows whose completion no earlier row of their problem has, ascending."""
    seen: dict[tuple[str, tuple[int, ...]], int] = {}
    for row, (problem, ids) in enumerate(zip(problems, token_ids, strict=True)):
        seen.setdefault((str(problem), tuple(ids)), row)
    return np.array(list(seen.values()), dtype=np.intp)


def mismatched(problems: Strings, seed: int) -> Indices:
    """For each row another problem's row, (N,), drawn from all those alike: KTO's (x_i, y_j) (2402.01306, section 4.1).

    Raises UserError if the rows are all of one problem.
    """
    sizes = group_sizes(problems)
    others = len(problems) - sizes
    if not others.all():
        raise UserError(
            "mismatched completions, from which KTO estimates its KL term, are another problem's, but all rows are of "
            f"problem {str(problems[0])!r}: raise problems.limit"
        )
    order = np.argsort(problems, kind="stable")
    ends = np.searchsorted(problems[order], problems, side="right")
    drawn: Indices = order[(ends + np.random.default_rng(seed).integers(others)) % len(problems)]
    return drawn


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
    rows: Indices, rewards: Floats, lengths: Indices, order: Order, generator: np.random.Generator
) -> Indices:
    """Every (correct, wrong) pair of one problem's rows, (n, 2), in the order wanted."""
    right, wrong = rows[rewards[rows] > 0], rows[rewards[rows] <= 0]
    drawn = generator.permutation(len(right) * len(wrong))
    first, second = np.divmod(drawn, len(wrong))
    pairs = np.stack([right[first], wrong[second]], axis=1)
    total, apart = lengths[pairs].sum(1), abs(np.diff(lengths[pairs])[:, 0])
    keys = {"longest": -total, "shortest": total, "closest": apart}
    return pairs if order == "random" else pairs[np.argsort(keys[order], kind="stable")]


def _generator(seed: int, problem: str) -> np.random.Generator:
    digest = hashlib.sha256(problem.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
