import json
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltageom.errors import UserError
from deltageom.grading.answers import answer_part, as_said, extract
from deltageom.grading.numbers import parse
from deltageom.grading.strict import grade

LONG = 10_000_000


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{18}.", "18"),
        (r"\boxed{1} then \boxed{ 2 }", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\frac{\sqrt{1}}{2}} and {more}", r"\frac{\sqrt{1}}{2}"),
        (r"\boxed {3}", "3"),
        (r"\boxed{12} or \boxed{13", "12"),  # the last one is cut off
        (r"\boxed{a \boxed{5}", "5"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\boxed{5}", "5"),
        (r"\boxed{\{5\}}", r"\{5\}"),
        (r"\boxed{5\}", None),  # an escaped brace closes nothing
        (r"\boxed{5\\}", r"5\\"),  # a line break before the brace does
        (r"{ \boxed{5}", "5"),
        (r"so $\boxed 5$.", "5"),
        (r"\boxed5.", "5."),
        (r"\boxed 5 + 3", None),  # TeX boxes the 5 alone, and the answer is another
        (r"\boxed x", None),
        (r"\fbox{18}", "18"),
        (r"\boxedtext{5}", None),
        (r"\boxed{}", None),
        ("\\boxed{5}, so I wrote it in \\boxed{ }", "5"),
        ("\\boxed{}\n#### 7", "7"),
        (r"\boxed{5} #### 6", "5"),
        ("#### 17\n#### 18 \nand 19", "18"),
        ("##### 7", "7"),
        ("#### **73** ", "73"),
        ("**#### 73**", "73"),
        ("####", None),
        ("#### \n 7", None),
        ("the answer is 18", None),
        ("", None),
        (r"<think>\boxed{1}</think> \boxed{2}", "2"),
        (r"<think>\boxed{1}</think> none", None),
        (r"a</think>b \boxed{1}</think> \boxed{2}", "2"),
        (r"a</think>\boxed{1}</think> none", None),
        (r"<think>\boxed{1}", None),
        (r"<think>a</think><think>\boxed{1}", None),
    ],
)
def test_extract(text, answer):
    assert extract(text) == answer


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a", "a"),
        ("", ""),
        ("<think>a</think>b", "b"),
        ("a</think>b</think> c ", " c "),
        ("<think>a</think>", ""),
        ("<think>a", None),
        ("<think>a</think>b<think>c", None),
    ],
)
def test_answer_part(text, part):
    assert answer_part(text) == part


@pytest.mark.parametrize(
    ("prompt", "response", "finish", "answer"),
    [
        ("Q <think>\n", r"perhaps \boxed{5}? Let me", "length", None),
        ("Q <think>\n", r"perhaps \boxed{5}? Let me", None, None),  # it is not known how it ended
        ("Q <think>\n", r"so </think> \boxed{5}", "stop", "5"),
        ("Q <think>\n", r"\boxed{4} so </think> \boxed{5}, I", "length", "5"),
        ("Q <think>\n", r"\boxed{5}", "stop", "5"),  # it has had no thoughts
        ("Q <think>\n", r"\boxed{5}", "reference", "5"),
        ("Q <think>\n</think>\n", r"\boxed{5} I", "length", "5"),  # Qwen3 without thinking
        ("<think>a</think> Q <think>", r"\boxed{5} I", "length", None),
        ("Q", r"\boxed{5} I", "length", "5"),
        ("Q", r"<think>\boxed{5} I", "length", None),
        ("Q", r"<think>\boxed{5}", "stop", None),
        ("", r"\boxed{5}", None, "5"),
    ],
)
def test_thoughts_that_the_prompt_opens(prompt, response, finish, answer):
    assert extract(as_said(prompt, response, finish)) == answer


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        *[(form, 1234) for form in ("1,234", "1{,}234", r"1\,234", r"1,\!234", "1234.", "01234", "1234.00")],
        *[(form, 18) for form in ("$18", r"\$18", "$18$", "€18", "18€", "£18", "18%", r"18\%", "18 percent")],
        *[(form, 18) for form in ("18 apples", "18cm", "18 km/h", r"18\text{ cm}^2", r"18 \mathrm{m}", "18°")],
        *[(form, 18) for form in (r"\text{18 apples.}", r"18^\circ", r"\textbf{18}", r"18\,\text{kg}.")],
        *[(form, Fraction(1, 2)) for form in ("1/2", "0.5", ".5", "00.50", r"\frac{1}{2}", r"\dfrac{2}{4}")],
        *[(form, Fraction(1, 2)) for form in (r"\frac12", r"\tfrac 1 2", r"\frac{-1}{-2}", "0.25 / 0.5")],
        *[(form, -5) for form in ("-5", "−5", "- 5", "-$5", "$-5", r"-\frac{10}{2}", r"\frac{-10}{2}")],
        ("+5", 5),
        ("-0", 0),
        (r"\$1,234.50", Fraction(2469, 2)),
        ("1,234,567", 1234567),
        ("\u200f18\u200e", 18),
        ("9" * 999, 10**999 - 1),
    ],
)
def test_parse(answer, value):
    assert parse(answer) == value


@pytest.mark.parametrize(
    "answer",
    [
        *["", " ", ".", "$", "-", "/2", "x", "5x", "5 x", "x = 5", "5!", "--5", "-$-5", "nan", "inf", "1e"],
        *[
            "3,4",
            "1,23",
            "1,2345",
            "12345,678",
            "3.4.5",
            "12:30",
            "5-6",
            "3 4",
        ],
        *[
            "1/0",
            r"\frac{1}{0}",
            "3/4/5",
            r"\frac{1}{2",
            r"\frac{\pi}{2}",
            r"2\pi",
            "2 pi",
            "9^10",
            r"\sqrt{2}",
        ],
        *["3 or 4", r"3 \text{ or } 4", "3 million", r"3 \text{ Dozen}", "3 and a half", r"5 \times 10"],
        *["٣", "1\x008", "9" * 5000, "0x10", "1_000", "3 hours 20 minutes"],
        *["9" * 900 + "^2", "2^{9999}", "1e-2000", "2^{" + "9" * 900 + "}"],
    ],
)
def test_parse_refuses_what_is_not_one_number(answer):
    assert parse(answer) is None


ADVERSARIAL = [json.loads(line) for line in Path(__file__).with_name("adversarial.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("row", ADVERSARIAL, ids=lambda row: f"{row['why']}: {row['response']} for {row['gold']}")
def test_adversarial_answers(row):
    assert grade(row["response"], row["gold"]).correct == row["correct"]


def test_the_adversarial_set_has_right_and_wrong_answers():
    assert min(Counter(row["correct"] for row in ADVERSARIAL).values()) > 50


@settings(deadline=None)
@given(st.integers(2, 10**6), st.text("abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=8))
def test_an_unknown_word_after_a_number_is_refused(number, letters):
    """Also where the word begins or ends with a known one; `q` begins and ends none."""
    assert parse(f"{number} q{letters}") is None
    assert parse(rf"{number} \text{{ {letters}q}}") is None
    assert parse(f"{number}{letters}q") is None
    with pytest.raises(UserError, match="not a rational number"):
        grade("", f"{number} {letters}q")


@settings(deadline=None)
@given(st.integers(1, 999), st.integers(1, 999), st.integers(-9, 9))
def test_forms_are_worth_what_they_say(a, b, exponent):
    assert parse(f"{a}^{{{exponent}}}") == Fraction(a) ** exponent
    assert parse(rf"-{a} \times 10^{{{exponent}}}") == -a * Fraction(10) ** exponent
    assert parse(f"{a}e{exponent}") == a * Fraction(10) ** exponent
    assert parse(rf"-{b}\frac{{{a}}}{{1000}}") == -(b + Fraction(a, 1000))
    assert parse(f"{a}/-{b}") == Fraction(-a, b)


@settings(deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6))
def test_parse_reads_back_what_is_printed(numerator, denominator):
    value = Fraction(numerator, denominator)
    assert parse(str(value)) == value
    assert parse(rf"\frac{{{numerator:,}}}{{{denominator:,}}}") == value
    assert parse(f"${numerator:,}.") == numerator
    assert parse(f"{numerator / 8:.3f}".replace("-", "−")) == Fraction(numerator, 8)


@settings(deadline=None)
@given(st.text(alphabet=r"\{}boxedfractext0123456789.,/$%- #<>" + "\x00\u200f\n", max_size=60))
def test_any_text_is_graded(text):
    result = grade(text, "18")
    assert result.correct == (result.reason == "correct")
    assert (result.extracted is None) == (result.reason == "no answer")


@pytest.mark.parametrize(
    ("text", "gold", "reason"),
    [
        (r"\boxed{\$18.00}", "18", "correct"),
        ("#### 1,800", "1800.0", "correct"),
        (r"\boxed{0.5}", r"\frac{1}{2}", "correct"),
        (r"\boxed{0.333}", "1/3", "wrong"),
        (r"\boxed{x}", "18", "unparsable"),
        ("18", "18", "no answer"),
        (r"\boxed{0.333333}", "1/3", "wrong"),  # no rounding
        (r"\boxed{50\%}", "0.5", "wrong"),  # 50% is 50
        ("\\boxed{\u202e81\u202c}", "18", "wrong"),  # a terminal shows 18
        ("\\boxed{18\ud800}", "18", "unparsable"),
        ("\ud800\\boxed{18}", "18", "correct"),
        (r"\boxed{9^{9^{9^9}}}", "18", "unparsable"),
        (r"\boxed{18} or \boxed{19", "18", "correct"),  # the last one is cut off
        (r"\boxed{18}</think>", "18", "no answer"),
    ],
)
def test_grade(text, gold, reason):
    assert grade(text, gold).reason == reason
    assert grade(text, gold).correct == (reason == "correct")


@pytest.mark.parametrize("gold", ["", r"\frac{\pi}{2}", "(1, 2)"])
def test_a_gold_outside_the_rationals_is_an_error_even_without_an_answer(gold):
    with pytest.raises(UserError) as raised:
        grade("no answer", gold)
    assert repr(gold) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (r"\boxed{" * (LONG // 7), "no answer"),  # quadratic if each were scanned to the end
        (r"\boxed{" + "9" * LONG + "}", "unparsable"),
        ("#### " + "9" * LONG, "unparsable"),
        (r"\boxed{" + "\u200f" * LONG + "}", "unparsable"),
        ("\x00" * LONG + r"\boxed{18}", "correct"),
        ("<think>" * (LONG // 7), "no answer"),
    ],
)
def test_ten_megabytes_are_graded_in_linear_time(text, reason):
    start = time.process_time()
    assert grade(text, "18").reason == reason
    assert time.process_time() - start < 20
