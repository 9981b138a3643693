"""`deltageom mcnemar`: what it says of two files of answers, and of files that it cannot compare."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from deltageom.evaluation import lm_eval, power, scores, statistics
from deltageom.files import write_jsonl
from tests.conftest import BIN
from tests.evaluation.graded import answers


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
    low, high = statistics.tango(6, 2, 10)
    wilson_a, wilson_b = (statistics.wilson(correct, 10) for correct in (7, 3))
    detectable = power.detectable_by_mcnemar(10, 0.8)
    assert text == [
        "n = 10 problems, one answer each",
        f"A: accuracy 0.7000 [{wilson_a[0]:.4f}, {wilson_a[1]:.4f}] (95 %, Wilson)  a.jsonl",
        f"B: accuracy 0.3000 [{wilson_b[0]:.4f}, {wilson_b[1]:.4f}] (95 %, Wilson)  b.jsonl",
        f"difference A - B: +0.4000 [{low:.4f}, {high:.4f}] (95 %, Tango's score interval)",
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


def logged(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As `export-samples` writes them."""
    return lm_eval.samples([{"question": "q", "prompt": "p", "response": "r"} | record for record in records])


@pytest.mark.parametrize("solved", [("1111110100",), ("111110", "111100", "111000", "110001")])
def test_sample_logs_say_what_the_records_say(tmp_path: Path, solved: tuple[str, ...]) -> None:
    a, b = answers(*solved), answers(*[row[::-1] for row in solved])
    assert said(tmp_path, logged(a), logged(b)) == said(tmp_path, a, b)
    assert said(tmp_path, logged(a), b) == said(tmp_path, a, b)


def test_correct_may_be_0_or_1(tmp_path: Path) -> None:
    a, b = answers("1100"), answers("1010")
    numbers = [record | {"correct": float(record["correct"])} for record in b]
    assert said(tmp_path, [record | {"correct": int(record["correct"])} for record in a], numbers) == said(
        tmp_path, a, b
    )


# Lines as lm-eval 0.4.13 writes them for its gsm8k task: one a filter, its own metric names.
def line(number: int, right: int, of: str = "strict-match", **fields: Any) -> dict[str, Any]:
    return {
        "doc_id": number,
        "doc": {"question": f"q{number}", "answer": "#### 7"},
        "resps": [["so 7"]],
        "filtered_resps": ["7"],
        "filter": of,
        "metrics": ["exact_match"],
        "doc_hash": f"hash{number}",
        "exact_match": float(right),
    } | fields


def test_a_log_with_two_filters_needs_one(tmp_path: Path) -> None:
    a = [line(n, right, of) for of, rights in {"strict-match": "110", "flexible-extract": "111"}.items()
         for n, right in enumerate(map(int, rights))]  # fmt: skip
    b = [line(n, 0, of) for of in ("strict-match", "flexible-extract") for n in range(3)]
    write_jsonl(tmp_path / "a.jsonl", a)
    write_jsonl(tmp_path / "b.jsonl", b)
    assert (
        "by 2 filters, strict-match, flexible-extract: choose by --filter" in run(tmp_path, "a.jsonl", "b.jsonl").stderr
    )
    assert "only A 2" in said(tmp_path, a, b, "--filter", "strict-match")
    assert "only A 3" in said(tmp_path, a, b, "--filter", "flexible-extract")
    assert "no filter 'x'; it has" in run(tmp_path, "a.jsonl", "b.jsonl", "--filter", "x").stderr


@pytest.mark.parametrize(
    ("fields", "options", "says"),
    [
        ({"exact_match": 0.5}, [], "line 1: exact_match is '0.5', which is no share of 1 sample"),
        ({"exact_match": "1"}, [], "exact_match is '1', which is no share"),
        ({"exact_match": 0.5, "filtered_resps": [["1", "2", "3"]]}, [], "no share of 3 samples"),
        ({}, ["--metric", "acc"], "no metric 'acc'; it has exact_match: choose by --metric"),
    ],
)
def test_a_log_that_does_not_say_what_is_correct(
    tmp_path: Path, fields: dict[str, Any], options: list[str], says: str
) -> None:
    write_jsonl(tmp_path / "a.jsonl", [line(0, 1, **fields)])
    write_jsonl(tmp_path / "b.jsonl", [line(0, 1)])
    done = run(tmp_path, "a.jsonl", "b.jsonl", *options)
    assert done.returncode == 1
    assert says in done.stderr


def test_another_metric_counts_where_it_is_the_only_one_or_is_named(tmp_path: Path) -> None:
    a = [{k: v for k, v in line(n, 1, acc=1.0, metrics=["acc"]).items() if k != "exact_match"} for n in range(3)]
    b = [line(n, 1, acc=0.0, metrics=["exact_match", "acc"]) for n in range(3)]
    assert "only A 0" in said(tmp_path, a, b)
    assert "only A 3" in said(tmp_path, a, b, "--metric", "acc")
    write_jsonl(tmp_path / "c.jsonl", answers("1"))
    assert "neither file is one" in run(tmp_path, "c.jsonl", "c.jsonl", "--metric", "acc").stderr


def test_few_or_equal_answers_say_that_nothing_can_be_told(tmp_path: Path) -> None:
    text = said(tmp_path, answers("11"), answers("11"))
    assert "difference A - B: +0.0000 [-0.6576, 0.6576] (95 %, Tango's score interval)" in text
    sampled = said(tmp_path, answers("11", "10"), answers("11", "10"))
    assert "difference A - B: +0.0000 [undefined: all problems alike]" in sampled
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
