r"""Read final answers: strict, on one's own domain of rational numbers, linear in the text.

The rule: of the text after the last `</think>`, the last balanced \boxed{...}, else the rest of the line
after the last `####`; never the last number.
"""

import re
from fractions import Fraction

MAX_LENGTH = 1000  # characters of an answer: no benchmark's number is longer, and int() stops at 4300 digits

_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\\\|\\[{}]|[{}]")  # `\\` is a line break: a brace after it is not escaped
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")  # direction, zero width

_THOUSANDS = r"(?:,|\{,\}|\\,|,\\!)"
_NUMBER = rf"(?:(?:[0-9]{{1,3}}(?:{_THOUSANDS}[0-9]{{3}})++|[0-9]++)(?:\.[0-9]*+)?+|\.[0-9]++)"
_FRACTION = re.compile(
    rf"\\[dt]?frac\s*+(?:\{{\s*+([+-]?{_NUMBER})\s*+\}}|([0-9]))\s*+(?:\{{\s*+([+-]?{_NUMBER})\s*+\}}|([0-9]))"
)
_RATIO = re.compile(rf"({_NUMBER})(?:\s*+/\s*+({_NUMBER}))?+")
_SIGN = re.compile(r"([+-]?)\s*+(?:\\?\$|€|£)?+\s*+([+-]?)\s*+")
_STYLE = r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox)\s*+"
_STYLED = re.compile(rf"{_STYLE}\{{([^{{}}]*+)\}}")
_UNIT = re.compile(
    r"(?:\s|~|\\[,;:!\ ]"  # space
    r"|\\?[$%]|[€£°]|\^\s*+(?:\\circ|\{\\circ\})"  # currency, percent, degrees
    rf"|{_STYLE}\{{[^{{}}0-9]*+\}}"
    r"|[A-Za-z]{2,}+(?:[/-][A-Za-z]++)*+"  # cm, km/h, square-feet; one bare letter would be a variable
    r"|\^(?:[23]|\{[23]\})|[²³])*+"
)
# A word after a number that is no unit: the number alone is not the answer.
_NO_UNIT = re.compile(
    r"\b(?:and|or|to|plus|minus|times|over|pi|sqrt|half|halves|thirds?|quarters?|dozens?"
    r"|hundreds?|thousands?|(?:m|b|tr)illions?)\b",
    re.IGNORECASE,
)


def answer_part(text: str) -> str | None:
    """What stands after the last `</think>`, the whole text if there is none; None where a <think> is left open."""
    answer = text[text.rfind("</think>") + len("</think>") :] if "</think>" in text else text
    return None if "<think>" in answer else answer


def extract(text: str) -> str | None:
    r"""The final answer, or None: a think tag left open, neither box nor `####`, or nothing in it.

    Of nested boxes the innermost last one counts; a box that is never closed is skipped.
    """
    answer = answer_part(text)
    if answer is None:
        return None
    found = _last_box(answer)
    if found is None and "####" in answer:
        found = re.split(r"[\r\n]", answer[answer.rfind("####") + 4 :], maxsplit=1)[0]
    return (found or "").strip() or None


def _last_box(text: str) -> str | None:
    """Content of the last balanced box. Linear: what is open where an open box starts stays open."""
    end = len(text)
    at = text.rfind("\\boxed")
    while at >= 0:
        if box := _BOX.match(text, at, end):
            depth = 1
            for brace in _BRACE.finditer(text, box.end(), end):
                depth += {"{": 1, "}": -1}.get(brace[0], 0)
                if depth == 0:
                    return text[box.end() : brace.start()]
            end = at
        at = text.rfind("\\boxed", 0, at)
    return None


def parse(answer: str) -> Fraction | None:
    r"""The exact rational that an answer states, or None if it states anything else.

    Understood: integers and decimals with thousands marks (`,` `{,}` `\,` `,\!`, by threes only), a sign,
    a/b, \frac \dfrac \tfrac, a currency sign before or after, percent (50% is 50), units and words after the
    number, leading zeros, a final period. Not understood: expressions, mixed numbers, exponents, two numbers.
    """
    if len(answer) > MAX_LENGTH:
        return None
    answer = _INVISIBLE.sub("", answer).replace("−", "-").strip().removesuffix(".")
    if whole := _STYLED.fullmatch(answer):  # \text{10 apples}
        answer = whole[1].strip().removesuffix(".")
    if not (sign := _SIGN.match(answer)) or (sign[1] and sign[2]):
        return None
    number = _FRACTION.match(answer, sign.end()) or _RATIO.match(answer, sign.end())
    if not number:
        return None
    unit = answer[number.end() :]
    if not _UNIT.fullmatch(unit) or _NO_UNIT.search(unit):
        return None
    numerator, denominator = ([*filter(None, number.groups()), "1"])[:2]
    below = _decimal(denominator)
    if below == 0:
        return None
    return _decimal(numerator) / below * (-1 if "-" in (sign[1], sign[2]) else 1)


def _decimal(number: str) -> Fraction:
    digits = re.sub(r"[^0-9.+-]", "", number)
    whole, _, part = digits.partition(".")
    return Fraction(int(whole + part), 10 ** len(part))
