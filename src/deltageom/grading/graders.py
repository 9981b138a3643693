"""What both graders say of completions, and whose word counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deltageom.grading import numbers, strict
from deltageom.grading.answers import extract
from deltageom.grading.second_opinion import Failure, Opinion, Pair
from deltageom.study.running import Grader

Judge = Callable[[list[Pair]], list[Opinion]]

UNREAD_GOLD = "gold not read"  # the strict grader's reason where it has no verdict


@dataclass(frozen=True)
class Verdict:
    """`correct`: the primary grader's word; what it has no verdict on is not correct."""

    extracted: str | None
    correct: bool
    strict: bool | None  # None: the gold is no rational number
    reason: str  # the strict grader's
    math_verify: bool | None
    failure: Failure | None  # why math-verify has no verdict


def grade(said: Sequence[Pair], judge: Judge | None, primary: Grader) -> list[Verdict]:
    """The verdicts on each (response as `answers.as_said` has it, gold), in the order given.

    `judge` gives math-verify's opinions; without it there are none. Raises UserError for a gold that is no rational
    number where the strict grader is the primary one.
    """
    opinions = judge(list(said)) if judge else [Opinion(None, None)] * len(said)
    return [_verdict(*pair, opinion, primary) for pair, opinion in zip(said, opinions, strict=True)]


def _verdict(text: str, gold: str, opinion: Opinion, primary: Grader) -> Verdict:
    by_strict: bool | None = None
    if primary == "strict" or numbers.parse(gold) is not None:
        found = strict.grade(text, gold)
        extracted, by_strict, reason = found.extracted, found.correct, str(found.reason)
    else:
        extracted, reason = extract(text), UNREAD_GOLD
    correct = by_strict if primary == "strict" else opinion.verdict
    return Verdict(extracted, correct is True, by_strict, reason, opinion.verdict, opinion.failure)
