"""`deltageom grade`: records in, records with the say of two graders out."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltageom import terminal
from deltageom.errors import UserError
from deltageom.files import json_line, read_jsonl, write_jsonl
from deltageom.grading import records
from deltageom.grading.second_opinion import Opinion
from tests.conftest import BIN

Record = dict[str, Any]


def record(response: str = r"\boxed{18}", gold: Any = "18", **more: Any) -> Record:
    return {"response": response, "gold": gold} | more


def fixed(*opinions: Opinion) -> Callable[[list[tuple[str, str]]], list[Opinion]]:
    return lambda pairs: list(opinions[: len(pairs)])


YES, NO, LATE = Opinion(True, None), Opinion(False, None), Opinion(None, "timeout")


def test_what_is_added() -> None:
    rows = [record(), record(r"\boxed{17}"), record("none"), record(r"\boxed{x}")]
    added = [{name: row[name] for name in records.ADDED} for row in records.grade(rows, fixed(YES, NO, LATE, NO))]
    assert added == [
        dict(zip(records.ADDED, values, strict=True))
        for values in [
            ("18", True, "strict", True, "correct", True, None),
            ("17", False, "strict", False, "wrong", False, None),
            (None, False, "strict", False, "no answer", None, "timeout"),
            ("x", False, "strict", False, "unparsable", False, None),
        ]
    ]


def test_everything_else_is_kept_and_earlier_grades_are_replaced() -> None:
    row = record(problem_id="p", note={"a": [1, None]}, correct=False, math_verify_failure="crash", reason="wrong")
    (again,) = records.grade(records.grade([row], fixed(LATE)), fixed(YES))
    assert again == record(problem_id="p", note={"a": [1, None]}) | dict(
        zip(records.ADDED, ("18", True, "strict", True, "correct", True, None), strict=True)
    )
    assert row["reason"] == "wrong"  # the input is not changed


def test_the_judge_is_given_the_golds_as_text() -> None:
    asked: list[tuple[str, str]] = []

    def judge(pairs: list[tuple[str, str]]) -> list[Opinion]:
        asked.extend(pairs)
        return [YES] * len(pairs)

    rows = records.grade([record("a", 204), record("b", 0.5), record(r"\boxed{1/2}", 0.5)], judge)
    assert asked == [("a", "204"), ("b", "0.5"), (r"\boxed{1/2}", "0.5")]
    assert [row["gold"] for row in rows] == [204, 0.5, 0.5]
    assert rows[2]["correct"]


SYMBOLIC = r"\frac{\pi}{2}"


def test_math_verify_as_the_primary_grader() -> None:
    rows = [record(), record(r"\boxed{17}"), record(gold=SYMBOLIC), record("x", gold=SYMBOLIC), record()]
    rows += [record(gold=SYMBOLIC)]
    opinions = (NO, YES, YES, NO, LATE, Opinion(None, "error"))
    graded = records.grade(rows, fixed(*opinions), "math_verify")
    assert [row["correct"] for row in graded] == [False, True, True, False, False, False]
    assert [row["strict"] for row in graded] == [True, False, None, None, True, None]
    assert [row["reason"] for row in graded][2:4] == ["gold not read", "gold not read"]
    assert {row["primary"] for row in graded} == {"math_verify"}
    assert [records.case(row) for row in graded] == [
        "strict_alone", "math_verify_alone", "symbolic_gold", "symbolic_gold", "timeout", "unread_gold"
    ]  # fmt: skip
    assert list(records.disagreements(graded)) == [1, 2, 5, 6]
    with pytest.raises(UserError, match="not a rational number"):
        records.grade(rows, fixed(*opinions), "strict")


def test_thoughts_that_the_prompt_opened_and_that_were_cut_off_are_no_answer() -> None:
    asked: list[tuple[str, str]] = []

    def judge(pairs: list[tuple[str, str]]) -> list[Opinion]:
        asked.extend(pairs)
        return [NO] * len(pairs)

    cut = record("perhaps \\boxed{18}? Let", prompt="Q<think>\n", finish_reason="length")
    rows = [cut, cut | {"finish_reason": "stop"}, cut | {"prompt": "Q"}, cut | {"prompt": [{"role": "user"}]}]
    rows += [cut | {"response": r"so </think> \boxed{18} and"}]
    assert [row["correct"] for row in records.grade(rows, judge)] == [False, True, True, True, True]
    assert asked[0][0].startswith("<think>")  # math-verify, too, finds them left open
    assert records.grade(rows, judge)[0]["response"] == cut["response"]


@pytest.mark.parametrize(("gold", "primary"), [(SYMBOLIC, "math_verify"), ("x = 5", "math_verify"), ("18", "strict")])
def test_golds_that_the_primary_grader_may_read(tmp_path: Path, gold: str, primary: Any) -> None:
    write_jsonl(tmp_path / "a.jsonl", [record(gold=gold)])
    assert len(records.read(tmp_path / "a.jsonl", primary)) == 1


def test_an_empty_gold_is_none_for_either(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [record(gold=" ")])
    with pytest.raises(UserError, match="`gold` is empty"):
        records.read(tmp_path / "a.jsonl", "math_verify")


def test_counts_and_disagreements() -> None:
    rows = [record(), record("x"), record(), record("x"), record(), record("x")]
    failures = [LATE, Opinion(None, "memory")]
    rows = records.grade(rows, fixed(YES, NO, NO, YES, *failures))
    found = records.counts(rows)
    assert found == dict.fromkeys(found, 1) | {"crash": 0, "error": 0, "symbolic_gold": 0, "unread_gold": 0}
    assert list(records.disagreements(rows)) == [3, 4, 5, 6]
    assert records.disagreements(rows)[4] is rows[3]


def test_without_math_verify_there_is_nothing_to_disagree_about() -> None:
    rows = records.grade([record(), record("x")], None)
    assert [row["math_verify"] for row in rows] == [row["math_verify_failure"] for row in rows] == [None, None]
    assert not records.disagreements(rows)
    assert sum(records.counts(rows).values()) == 0


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"gold": "1"}', "has no `response`"),
        ('{"response": "1"}', "has no `gold`"),
        ('{"response": 1, "gold": "1"}', "`response` is 1: give text"),
        ('{"response": null, "gold": "1"}', "`response` is None: give text"),
        *[(f'{{"response": "", "gold": {bad}}}', "`gold` is ") for bad in ("true", "null", "[1]", '{"a": 1}', "NaN")],
        (r'{"response": "", "gold": "\\frac{\\pi}{2}"}', r"`gold` is '\\frac{\\pi}{2}', not a rational number"),
        ('{"response": "", "gold": ""}', "`gold` is '', not a rational number"),
        ('{"response": "", "gold": "' + "x" * 5000 + '"}', "xxx…, not a rational"),
        ('{"response": "", "gold": "\\u001b[31m"}', r"`gold` is '\x1b[31m'"),
        ('{"response": "", "gold": 1e400}', "`gold` is inf, not a rational"),
        ('{"response": "", "gold": 1, "log_prob": NaN}', "holds a NaN or an Infinity"),
        ('{"response": "", "gold": 1, "more": [{"x": -Infinity}]}', "holds a NaN or an Infinity"),
        ("[]", "not a JSON object"),
    ],
)
def test_what_cannot_be_graded_is_named_by_file_and_line(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record()) + "\n\n" + line + "\n")
    with pytest.raises(UserError, match=re.escape(f"{path}:3: ")) as raised:
        records.read(path)
    assert says in str(raised.value)
    assert len(str(raised.value)) < len(str(path)) + 300


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_records_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"a\.jsonl: holds no records"):
        records.read(tmp_path / "a.jsonl")


def test_all_files_are_checked_before_any_is_judged(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    write_jsonl(good, [record()])
    write_jsonl(bad, [record(gold=None)])
    with pytest.raises(UserError, match=r"bad\.jsonl:1"):
        records.grade_files([good, bad], lambda _: pytest.fail("judged"))


def test_files_are_judged_together_and_kept_apart(tmp_path: Path) -> None:
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_jsonl(a, [record(id=1), record(id=2)])
    write_jsonl(b, [record(id=3)])
    found = records.grade_files([b, a], fixed(NO, YES, LATE))
    assert [(row["id"], row["math_verify"]) for row in found[b]] == [(3, False)]
    assert [(row["id"], row["math_verify"]) for row in found[a]] == [(1, True), (2, None)]


def test_where_the_files_go(tmp_path: Path) -> None:
    a, b = Path("x/a.jsonl"), Path("y/b.json")
    assert records.outputs([a], tmp_path / "out.jsonl") == {a: tmp_path / "out.jsonl"}
    assert records.outputs([a, b], tmp_path) == {a: tmp_path / "a.jsonl", b: tmp_path / "b.jsonl"}


@pytest.mark.parametrize(
    ("files", "output", "says"),
    [
        (["a.jsonl", "b.jsonl"], "out.jsonl", "is one file, but 2 are given"),
        (["x/a.jsonl", "y/a.jsonl"], "out", "x/a.jsonl and y/a.jsonl would both be written to"),
        (["a.jsonl"], "file", "is a file: name a folder"),
        (["a.jsonl"], "folder.jsonl", "is a folder"),
    ],
)
def test_outputs_that_cannot_be(tmp_path: Path, files: list[str], output: str, says: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UserError) as raised:
        records.outputs([Path(name) for name in files], tmp_path / output)
    assert says in str(raised.value)


def test_lone_surrogates_survive_a_jsonl_file(tmp_path: Path) -> None:
    rows = [{"a\ud800": "x\udfff", "pair": "\U0001f600", "escaped": r"\ud800"}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert read_jsonl(tmp_path / "a.jsonl") == rows
    assert "\U0001f600" in (tmp_path / "a.jsonl").read_text()  # what UTF-8 has stays readable
    assert json_line({"a": "ü\ud800"}) == '{"a": "ü\\ud800"}\n'


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "deltageom", "grade", *arguments], capture_output=True, text=True, check=False)


HOSTILE = "[red]\x1b[31m\u202e18\nnext" + "x" * 500


@pytest.fixture
def given(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "gsm8k.jsonl"
    write_jsonl(
        path,
        [
            record("so \\boxed{18}\ud800", problem_id="p1"),
            record(rf"\boxed{{{HOSTILE}}}", problem_id="p2[/bold]"),
            record("the answer is 18", 18),
            record(r"\boxed{9^{9^{9^9}}}", problem_id="tower", sample=3),
        ],
    )
    return path


def test_lines_to_standard_output_and_the_table_beside(given: Path) -> None:
    done = run(given, "--seconds", "2", "--workers", "2")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["response"] for row in rows] == [row["response"] for row in read_jsonl(given)]
    assert [(row["reason"], row["math_verify"], row["math_verify_failure"]) for row in rows] == [
        ("correct", True, None),
        ("unparsable", False, None),
        ("no answer", True, None),
        ("unparsable", None, "timeout"),
    ]
    lines = [line for line in done.stderr.splitlines() if line.startswith(("│", "┃"))]
    shown = [re.split(r"\s*[│┃]\s*", line.strip("│┃ ")) for line in lines]
    assert shown[:2] == [
        ["file", "items", "correct", "both correct", "both wrong", "strict alone", "math-verify alone", "timeout"],
        ["gsm8k.jsonl", "4", "1", "1", "1", "0", "1", "1"],
    ]
    assert shown[3:] == [
        ["gsm8k.jsonl", "line 3", "18", "–", "no answer", "correct"],
        ["gsm8k.jsonl", "tower #3", "18", "9^{9^{9^9}}", "unparsable", "timeout"],
    ]


def test_untrusted_text_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    rows = records.grade([record(rf"\boxed{{{HOSTILE}}}", problem_id="p[/bold]")], fixed(YES))
    records.show({Path("[blue]a.jsonl"): rows}, stderr=False)
    out = capsys.readouterr().out
    assert "[red]" in out
    assert "p[/bold]" in out
    assert "[blue]a.jsonl" in out
    assert not re.search("[\x1b\u202e]", out)
    assert max(map(len, out.splitlines())) <= terminal.WIDTH


def test_a_long_list_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    rows = records.grade([record()] * 100, fixed(*[NO] * 100))
    records.show({Path("a.jsonl"): rows}, stderr=True)
    err = capsys.readouterr().err
    assert f"The first {records.SHOWN_ITEMS} of 100." in err
    assert err.count("line ") == records.SHOWN_ITEMS


def test_a_folder_with_provenance_and_log(given: Path, tmp_path: Path) -> None:
    other = given.with_name("aime.jsonl")
    write_jsonl(other, [record(r"\boxed{204}", 204)])
    output, provenance, log = tmp_path / "graded", tmp_path / "p.json", tmp_path / "a.log"
    done = run(
        *[given, other, "--output", output, "--workers", "2", "--seconds", "2"],
        *["--provenance", provenance, "--log", log],
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.name: len(read_jsonl(path)) for path in output.iterdir()} == {"gsm8k.jsonl": 4, "aime.jsonl": 1}
    assert read_jsonl(output / "aime.jsonl")[0]["math_verify"] is True
    assert json.loads(provenance.read_text())["command"] == "grade"
    assert "tower #3" in log.read_text()


def test_a_file_graded_again_without_math_verify(given: Path) -> None:
    write_jsonl(given, records.grade(read_jsonl(given), fixed(*[LATE] * 4)))
    done = run(given, "--output", given, "--no-math-verify")
    assert done.returncode == 0, done.stderr
    assert [row["math_verify_failure"] for row in read_jsonl(given)] == [None] * 4
    assert "timeout" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["gone.jsonl"], 1, "gone.jsonl: no such file"),
        (["a.jsonl", "a.jsonl"], 1, "a.jsonl is given twice"),
        (["a.jsonl", "--workers", "0"], 2, "'0' is no positive number"),
        (["a.jsonl", "--seconds", "inf"], 2, "'inf' is no positive number of seconds"),
        (["a.jsonl", "--memory", "much"], 2, "'much' is no positive number"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    write_jsonl(tmp_path / "a.jsonl", [record()])
    done = run(*[tmp_path / a if a.endswith(".jsonl") else a for a in arguments])
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
