"""`deltageom mcnemar`: what it says of two files of answers, and of files that it cannot compare."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from deltageom import power, scores, statistics
from deltageom.records import write_jsonl
from tests.conftest import BIN
from tests.graded import answers


def said(folder: Path, a: list[dict[str, Any]], b: list[dict[str, Any]], *options: str) -> str:
    write_jsonl(folder / "a.jsonl", a)
    write_jsonl(folder / "b.jsonl", b)
    done = run(folder, "a.jsonl", "b.jsonl", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [BIN / "deltageom", "mcnemar", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_one_answer_a_problem(tmp_path: Path) -> None:
    a, b = "1111110100", "0000001110"
    text = said(tmp_path, answers(a), answers(b), "--resamples", "500", "--seed", "3").splitlines()
    low, high = statistics.bootstrap([1] * 6 + [-1, 0, -1, 0], 500, 3)
    wilson_a, wilson_b = (statistics.wilson(correct, 10) for correct in (7, 3))
    detectable = power.detectable_by_mcnemar(10, 0.8)
    assert text == [
        "n = 10 problems, one answer each",
        f"A: accuracy 0.7000 [{wilson_a[0]:.4f}, {wilson_a[1]:.4f}] (95 %, Wilson)  a.jsonl",
        f"B: accuracy 0.3000 [{wilson_b[0]:.4f}, {wilson_b[1]:.4f}] (95 %, Wilson)  b.jsonl",
        f"difference A - B: +0.4000 [{low:.4f}, {high:.4f}] "
        "(95 %, paired bootstrap over problems, BCa, 500 resamples, seed 3)",
        "both 1, only A 6, only B 2, neither 1",
        f"McNemar, exact: p = {74 / 256:.4g} (two-sided)",
        f"Minimum detectable difference: {detectable:.4f}; a smaller true one is found with less than 80 % power "
        "(at 5 %, two-sided, 8 of 10 problems discordant).",
        "only A: p0, p1, p2, p3, p4, p5",
        "only B: p6, p8",
    ]


def test_several_samples_a_problem(tmp_path: Path) -> None:
    a, b = answers("111110", "111100", "111000", "110001"), answers("100000", "100000", "000000", "000000")
    text = said(tmp_path, a, b)
    found = scores.compare(a, b, 10000, 42)
    assert "n = 6 problems, 4 samples each" in text
    assert "(95 %, bootstrap over problems)  a.jsonl" in text
    assert "McNemar's test needs one: instead a sign-flip permutation test of the problems' mean differences" in text
    assert f"sign-flip permutation: p = {2 / 64:.4g} (two-sided; at most 10000 sign patterns, seed 42)" in text
    assert f"[{found.low:.4f}, {found.high:.4f}]" in text
    assert f"Minimum detectable difference: {found.minimum_detectable:.4f};" in text
    assert "only A" not in text


def test_few_or_equal_answers_say_that_nothing_can_be_told(tmp_path: Path) -> None:
    text = said(tmp_path, answers("11"), answers("11"))
    assert "difference A - B: +0.0000 [undefined: all problems alike]" in text
    assert "Minimum detectable difference: none; these 2 problems cannot tell with 80 % power at 5 %." in text
    assert "only A:" not in text


def test_list_of_ids_is_bounded_and_shows_no_control_character(tmp_path: Path) -> None:
    a = [record | {"problem_id": f"\x1b[31m{record['problem_id']}" + "x" * 100} for record in answers("1" * 25)]
    b = [record | {"correct": False} for record in a]
    text = said(tmp_path, a, b)
    assert "\x1b" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("only A: ")]
    assert line.endswith("… and 5 more")
    assert len(line) < 20 * 62 + 40


@pytest.mark.parametrize(
    ("b", "arguments", "says"),
    [
        (answers("11"), ["a.jsonl", "gone.jsonl"], "gone.jsonl: no such file"),
        ([{"problem_id": "p0"}], ["a.jsonl", "b.jsonl"], "b.jsonl: record 1: no 'correct'"),
        ([], ["a.jsonl", "b.jsonl"], "b.jsonl: no records"),
        (answers("1"), ["a.jsonl", "b.jsonl"], "a.jsonl and b.jsonl have different problems"),
        (answers("11"), ["a.jsonl", "b.jsonl", "--resamples", "10"], "'10' is no number of resamples, 100 or more"),
        (answers("11"), ["a.jsonl", "b.jsonl", "--seed", "-1"], "'-1' is no seed"),
        (answers("11"), ["a.jsonl", "b.jsonl", "--seed", "x"], "'x' is no seed"),
    ],
)
def test_mistakes(tmp_path: Path, b: list[dict[str, Any]], arguments: list[str], says: str) -> None:
    write_jsonl(tmp_path / "a.jsonl", answers("11"))
    write_jsonl(tmp_path / "b.jsonl", b)
    done = run(tmp_path, *arguments)
    assert done.returncode in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
