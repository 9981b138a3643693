r"""Read one exact rational number from an answer: strict, linear in the text; whatever is not known is refused.

Read are integers, decimals, thousands marks by threes (`,` `{,}` `\,` `,\!` and spaces), fractions, mixed numbers,
powers of a number, powers of ten behind a number, currencies before it, and units.py's units after it.
Not read are expressions (`6xy`, `5!`, `10 squared`, `2\pi`), two numbers, decimal commas and bases.
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from deltageom.grading import units
from deltageom.grading.units import SPACE, STYLE

MAX_LENGTH = 1000  # characters of an answer: no benchmark's number is longer, and int() stops at 4300 digits
MAX_DIGITS = 1000  # of a power

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")  # direction, zero width
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
# Full-width forms, but not the comma: between numbers it parts them. Signs by their LaTeX, and ½ as a fraction.
_PLAIN = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if code != 0xFF0C}
_PLAIN |= {ord("−"): "-", ord("–"): "-", ord("×"): r"\times ", ord("·"): r"\cdot ", ord("⋅"): r"\cdot "}
_PLAIN |= {ord("°"): r"^\circ ", ord("￥"): "¥"}
_PLAIN |= {
    ord(vulgar): r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", vulgar).split("\u2044"))
    for vulgar in "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
}

_WRAPPED = [  # the delimiters of what is an answer as a whole; longer ones first
    *[(r"\left\{", r"\right\}"), (r"\left(", r"\right)"), (r"\(", r"\)"), (r"\[", r"\]"), (r"\{", r"\}")],
    *[("$$", "$$"), ("$", "$"), ("***", "***"), ("**", "**"), ("*", "*"), ("__", "__"), ("`", "`"), ("(", ")")],
]
_BRACED = re.compile(rf"(?:{STYLE}|\\(?:boxed|fbox|bm|boldsymbol)\s*+)?\{{")
_MARGIN = re.compile(rf"\\displaystyle(?![A-Za-z])|(?!~){SPACE}")  # ~5 is about 5

_MARKS = (",", r"\{,\}", r"\\,", r",\\!\s*+")
_GROUPED = "|".join(rf"[1-9][0-9]{{0,2}}(?:{mark}[0-9]{{3}})++" for mark in _MARKS)
_SPACED = r"[1-9][0-9]{0,2}(?:(?:\s|~|\\[\ ;:])[0-9]{3})++"  # 1 000 000
_INTEGER = rf"(?:{_GROUPED}|[0-9]++)"
_NUMBER = rf"(?:{_INTEGER}(?:\.[0-9]*+)?+|\.[0-9]++)"
_SIGNED = rf"[+-]?\s*+{_NUMBER}"
_EXPONENT = r"\^\s*+(?:([0-9])|\{\s*+([+-]?[0-9]{1,4})\s*+\})"  # 10^23 is 10^{2}3 to LaTeX: not read
_FRACTION = rf"\\[cdt]?frac\s*+(?:\{{\s*+({_SIGNED})\s*+\}}|([0-9]))\s*+(?:\{{\s*+({_SIGNED})\s*+\}}|([0-9]))"

_SIGN = re.compile(
    rf"([+-]?)\s*+(\\?\$|[€£¥₹₩]|{STYLE}\{{\s*+\\?\$\s*+\}}|\\pounds(?![A-Za-z])|(?:USD|US\$|Rs\.?)(?![A-Za-z]))?+"
    rf"(?:(?!~){SPACE})*+([+-]?)\s*+"
)
_SCIENTIFIC = re.compile(rf"({_NUMBER})(?:\s*+(?:\\times|\\cdot|\*)\s*+10{_EXPONENT}|[eE]([+-]?[0-9]{{1,3}})(?![0-9]))")
_POWER = re.compile(rf"({_NUMBER}){_EXPONENT}")
_MIXED = re.compile(rf"({_INTEGER}){SPACE}*+{_FRACTION}|({_INTEGER}){SPACE}++([0-9]{{1,2}})/([0-9]++)")
_RATIO = re.compile(rf"{_FRACTION}|({_NUMBER})\s*+/\s*+({_SIGNED})")
_PLAIN_NUMBER = re.compile(rf"{_SPACED}(?:\.[0-9]++)?+|{_NUMBER}")
_PARTS = {
    name: number
    for number, name in enumerate(("third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"), 3)
}
_IN_PARTS = re.compile(
    rf"([0-9]++){SPACE}*+(?:{STYLE}\{{{SPACE}*+({'|'.join(_PARTS)})s?\s*+\}}|({'|'.join(_PARTS)})s?)"
)

_GREEK = "alpha|beta|gamma|delta|epsilon|theta|lambda|mu|rho|sigma|tau|phi|omega|ell|angle|measuredangle|triangle"
_ATOM = rf"(?:[A-Za-z]|\\(?:{_GREEK})(?![A-Za-z])\s*+)(?:_(?:[A-Za-z0-9]|\{{[A-Za-z0-9]++\}}))?+'?+"
_NAME = re.compile(rf"(?:{_ATOM}\s*+(?:\+\s*+)?+)++(?:\([A-Za-z0-9]\))?+|{STYLE}\{{[A-Za-z ]++\}}")


@dataclass(frozen=True)
class Quantity:
    """An exact number, and the standard names of the measured units that stand with it."""

    value: Fraction
    units: frozenset[str]

    def equals(self, other: "Quantity") -> bool:
        """Equal numbers whose units, where both have some, do not contradict each other: 5 dollars is not 5 cents."""
        return self.value == other.value and (self.units <= other.units or other.units <= self.units)


def parse(answer: str) -> Fraction | None:
    """The exact rational that an answer is, or None if it is anything else; 50% is 50."""
    found = read(answer)
    return None if found is None else found.value


def read(answer: str) -> Quantity | None:
    """The number, with its units, that an answer is; None if it is anything else."""
    if len(answer) > MAX_LENGTH:
        return None
    return _quantity(_plain(answer))


def read_stated(answer: str) -> Quantity | None:
    """As `read`, of an answer that may name what it is or how it came about: `x = 5`, `m + n = 5`, `x = 7/2 = 3.5`.

    A gold is not read so: that of an equation would be right whatever the letter.
    """
    if len(answer) > MAX_LENGTH:
        return None
    *before, last = _plain(answer).split("=")
    if (found := _quantity(_bare(last))) is None:
        return None
    for number, part in enumerate(map(_bare, before)):
        same = _quantity(part)
        name = _NAME.fullmatch(part) or (number == 0 and not part)
        if not (name or (same is not None and same.equals(found))):
            return None
    return found


def _plain(answer: str) -> str:
    """The answer in ASCII, without what wraps it as a whole."""
    answer = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda found: f"^{{{found[0].translate(_RAISED)}}}", answer)
    return _bare(_INVISIBLE.sub("", answer).translate(_PLAIN))


def _bare(answer: str) -> str:
    while True:
        before = answer
        answer = _unwrapped(_stripped(answer))
        if answer == before:
            return answer


def _stripped(answer: str) -> str:
    """Without space, as text and as LaTeX, at both ends, and without a period, comma or semicolon at the end."""
    answer = answer.strip()
    while margin := _MARGIN.match(answer):
        answer = answer[margin.end() :]
    while shorter := re.search(rf"(?:(?<![\\.])[.,;]|{SPACE}|\\+)$", answer):
        answer = answer[: shorter.start()]
    return answer


def _unwrapped(answer: str) -> str:
    if (opening := _BRACED.match(answer)) and answer.endswith("}"):
        inside, depth = answer[opening.end() : -1], 0
        for brace in re.findall(r"\\[{}]|[{}]", inside):
            depth += {"{": 1, "}": -1}.get(brace, 0)
            if depth < 0:
                return answer
        return answer if depth or inside.endswith("\\") else inside
    for left, right in _WRAPPED:
        if len(answer) > len(left) + len(right) and answer.startswith(left) and answer.endswith(right):
            inside = answer[len(left) : -len(right)]
            again = inside.replace(r"\$", "")  # a dollar sign within a formula's
            return answer if left in again or right in again or inside.endswith("\\") else inside
    return answer


def _quantity(answer: str) -> Quantity | None:
    sign = _SIGN.match(answer)
    if not sign or (sign[1] and sign[3]):
        return None
    negative = "-" in (sign[1], sign[3])
    currency = "$" if "$" in (sign[2] or "") else (sign[2] or "").replace(r"\pounds", "£").removesuffix(".")
    for form in (_scientific, _power, _mixed, _ratio, _in_parts, _number):
        if (found := form(answer, sign.end())) is not None:
            value, end = found
            named = units.read(answer[end:], currency)
            if value is None or named is None or (not named and _is_list(answer[sign.end() : end])):
                return None
            return Quantity(-value if negative else value, named)
    return None


# Each form: the value, or None if it is not to be read, and where it ends; or None if the text has another form.
_Form = tuple[Fraction | None, int] | None


def _scientific(text: str, start: int) -> _Form:
    if not (found := _SCIENTIFIC.match(text, start)):
        return None
    exponent = int(found[2] or found[3] or found[4])
    return (_decimal(found[1]) * Fraction(10) ** exponent if abs(exponent) <= MAX_DIGITS else None), found.end()


def _power(text: str, start: int) -> _Form:
    if not (found := _POWER.match(text, start)):
        return None
    base, exponent = _decimal(found[1]), int(found[2] or found[3])
    if len(found[1]) * abs(exponent) > MAX_DIGITS or (base == 0 and exponent <= 0):
        return None, found.end()
    return base**exponent, found.end()


def _mixed(text: str, start: int) -> _Form:
    if not (found := _MIXED.match(text, start)):
        return None
    whole, above, below = (_decimal(part) for part in found.groups() if part is not None)
    proper = whole > 0 and 0 < above < below
    return (whole + above / below if proper else None), found.end()


def _ratio(text: str, start: int) -> _Form:
    if not (found := _RATIO.match(text, start)):
        return None
    above, below = (_decimal(part) for part in found.groups() if part is not None)
    return (above / below if below else None), found.end()


def _in_parts(text: str, start: int) -> _Form:
    """`3 fifths`."""
    if not (found := _IN_PARTS.match(text, start)):
        return None
    return Fraction(int(found[1]), _PARTS[found[2] or found[3]]), found.end()


def _number(text: str, start: int) -> _Form:
    found = _PLAIN_NUMBER.match(text, start)
    return (_decimal(found[0]), found.end()) if found else None


def _is_list(number: str) -> bool:
    """Whether groups of three digits are as well three or more numbers in ascending order, as in `100,101,102`.

    Two such groups are one number, as data sets write it: nothing tells the set 70,110 from GSM8K's gold 65,960.
    """
    groups = re.split(r"[,\s~]", number)
    ascending = all(a < b for a, b in pairwise(groups))
    return len(groups) > 2 and all(re.fullmatch("[1-9][0-9]{2}", group) for group in groups) and ascending


def _decimal(number: str) -> Fraction:
    digits = re.sub(r"[^0-9.+-]", "", number)
    whole, _, part = digits.partition(".")
    return Fraction(int(whole + part), 10 ** len(part))
