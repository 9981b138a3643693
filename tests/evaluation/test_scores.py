"""Scores from records: paired by problem, the right test, errors that name the file and the fix."""

import random

import numpy as np
import pytest

from deltageom.errors import UserError
from deltageom.evaluation import power, scores, statistics
from tests.evaluation.graded import answers


def compare(a, b, resamples=500, seed=0):
    return scores.compare(a, b, resamples, seed, ("A.jsonl", "B.jsonl"))


def test_one_answer_a_problem_is_mcnemar():
    found = compare(answers("1111110100"), answers("0000001110"))
    assert (found.test, found.n, found.samples) == ("McNemar, exact", 10, 1)
    assert (found.accuracy_a, found.accuracy_b) == (0.7, 0.3)
    assert found.difference == pytest.approx(0.4, rel=1e-12)  # a minus b
    assert (found.both, found.only_a, found.only_b) == (1, ("p0", "p1", "p2", "p3", "p4", "p5"), ("p6", "p8"))
    assert found.p == pytest.approx(2 * (1 + 8 + 28) / 2**8, rel=1e-12)
    assert found.minimum_detectable == power.detectable_by_mcnemar(10, 0.8)
    assert (found.low, found.high) == statistics.tango(6, 2, 10)


def test_several_samples_are_a_sign_flip_test_of_the_problems_means():
    a = answers("111110", "111100", "111000", "110001")
    b = answers("100000", "100000", "000000", "000000")
    differences = np.array([0.5, 1, 0.75, 0.5, 0.25, 0.25])
    found = compare(a, b)
    assert (found.test, found.n, found.samples) == ("sign-flip permutation", 6, 4)
    assert found.difference == pytest.approx(differences.mean(), rel=1e-12)
    assert found.p == pytest.approx(2 / 2**6, rel=1e-12)
    assert (found.low, found.high) == statistics.bootstrap(differences, 500, 0)
    assert found.minimum_detectable == power.detectable_by_means(differences)
    assert (found.both, found.only_a, found.only_b) == (None, None, None)


@pytest.mark.parametrize("solved", [(["110100"], ["010011"]), (["110100", "110000"], ["010011", "000011"])])
def test_pairs_are_of_problems_whatever_the_order_of_the_lines(solved):
    a, b = (answers(*texts) for texts in solved)
    shuffled = [random.Random(1).sample(records, len(records)) for records in (a, b)]
    assert compare(*shuffled) == compare(a, b)


@pytest.mark.parametrize("solved", [(["110100"], ["010111"]), (["110100", "110000"], ["010011", "000011"])])
def test_changing_places_changes_signs_alone(solved):
    one, other = (answers(*texts) for texts in solved)
    there, back = compare(one, other), compare(other, one)
    assert back.difference == -there.difference
    assert (back.p, back.only_a, back.only_b, back.minimum_detectable) == (
        there.p,
        there.only_b,
        there.only_a,
        there.minimum_detectable,
    )


def test_models_that_agree_on_every_problem():
    one = compare(answers("1010"), answers("1010"))
    z = 1.959963984540054**2
    assert (one.difference, one.p) == (0, 1)
    assert (one.low, one.high) == pytest.approx((-z / (4 + z), z / (4 + z)))  # of 4 problems, none discordant
    several = compare(answers("1010", "1100"), answers("1010", "1100"))
    assert (several.difference, several.p, several.low, several.high) == (0, 1, None, None)


def test_samples_of_a_problem_are_not_paired():
    """Only how many are correct counts: b's samples come in another order, with other numbers."""
    a, b = answers("10", "01", "11"), answers("11", "10", "00")
    renumbered = [record | {"sample": 7 - record["sample"]} for record in b]
    assert compare(a, renumbered) == compare(a, b)


def test_intervals_of_an_accuracy():
    one = scores.read(answers("11110"), "A.jsonl")
    assert scores.interval(one, 500, 0) == ("Wilson", *statistics.wilson(4, 5))
    several = scores.read(answers("11110", "10000"), "A.jsonl")
    assert several.accuracy == 0.5
    expected = statistics.bootstrap([1, 0.5, 0.5, 0.5, 0], 500, 0)
    assert scores.interval(several, 500, 0) == ("bootstrap over problems", *expected)
    assert scores.interval(scores.read(answers("11", "11"), "A.jsonl"), 500, 0)[1:] == (None, None)


def test_ids_may_be_numbers_and_sample_may_be_left_out():
    records = [{"problem_id": 10, "correct": True}, {"problem_id": 9, "correct": False}]
    found = scores.read(records, "A.jsonl")
    assert found.problems == ("10", "9")
    assert found.solved.tolist() == [[True], [False]]


def without(records, key):
    return [{k: v for k, v in record.items() if k != key} for record in records]


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ([], answers("1"), "A.jsonl: no records"),
        (
            answers("11"),
            answers("111"),
            r"A.jsonl and B.jsonl have different problems \(1 in one alone, 'p2' the first",
        ),
        (answers("1"), answers("1", problem_id="q"), r"have different problems \(2 in one alone, 'p0' the first"),
        (answers("1", "1"), answers("1"), "A.jsonl has 2 and B.jsonl 1 samples a problem"),
        (answers("11", "11")[:3], answers("11", "11"), "A.jsonl: 1 samples of problem_id 'p1' but 2 of 'p0'"),
        (answers("1"), answers("1") * 2, "B.jsonl: problem_id 'p0' with sample 0 stands twice"),
        (answers("1"), without(answers("1", "1"), "sample"), "B.jsonl: .*number several completions"),
        (answers("11"), without(answers("11"), "correct"), "B.jsonl: record 1: no 'correct'"),
        (without(answers("11"), "problem_id"), answers("11"), "A.jsonl: record 1: no 'problem_id'"),
        (answers("1", correct=2), answers("1"), "A.jsonl: record 1: correct must be true or false, or 1 or 0, not '2'"),
        (answers("1", correct=0.5), answers("1"), "A.jsonl: record 1: correct must be .*, not '0.5'"),
        (answers("1", correct="1"), answers("1"), "A.jsonl: record 1: correct must be .*, not '1'"),
        (answers("1", correct=None), answers("1"), "A.jsonl: record 1: correct must be .*, not 'None'"),
        (answers("1", sample="x"), answers("1"), "A.jsonl: record 1: sample must be a whole number"),
        (answers("1", problem_id=None), answers("1"), "A.jsonl: record 1: problem_id must be text"),
    ],
)
def test_what_cannot_be_compared(a, b, says):
    with pytest.raises(UserError, match=says):
        compare(a, b)


def test_an_id_cannot_write_to_the_terminal():
    records = answers("1", problem_id="\x1b[31m") * 2
    with pytest.raises(UserError, match="stands twice") as error:
        compare(records, records)
    assert "\x1b" not in str(error.value)
