"""Which problems an online run's steps ask."""

import pytest

from deltageom.training.online.order import Groups


def test_batches_are_full_and_an_epoch_has_every_problem_once() -> None:
    order = list(Groups(problems=5, asked=2, group=3, batches=5, repeats=1, seed=1))
    asked = order[::3]
    assert order == [one for one in asked for _ in range(3)]
    assert sorted(asked[:5]) == sorted(asked[5:]) == list(range(5))
    assert asked[:5] != asked[5:]
    assert len(order) == len(Groups(5, 2, 3, 5, 1, 1)) == 30


def test_each_batch_comes_as_often_as_micro_batches_and_steps_take_from_it() -> None:
    once = list(Groups(4, 2, 2, 2, 1, seed=0))
    thrice = list(Groups(4, 2, 2, 2, 3, seed=0))
    assert thrice == once[:4] * 3 + once[4:] * 3


def test_the_seed_decides_alone() -> None:
    orders = {seed: list(Groups(20, 4, 1, 5, 1, seed)) for seed in (0, 1)}
    assert orders[0] == list(Groups(20, 4, 1, 5, 1, 0)) != orders[1]
    # a longer training begins as a shorter one
    assert list(Groups(20, 4, 1, 9, 1, 0))[:20] == orders[0]


@pytest.mark.parametrize("problems", [1, 3])
def test_fewer_problems_than_a_step_asks_come_again(problems: int) -> None:
    assert set(Groups(problems, 4, 2, 3, 1, 0)) == set(range(problems))
