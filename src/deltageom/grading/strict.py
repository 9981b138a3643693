"""Grade a completion against a gold answer: what numbers.py reads of both, compared as exact rationals."""

from dataclasses import dataclass
from typing import Literal

from deltageom.errors import UserError
from deltageom.grading.answers import extract
from deltageom.grading.numbers import read, read_stated

Reason = Literal["correct", "wrong", "no answer", "unparsable"]


@dataclass(frozen=True)
class Grade:
    extracted: str | None
    correct: bool
    reason: Reason


def grade(text: str, gold: str) -> Grade:
    r"""Whether the text's final answer equals the gold.

    Raises UserError for a gold that is no rational number (MATH's `\frac{\pi}{2}`): such problems are outside
    this grader's domain, and to compare strings instead would hide it.
    """
    expected = read(gold)
    if expected is None:
        shown = repr(gold if len(gold) <= 80 else gold[:80] + "...")
        raise UserError(
            f"gold answer {shown} is not a rational number: leave such problems out of the data set, or "
            "let math-verify grade them (grading.primary, --primary)"
        )
    extracted = extract(text)
    if extracted is None:
        return Grade(None, False, "no answer")
    given = read_stated(extracted)
    if given is None:
        return Grade(extracted, False, "unparsable")
    correct = given.equals(expected)
    return Grade(extracted, correct, "correct" if correct else "wrong")
