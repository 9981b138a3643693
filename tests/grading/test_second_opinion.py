r"""math-verify in processes that can be killed; and what both graders say of answers made to mislead them.

The verdicts of math-verify in CASES are measured (0.9.0, its defaults), not wished for.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from deltageom.errors import UserError
from deltageom.grading import second_opinion
from deltageom.grading.second_opinion import Opinion, Pair, judge, settle
from deltageom.grading.strict import Reason, grade

TOWER = r"\boxed{9^{9^{9^9}}}"
LONG = 10_000_000


@dataclass(frozen=True)
class Case:
    response: str
    gold: str
    strict: Reason
    math_verify: bool


CASES = {
    "nested": Case(r"\boxed{\boxed{18}}", "18", "correct", True),
    "nested in text": Case(r"\boxed{\text{total } \boxed{18}}", "18", "correct", True),
    "repeated": Case(r"\boxed{18}, so \boxed{18}", "18", "correct", True),
    # boxes joined by "and", "or", "," become a set
    "two joined": Case(r"\boxed{17} and \boxed{18}", "18", "correct", False),
    "two joined, the first right": Case(r"\boxed{18} and \boxed{17}", "18", "wrong", False),
    "two apart": Case(r"First \boxed{17}. On reflection \boxed{18}.", "18", "correct", True),
    "two apart, the first right": Case(r"First \boxed{18}. On reflection \boxed{17}.", "18", "wrong", False),
    "the last cut off": Case(r"\boxed{18} or \boxed{19", "18", "correct", True),
    "cut off": Case(r"so \boxed{18", "18", "no answer", False),
    "thin space": Case(r"\boxed{1\,234}", "1234", "correct", False),  # 1 + 234
    "comma in braces": Case(r"\boxed{1{,}234}", "1234", "correct", True),
    "comma": Case(r"\boxed{1,234}", "1234", "correct", True),
    "space": Case(r"\boxed{1 234}", "1234", "correct", False),
    "dollars": Case(r"\boxed{\$10.00}", "10", "correct", True),
    "text": Case(r"\boxed{\text{10 apples}}", "10", "correct", False),
    "unit in text": Case(r"\boxed{10 \text{ apples}}", "10", "correct", True),
    "fbox": Case(r"\fbox{18}", "18", "correct", False),
    "final period": Case(r"\boxed{18.}", "18", "correct", False),
    "fraction": Case(r"\boxed{\frac{1}{2}}", "0.5", "correct", True),
    "fraction without braces": Case(r"\boxed{\frac12}", "1/2", "correct", True),
    "unreduced": Case(r"\boxed{\dfrac{2}{4}}", r"\frac{1}{2}", "correct", True),
    "mixed number": Case(r"\boxed{1\frac{1}{2}}", "1.5", "correct", True),
    "negative": Case(r"\boxed{-5}", "-5", "correct", True),
    "minus sign": Case(r"\boxed{−5}", "-5", "correct", True),
    "negative fraction": Case(r"\boxed{-\frac{10}{2}}", "-5", "correct", True),
    "sign lost": Case(r"\boxed{5}", "-5", "wrong", False),
    "leading zeros": Case(r"\boxed{007}", "7", "correct", True),
    "leading zeros of the gold": Case(r"\boxed{7}", "007", "correct", True),
    "six digits of a third": Case(r"\boxed{0.333333}", "1/3", "wrong", True),  # it rounds to six
    "three digits of a third": Case(r"\boxed{0.333}", "1/3", "wrong", False),
    "percent": Case(r"\boxed{50\%}", "50", "correct", True),
    "percent of one": Case(r"\boxed{50\%}", "0.5", "wrong", True),  # it takes 50% for both
    "product": Case(r"\boxed{2 \cdot 9}", "18", "unparsable", True),
    "equation": Case(r"\boxed{x = 18}", "18", "correct", True),
    "infinity": Case(r"\boxed{\frac{18}{0}}", "18", "unparsable", False),
    "think tag left open": Case(r"<think> \boxed{18}", "18", "no answer", False),
    "opened again": Case(r"<think>a</think><think>\boxed{18}", "18", "no answer", False),
    "box in the thought alone": Case(r"<think>\boxed{18}</think> Done.", "18", "no answer", False),
    "box in the thought and after": Case(r"<think>\boxed{17}</think> \boxed{18}", "18", "correct", True),
    "right in the thought alone": Case(r"<think>\boxed{18}</think> \boxed{17}", "18", "wrong", False),
    "hashes": Case("so 17\n#### 18", "18", "correct", True),
    "hashes, then more": Case("#### 18\nNot 19.", "18", "correct", False),  # the last number
    "no box": Case("He has 3 boxes of 18", "18", "no answer", True),  # the last number
    "empty": Case("", "18", "no answer", False),
    "empty box": Case(r"\boxed{}", "18", "no answer", False),
    "NUL before": Case("\x00" * 50 + r"\boxed{18}", "18", "correct", True),
    "NUL inside": Case("\\boxed{1\x008}", "18", "unparsable", False),
    "marks of direction": Case("\\boxed{\u200f18\u200f}", "18", "correct", False),
    "shown as 18": Case("\\boxed{\u202e81\u202c}", "18", "wrong", False),
    "lone surrogate before": Case("\ud800 \\boxed{18}", "18", "correct", True),
    "lone surrogate inside": Case("\\boxed{18\ud800}", "18", "unparsable", False),
    "Arabic digits": Case("\\boxed{١٨}", "18", "unparsable", False),
    "many boxes": Case(r"\boxed{" * 2000, "18", "no answer", False),
}


@pytest.fixture(scope="module")
def opinions() -> dict[str, Opinion]:
    pairs = [(case.response, case.gold) for case in CASES.values()]
    # far more seconds than any needs: a busy machine changes no verdict here
    return dict(zip(CASES, judge(pairs, workers=2, seconds=60, progress=False), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_what_each_grader_says(name: str, opinions: dict[str, Opinion]) -> None:
    case = CASES[name]
    assert grade(case.response, case.gold).reason == case.strict
    assert opinions[name] == Opinion(case.math_verify, None)


# Gold, and another form of it. As `$gold$` all are understood; bare, the first six would not be.
GOLDS = [
    *[("1{,}234", "1234"), (r"\dfrac{3}{4}", "0.75"), (r"\$1,234.50", "1234.5"), (r"11\sqrt2", r"\sqrt{242}")],
    *[("p - q", "-q + p"), (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)"), ("$18$", "18"), ("$18", "18")],
    *[("18.", "18"), ("18", "18.0"), ("6 - 5i", "-5i + 6"), (r"\text{Evelyn}", r"\text{evelyn}"), ("x=5", "5")],
    (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{pmatrix} 0.2 \\ -3.6 \end{pmatrix}"),
]


def test_golds_of_gsm8k_and_of_math_are_understood() -> None:
    right = [(rf"So it is $\boxed{{{answer}}}$.", gold) for gold, answer in GOLDS]
    wrong = [(r"So it is $\boxed{77}$.", gold) for gold, _ in GOLDS]
    found = judge(right + wrong, workers=2, seconds=60, progress=False)
    assert found == [Opinion(True, None)] * len(right) + [Opinion(False, None)] * len(wrong)


def test_a_gold_that_is_not_understood_is_no_verdict() -> None:
    assert judge([(r"\boxed{18}", "")], progress=False) == [Opinion(None, "error")]


def test_limits_stop_their_item_alone_and_the_order_is_kept() -> None:
    hostile = [TOWER, r"\boxed{" + "9" * LONG + "}", r"\boxed{" * (LONG // 7), r"\boxed{100000000!}"]
    pairs = [pair for text in hostile for pair in ((r"\boxed{18}", "18"), (text, "18"), (r"\boxed{19}", "18"))]
    assert judge(pairs, workers=2, seconds=2.5, progress=False) == [
        Opinion(True, None),
        Opinion(None, "timeout"),
        Opinion(False, None),
    ] * len(hostile)
    reasons = [grade(text, "18").reason for text in hostile]
    assert reasons == ["unparsable", "unparsable", "no answer", "unparsable"]


@pytest.mark.parametrize("filler", ["word ", "\x00"])
def test_ten_megabytes_before_the_box_are_read_or_run_out_of_time(filler: str) -> None:
    text = filler * (LONG // len(filler)) + r"\boxed{18}"
    assert grade(text, "18").correct
    # 2 to 5 s here
    assert judge([(text, "18")], seconds=2, progress=False)[0] in (Opinion(True, None), Opinion(None, "timeout"))


def test_memory_that_math_verify_would_call_a_wrong_answer() -> None:
    # 6 s and 2 GiB; sympy and math-verify catch the MemoryError and answer False
    hostile = (r"\boxed{(1+x)^{10^9}}", "18")
    pairs = [(r"\boxed{18}", "18"), hostile, (r"\boxed{19}", "19")]
    found = judge(pairs, workers=1, seconds=60, memory_mib=64, progress=False)
    assert found == [Opinion(True, None), Opinion(None, "memory"), Opinion(True, None)]


def test_equal_pairs_and_open_thoughts_are_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Pair] = []

    def say_the_length(pairs: list[Pair], *_: object) -> list[Opinion]:
        asked.extend(pairs)
        return [Opinion(len(text) == 1, None) for text, _ in pairs]

    monkeypatch.setattr(second_opinion, "_ask", say_the_length)
    pairs = [("a", "1"), ("bb", "1"), ("a", "1"), ("<think>a", "1"), ("<think>x</think>a", "1"), ("a", "2")]
    verdicts = [opinion.verdict for opinion in judge(pairs)]
    assert asked == [("a", "1"), ("bb", "1"), ("a", "2")]
    assert verdicts == [True, False, True, False, True, True]


@pytest.mark.parametrize("pairs", [[], [(r"<think>\boxed{18}", "18")]])
def test_no_process_is_started_for_nothing(pairs: list[Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    assert judge(pairs) == [Opinion(False, None)] * len(pairs)


def test_workers_are_needed() -> None:
    with pytest.raises(UserError, match="0 workers cannot judge anything"):
        judge([(r"\boxed{18}", "18")], workers=0)


def misbehave(text: str, gold: str) -> bool:  # noqa: ARG001
    if text == "exit":
        os._exit(0)
    if text == "exit 7":
        os._exit(7)
    if text == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "leaves":
        sys.exit(1)
    if text == "raises":
        raise RecursionError
    if text == "full":
        raise MemoryError
    if text == "sleeps":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(100)
    return text == "good"


FATES = {
    "exit": Opinion(None, "crash"),
    "exit 7": Opinion(None, "crash"),
    "killed": Opinion(None, "crash"),
    "leaves": Opinion(None, "crash"),
    "raises": Opinion(None, "error"),
    "full": Opinion(None, "memory"),
    "sleeps": Opinion(None, "timeout"),
}


@pytest.mark.parametrize("workers", [1, 3])
def test_one_worker_s_end_is_its_item_s_alone(workers: int) -> None:
    texts = [text for fate in FATES for text in ("good", fate, "bad", fate)]
    found = dict(settle(misbehave, [(text, "") for text in texts], workers, seconds=1.5))
    fates = FATES | {"good": Opinion(True, None), "bad": Opinion(False, None)}
    assert [found[number] for number in range(len(texts))] == [fates[text] for text in texts]
    assert not psutil.Process().children(recursive=True)


def test_a_worker_that_dies_between_two_items_costs_none() -> None:
    seen = []
    for number, opinion in settle(misbehave, [("good", "")] * 40, 1, seconds=10):
        seen.append((number, opinion))
        (worker,) = psutil.Process().children()
        worker.kill()
        wait_until(lambda worker=worker: worker.status() == psutil.STATUS_ZOMBIE)
    assert seen == [(number, Opinion(True, None)) for number in range(40)]


def test_time_is_measured_from_the_item_s_own_start() -> None:
    start = time.monotonic()
    found = list(settle(lambda *_: time.sleep(0.2) is None, [("", "")] * 10, 1, seconds=1.5))
    assert time.monotonic() - start > 2  # ten of them take longer than one may
    assert all(opinion == Opinion(True, None) for _, opinion in found)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# No guard of __main__, other threads at work, and a module of sympy's name where it is started.
SCRIPT = """
import signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would this
threading.Thread(target=threading.Event().wait, daemon=True).start()
from deltageom.grading.second_opinion import judge
print(judge([(text, "18") for text in sys.argv[2:]], seconds=float(sys.argv[1]), progress=False))
"""


def start(folder: Path, seconds: float, *texts: str) -> subprocess.Popen[str]:
    (folder / "script.py").write_text(SCRIPT)
    (folder / "sympy.py").write_text("raise SystemExit('imported from the working directory')")
    command = [sys.executable, "-P", "script.py", str(seconds), *texts]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def working(caller: int) -> tuple[psutil.Process, psutil.Process]:
    """The server and its worker, once that has worked for a while."""

    def busy() -> bool:
        found = psutil.Process(caller).children(recursive=True)
        return len(found) == 2 and found[1].cpu_times().user > 0.2

    wait_until(busy)
    server, worker = psutil.Process(caller).children(recursive=True)
    return server, worker


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_script_without_a_guard_is_not_run_again(tmp_path: Path) -> None:
    out, err = start(tmp_path, 60, r"\boxed{18}", r"\boxed{19}").communicate(timeout=60)
    assert (out, err) == (f"{[Opinion(True, None), Opinion(False, None)]}\n", "")


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_caller(tmp_path: Path, way: signal.Signals) -> None:
    with start(tmp_path, 600, TOWER) as caller:
        below = working(caller.pid)
        caller.send_signal(way)
        wait_until(lambda: all(map(gone, below)))
        assert caller.wait(30) != 0


def test_a_killed_worker_is_a_crash_and_a_killed_server_an_error(tmp_path: Path) -> None:
    with start(tmp_path, 600, TOWER, r"\boxed{18}") as caller:
        _, worker = working(caller.pid)
        worker.kill()
        assert caller.communicate()[0] == f"{[Opinion(None, 'crash'), Opinion(True, None)]}\n"
    with start(tmp_path, 600, TOWER) as caller:
        server, worker = working(caller.pid)
        server.kill()
        assert "RuntimeError: the process that runs math-verify ended" in caller.communicate()[1]
        wait_until(lambda: gone(worker))


def test_an_exception_in_the_caller_does_not_wait_for_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(second_opinion.tqdm, "update", fail)
    start = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        judge([(r"\boxed{18}", "18"), (TOWER, "18")], seconds=60, progress=False)
    assert time.monotonic() - start < 30


def test_a_caller_that_is_a_thread() -> None:
    found: list[Opinion] = []
    thread = threading.Thread(target=lambda: found.extend(judge([(r"\boxed{18}", "18")], progress=False)))
    thread.start()
    thread.join(60)
    assert found == [Opinion(True, None)]
