"""Problems from files in the shapes people publish, and every way such a file can be wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from deltageom import problems
from deltageom.errors import UserError
from deltageom.schema import Dataset

CONFIG = yaml.safe_load((Path(__file__).parent.parent / "config.yaml").read_text())


def dataset(path: Path | None = None, **keys: Any) -> Dataset:
    return Dataset(**{**CONFIG["dataset"], "path": str(path) if path else None, **keys})


def write(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_gsm8k_shape(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "How many?", "answer": "6*7=<<6*7=42>>42\n#### 1,042"})
    (problem,) = problems.load(dataset(path, answer_after="####", solution_field="answer"), seed=0)
    assert (problem.id, problem.question, problem.answer) == ("1", "How many?", "1,042")
    assert problem.solution is not None
    assert "42" in problem.solution


def test_aime_shape_and_numbers_as_answers(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": "I-1", "problem": "p", "answer": 277}, {"id": "I-2", "problem": "q", "answer": "070"})
    found = problems.load(dataset(path, id_field="id", question_field="problem"), seed=0)
    assert [(p.id, p.answer) for p in found] == [("I-1", "277"), ("I-2", "070")]


def test_limit_takes_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, *({"question": str(i), "answer": i} for i in range(9)))
    assert [p.question for p in problems.load(dataset(path, limit=3), seed=0)] == ["0", "1", "2"]


GOOD = {"question": "q", "answer": 1}


@pytest.mark.parametrize(
    ("rows", "keys", "says"),
    [
        ([GOOD, {"question": "q", "answer": None}], {}, "problem 2: there is no answer"),
        ([GOOD, {"question": "q", "answer": " "}], {}, "problem 2: there is no answer"),
        ([{"question": "q", "gold": 1}], {}, "problem 1: no field 'answer'; it has question, gold"),
        ([{"question": "q", "answer": "18"}], {"answer_after": "####"}, "problem 1: there is no answer"),
        ([{"question": "q", "answer": "many"}], {}, "'many' is no rational number"),
        ([{"prompt": "q", "answer": 1}], {}, "no field 'question'; it has prompt, answer"),
        ([{"question": "", "answer": 1}], {}, "field 'question' is empty"),
        ([GOOD | {"id": 7}, GOOD | {"id": 7}], {"id_field": "id"}, "problem 2: id '7' was there before"),
        ([], {}, "no problem is left"),
        (
            [{"question": "q", "answer": "x"}],
            {"bad_answers": "drop"},
            "1 without a usable answer were dropped",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, rows: list[Any], keys: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        problems.load(dataset(write(tmp_path, *rows), **keys), seed=0)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.jsonl: no such file"):
        problems.load(dataset(tmp_path / "gone.jsonl"), seed=0)


def test_dropped_answers_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, GOOD, {"question": "q", "answer": "\\sqrt{2}"})
    assert len(problems.load(dataset(path, bad_answers="drop"), seed=0)) == 1
    assert "dropped 1 problems without a usable answer, kept 1" in capsys.readouterr().out


def test_embedded_splits() -> None:
    found = problems.load(dataset(source="embedded", split="hard", limit=5), seed=0)
    assert len(found) == 5
    assert all(problem.solution for problem in found)
