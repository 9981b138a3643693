"""Problems from where the study says: a file, a hub data set, or the toy's world.

The published sets, their shapes and what is wrong with them: docs/data.md.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, cast

from deltageom.errors import UserError
from deltageom.files import _line, file_rows, is_unicode
from deltageom.grading import answers, numbers
from deltageom.problems.problem import Problem
from deltageom.study.running import Grader
from deltageom.study.schema import Dataset, World


def load_problems(dataset: Dataset, seed: int, world: World | None = None, grader: Grader = "strict") -> list[Problem]:
    """The problems of one data set, in its order, at most `limit`. `seed` and `world`: the toy's world's.

    `grader`: the strict one reads rational numbers alone, math-verify may read any answer. Raises UserError for a
    missing file, field or answer, a duplicate id, an answer that the grader does not read, or none left.
    """
    if dataset.source == "toy":
        return _toy(dataset, seed, world)
    if dataset.source == "file":
        return problems_from_file(dataset, grader)
    return _from_rows(_hub_rows(dataset), dataset, f"{dataset.path}, row", grader)


def problems_from_file(dataset: Dataset, grader: Grader) -> list[Problem]:
    """The problems of a jsonl, json or parquet file: cheap enough to be checked before any job starts."""
    assert dataset.path is not None
    return _from_rows(file_rows(Path(dataset.path)), dataset, f"{dataset.path}, problem", grader)


def _toy(dataset: Dataset, seed: int, world: World | None) -> list[Problem]:
    from deltageom.problems.world import TOY, problems

    split = cast(Literal["train", "easy", "hard"], dataset.split)  # the schema has seen to it, and to the limit
    made = problems(split, cast(int, dataset.limit), seed, world or TOY)
    return [Problem(p.id, p.question, p.answer, p.solution) for p in made]


def _hub_rows(dataset: Dataset) -> Iterable[dict[str, Any]]:
    from datasets import load_dataset

    try:
        rows: Iterable[dict[str, Any]] = load_dataset(
            dataset.path, dataset.config, split=dataset.split or "train", revision=dataset.revision
        )
    except ValueError as error:  # a wrong configuration or split: the message lists what there is
        raise UserError(
            f"hub data set {dataset.path!r}: {_line(error)}: correct config, split or revision of the data set"
        ) from error
    except Exception as error:  # the hub client raises many kinds, all of them the user's to mend
        raise UserError(
            f"cannot load the hub data set {dataset.path!r}: {_line(error).rstrip('.')}. Check its id; where it needs "
            "a login or there is no network, set source: file and path: to a copy of it on this machine (.jsonl, .json "
            "or .parquet, whatever its name)"
        ) from error
    return rows


def _from_rows(rows: Iterable[dict[str, Any]], dataset: Dataset, where: str, grader: Grader) -> list[Problem]:
    problems: dict[str, Problem] = {}
    dropped = 0
    for number, row in enumerate(rows, 1):
        if len(problems) == dataset.limit:
            break
        place = f"{where} {number}"
        answer = _answer(row, dataset, place, grader)
        if answer is None:
            dropped += 1
            continue
        key = _id(row, dataset.id_field, place) if dataset.id_field else str(number)
        if key in problems:
            raise UserError(f"{place}: id {key!r} was there before; ids must be unique")
        solution = _field(row, dataset.solution_field, place) if dataset.solution_field else None
        problems[key] = Problem(
            key, _text(row, dataset.question_field, place), answer, str(solution) if solution else None
        )
    if not problems:
        raise UserError(
            f"{dataset.path}: no problem is left ({dropped} without a usable answer in field "
            f"{dataset.answer_field!r} were dropped)"
        )
    if dropped:
        print(f"{dataset.path}: dropped {dropped} problems without a usable answer, kept {len(problems)}")
    return list(problems.values())


def _answer(row: dict[str, Any], dataset: Dataset, place: str, grader: Grader) -> str | None:
    """The gold answer, or None where it is unusable and the study says to drop such problems."""
    value = row.get(dataset.answer_field)
    text = "" if value is None else str(value)
    if dataset.answer_after is not None:
        _, mark, text = text.rpartition(dataset.answer_after)
        text = text if mark else ""
    if "\\boxed" in text:  # math-ai/aime24 has its answers as \boxed{204}, MATH at the end of its solutions
        text = answers.extract(text) or ""
    text = text.strip()
    if text and (grader == "math_verify" or numbers.parse(text) is not None):
        return text
    if dataset.bad_answers == "drop":
        return None
    if dataset.answer_field not in row:
        found = ", ".join(map(str, row))
        raise UserError(f"{place}: no field {dataset.answer_field!r}; it has {found}: set answer_field")
    what = f"the answer {text[:60]!r} is no rational number" if text else "there is no answer"
    keep = ", or grading.primary: math_verify to keep those that are none" if text else ""
    raise UserError(f"{place}: {what}; mend it, or set bad_answers: drop to drop and count such problems{keep}")


def _id(row: dict[str, Any], field: str, place: str) -> str:
    value = _field(row, field, place)
    if value is None or value == "":
        raise UserError(f"{place}: field {field!r} is empty; set id_field: null to number the problems")
    return str(value)


def _text(row: dict[str, Any], field: str, place: str) -> str:
    value = _field(row, field, place)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}: field {field!r} is empty or no text")
    if not is_unicode(value):
        raise UserError(f"{place}: field {field!r} has half of a surrogate pair in it: mend it")
    return value


def _field(row: dict[str, Any], field: str, place: str) -> Any:
    if field not in row:
        raise UserError(f"{place}: no field {field!r}; it has {', '.join(map(str, row))}")
    return row[field]
