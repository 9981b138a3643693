"""Laws of what methods see."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deltageom.errors import UserError
from deltageom.methods.shared import selection

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


def test_groups_and_advantages_closed_form() -> None:
    rewards = np.array([1.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    problems = np.array(["b", "a", "b", "b", "a", "c"])
    means = selection.group_means(rewards, problems)
    assert means == pytest.approx([1 / 3, 1, 1 / 3, 1 / 3, 1, 0])
    assert selection.group_sizes(problems).tolist() == [3, 2, 3, 3, 2, 1]
    expected = [1 - 1 / 3 + 0.1, 0.1, -1 / 3 + 0.1, -1 / 3 + 0.1, 0.1, 0.1]
    assert selection.advantages(rewards, means, 0.1) == pytest.approx(expected)
    expected = [1 - 1 / 3, 0.25, -1 / 3, -1 / 3, 0.25, 0]
    assert selection.all_correct_advantages(rewards, means, 0.25) == pytest.approx(expected)


@given(ROWS, st.floats(-1, 1))
def test_advantages_of_a_group_sum_to_its_bias(rows: list[tuple[str, bool]], bias: float) -> None:
    rewards, problems = arrays(rows)
    advantages = selection.advantages(rewards, selection.group_means(rewards, problems), bias)
    for problem in set(problems):
        group = advantages[problems == problem]
        assert group.sum() == pytest.approx(bias * len(group), abs=1e-12)
        assert np.ptp(group) == pytest.approx(np.ptp(rewards[problems == problem]))


def test_random_pairs_are_those_of_earlier_versions() -> None:
    rewards = np.tile([1.0, 0.0, 0.0, 1.0, 1.0, 0.0], 2)
    problems = np.repeat(["p", "q"], 6)
    chosen, rejected = selection.preference_pairs(rewards, problems, np.arange(12), "random", 3, 42)
    assert (chosen.tolist(), rejected.tolist()) == ([3, 3, 3, 6, 10, 9], [1, 5, 2, 11, 8, 8])


def test_pairs_come_by_length_and_equal_ones_as_drawn() -> None:
    rewards, problems = np.array([1.0, 1.0, 0.0, 0.0]), np.array(["p"] * 4)
    lengths = np.array([10, 4, 9, 5])

    def pairs(order: str, lengths: np.ndarray = lengths) -> list[tuple[int, int]]:
        found = selection.preference_pairs(rewards, problems, lengths, order, None, 3)
        return list(zip(*(side.tolist() for side in found), strict=True))

    assert pairs("longest") == [(0, 2), (0, 3), (1, 2), (1, 3)]  # 19, 15, 13, 9
    assert pairs("shortest") == pairs("longest")[::-1]
    assert set(pairs("closest")[:2]) == {(0, 2), (1, 3)}  # 1 and 1
    assert pairs("closest")[2:] == [pair for pair in pairs("random") if pair in ((0, 3), (1, 2))]  # 5 and 5
    for order in ("longest", "shortest", "closest"):
        assert pairs(order, np.full(4, 7)) == pairs("random")
    assert sorted(pairs("random")) == [(0, 2), (0, 3), (1, 2), (1, 3)]
    assert pairs("random") != sorted(pairs("random"))


@given(ROWS, st.sampled_from(["random", "longest", "shortest", "closest"]), st.integers(0, 4))
def test_more_pairs_only_add_in_every_order(rows: list[tuple[str, bool]], order: str, seed: int) -> None:
    rewards, problems = arrays(rows)
    lengths = np.arange(len(rows)) * 7 % 5 + 1
    few, many, every = (
        set(zip(*selection.preference_pairs(rewards, problems, lengths, order, n, seed), strict=True))
        for n in (1, 2, None)
    )
    assert few <= many <= every


def test_first_of_equals_goes_by_problem_and_by_all_tokens() -> None:
    problems = np.array(["a", "b", "a", "a", "b", "a"])
    ids = [np.array(x) for x in ([1, 2], [1, 2], [1, 2], [1], [1, 2, 3], [1])]
    assert selection.first_of_equals(problems, ids).tolist() == [0, 1, 3, 4]


@given(ROWS, st.integers(0, 5))
def test_mismatched_rows_are_of_other_problems(rows: list[tuple[str, bool]], seed: int) -> None:
    _, problems = arrays(rows)
    assume(len(set(problems)) > 1)
    other = selection.mismatched(problems, seed)
    assert (problems[other] != problems).all()
    assert np.array_equal(other, selection.mismatched(problems, seed))


def test_mismatched_rows_are_drawn_from_all_others_alike() -> None:
    problems = np.array(["b", "a", "b", "c", "a"])
    drawn = np.array([selection.mismatched(problems, seed) for seed in range(3000)])
    for row, problem in enumerate(problems):
        others = np.flatnonzero(problems != problem)
        share = np.array([(drawn[:, row] == other).mean() for other in others])
        assert share == pytest.approx(1 / len(others), abs=0.05)  # 5 standard errors


def test_mismatched_rows_need_two_problems() -> None:
    with pytest.raises(UserError, match=r"problem 'p'.*problems\.limit"):
        selection.mismatched(np.array(["p", "p"]), 0)


@given(ROWS, st.integers(1, 9), st.integers(0, 5))
def test_pairs_are_distinct_of_one_problem_and_as_many_as_there_can_be(
    rows: list[tuple[str, bool]], max_pairs: int, seed: int
) -> None:
    rewards, problems = arrays(rows)
    chosen, rejected = selection.preference_pairs(rewards, problems, np.ones(len(rows)), "random", max_pairs, seed)
    assert (rewards[chosen] == 1).all()
    assert (rewards[rejected] == 0).all()
    assert (problems[chosen] == problems[rejected]).all()
    assert len(set(zip(chosen.tolist(), rejected.tolist(), strict=True))) == len(chosen)
    found = Counter(problems[chosen].tolist())
    for problem in set(problems.tolist()):
        right = int(rewards[problems == problem].sum())
        assert found[problem] == min(max_pairs, right * ((problems == problem).sum() - right))


@given(ROWS, st.sampled_from(["random", "longest", "closest"]), st.integers(1, 4), st.randoms())
def test_pairs_of_a_problem_depend_on_its_own_rows_alone(
    rows: list, order_by: str, max_pairs: int, random: object
) -> None:
    def pairs(rows: list[tuple[str, bool]]) -> list[tuple[tuple[str, int], tuple[str, int]]]:
        rewards, problems = arrays(rows)
        names = identities(problems)
        lengths = np.array([before * 7 % 5 + 1 for _, before in names])
        chosen, rejected = selection.preference_pairs(rewards, problems, lengths, order_by, max_pairs, 7)
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
    few, again, other = (
        selection.preference_pairs(rewards, problems, rewards, "random", n, seed)
        for n, seed in ((3, 1), (3, 1), (3, 2))
    )
    many = selection.preference_pairs(rewards, problems, rewards, "random", 5, 1)
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
    assert selection.preference_pairs(none, names, none, "longest", 1, 0)[0].shape == (0,)
    assert selection.group_means(none, names).shape == selection.group_sizes(names).shape == (0,)
    assert selection.first_of_equals(names, []).shape == (0,)
