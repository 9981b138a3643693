"""Laws of what methods see."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltageom import selection

ROWS = st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), min_size=1, max_size=30)


def arrays(rows: list[tuple[str, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([float(right) for _, right in rows]), np.array([problem for problem, _ in rows])


def identities(problems: np.ndarray) -> list[tuple[str, int]]:
    """Each row as (problem, how many rows of it came before)."""
    seen: Counter[str] = Counter()
    rows = []
    for problem in problems:
        rows.append((str(problem), seen[problem]))
        seen[problem] += 1
    return rows


def test_correct_keeps_the_rewarded_rows_in_order() -> None:
    assert selection.correct(np.array([0.0, 1.0, 0.0, 1.0])).tolist() == [1, 3]


def test_advantages_closed_form() -> None:
    rewards = np.array([1.0, 1.0, 0.0, 0.0, 1.0])
    problems = np.array(["b", "a", "b", "b", "a"])
    expected = [1 - 1 / 3 + 0.1, 0.1, -1 / 3 + 0.1, -1 / 3 + 0.1, 0.1]
    assert selection.group_advantages(rewards, problems, 0.1) == pytest.approx(expected)


@given(ROWS, st.floats(-1, 1))
def test_advantages_of_a_group_sum_to_its_bias(rows: list[tuple[str, bool]], bias: float) -> None:
    rewards, problems = arrays(rows)
    advantages = selection.group_advantages(rewards, problems, bias)
    for problem in set(problems):
        group = advantages[problems == problem]
        assert group.sum() == pytest.approx(bias * len(group), abs=1e-12)
        assert np.ptp(group) == pytest.approx(np.ptp(rewards[problems == problem]))


@given(ROWS, st.integers(1, 9), st.integers(0, 5))
def test_pairs_are_distinct_of_one_problem_and_as_many_as_there_can_be(
    rows: list[tuple[str, bool]], max_pairs: int, seed: int
) -> None:
    rewards, problems = arrays(rows)
    chosen, rejected = selection.preference_pairs(rewards, problems, max_pairs, seed)
    assert (rewards[chosen] == 1).all()
    assert (rewards[rejected] == 0).all()
    assert (problems[chosen] == problems[rejected]).all()
    assert len(set(zip(chosen.tolist(), rejected.tolist(), strict=True))) == len(chosen)
    found = Counter(problems[chosen].tolist())
    for problem in set(problems.tolist()):
        right = int(rewards[problems == problem].sum())
        assert found[problem] == min(max_pairs, right * ((problems == problem).sum() - right))


@given(ROWS, st.integers(1, 4), st.randoms())
def test_pairs_of_a_problem_depend_on_its_own_rows_alone(rows: list, max_pairs: int, random: object) -> None:
    def pairs(rows: list[tuple[str, bool]]) -> list[tuple[tuple[str, int], tuple[str, int]]]:
        rewards, problems = arrays(rows)
        names = identities(problems)
        chosen, rejected = selection.preference_pairs(rewards, problems, max_pairs, 7)
        return [(names[c], names[r]) for c, r in zip(chosen, rejected, strict=True)]

    whole = pairs(rows)
    order = [problem for problem, _ in rows]
    random.shuffle(order)
    queues = {p: iter([row for row in rows if row[0] == p]) for p in set(order)}
    interleaved = [next(queues[p]) for p in order]  # other places, the same order within each problem
    assert pairs(interleaved) == whole
    without = [row for row in rows if row[0] != "a"]
    if without:
        assert pairs(without) == [pair for pair in whole if pair[0][0] != "a"]


def test_pairs_are_drawn_by_seed_and_problem_and_more_only_adds() -> None:
    rewards = np.tile(np.repeat([1.0, 0.0], 8), 2)
    problems = np.repeat(["p", "q"], 16)
    few, again, other = (selection.preference_pairs(rewards, problems, n, seed) for n, seed in ((3, 1), (3, 1), (3, 2)))
    many = selection.preference_pairs(rewards, problems, 5, 1)
    assert np.array_equal(few, again)
    assert not np.array_equal(few, other)
    assert set(zip(*few, strict=True)) < set(zip(*many, strict=True))
    first, second = np.array(few)[:, :3], np.array(few)[:, 3:] - 16
    assert not np.array_equal(first, second)  # not the same draw for each problem


def test_counts() -> None:
    rewards, problems = arrays([("a", True), ("b", False), ("a", False), ("c", True), ("c", True)])
    assert selection.counts(rewards, problems) == {
        "rows": 5,
        "correct": 3,
        "wrong": 2,
        "problems": 3,
        "mixed_problems": 1,
    }


def test_nothing_in_nothing_out() -> None:
    none, names = np.zeros(0), np.zeros(0, dtype=np.str_)
    assert selection.counts(none, names)["rows"] == 0
    assert selection.preference_pairs(none, names, 1, 0)[0].shape == (0,)
    assert selection.group_advantages(none, names, 0.1).shape == (0,)
