"""Grade a completion against a gold answer: what answers.py reads of both, compared as exact rationals."""

from dataclasses import dataclass
from typing import Literal

from deltageom.answers import extract, parse
from deltageom.errors import UserError

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
    expected = parse(gold)
    if expected is None:
        shown = repr(gold if len(gold) <= 80 else gold[:80] + "...")
        raise UserError(f"gold answer {shown} is not a rational number: leave such problems out of the data set")
    extracted = extract(text)
    if extracted is None:
        return Grade(None, False, "no answer")
    given = parse(extracted)
    if given is None:
        return Grade(extracted, False, "unparsable")
    return Grade(extracted, given == expected, "correct" if given == expected else "wrong")
