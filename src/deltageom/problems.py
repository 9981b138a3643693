"""Problems from where the study says: a jsonl file, a hub data set, or the embedded world."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, cast

from deltageom import grading
from deltageom.errors import UserError
from deltageom.records import Problem, read_jsonl
from deltageom.schema import Dataset


def load(dataset: Dataset, seed: int) -> list[Problem]:
    """The problems of one data set, in its order, at most `limit`. `seed`: the embedded world's.

    Raises UserError for a missing file, field or answer, a duplicate id, an answer that does not parse, or none left.
    """
    if dataset.source == "embedded":
        return _embedded(dataset, seed)
    if dataset.source == "file":
        return from_file(dataset)
    return _from_rows(_hub_rows(dataset), dataset, f"{dataset.path}, row")


def from_file(dataset: Dataset) -> list[Problem]:
    """A jsonl file's problems: cheap enough to be checked before any job starts."""
    assert dataset.path is not None
    return _from_rows(read_jsonl(Path(dataset.path)), dataset, f"{dataset.path}, problem")


def _embedded(dataset: Dataset, seed: int) -> list[Problem]:
    from deltageom.embedded import world

    split = cast(Literal["train", "easy", "hard"], dataset.split)  # the schema has seen to it, and to the limit
    made = world.problems(split, cast(int, dataset.limit), seed)
    return [Problem(p.id, p.question, p.answer, p.solution) for p in made]


def _hub_rows(dataset: Dataset) -> Iterable[dict[str, Any]]:
    from datasets import load_dataset

    try:
        rows: Iterable[dict[str, Any]] = load_dataset(
            dataset.path, dataset.config, split=dataset.split or "train", revision=dataset.revision
        )
    except Exception as error:  # the hub client raises many kinds, all of them the user's to mend
        raise UserError(
            f"cannot load the hub data set {dataset.path!r} ({type(error).__name__}: {error}); without network, "
            "download it as jsonl and use source: file with its path"
        ) from error
    return rows


def _from_rows(rows: Iterable[dict[str, Any]], dataset: Dataset, where: str) -> list[Problem]:
    problems: dict[str, Problem] = {}
    dropped = 0
    for number, row in enumerate(rows, 1):
        if len(problems) == dataset.limit:
            break
        place = f"{where} {number}"
        answer = _answer(row, dataset, place)
        if answer is None:
            dropped += 1
            continue
        key = str(_field(row, dataset.id_field, place)) if dataset.id_field else str(number)
        if key in problems:
            raise UserError(f"{place}: id {key!r} was there before; ids must be unique")
        solution = _field(row, dataset.solution_field, place) if dataset.solution_field else None
        problems[key] = Problem(
            key, _text(row, dataset.question_field, place), answer, str(solution) if solution else None
        )
    if not problems:
        raise UserError(f"{dataset.path}: no problem is left ({dropped} without a usable answer were dropped)")
    if dropped:
        print(f"{dataset.path}: dropped {dropped} problems without a usable answer, kept {len(problems)}")
    return list(problems.values())


def _answer(row: dict[str, Any], dataset: Dataset, place: str) -> str | None:
    """The gold answer, or None where it is unusable and the study says to drop such problems."""
    value = row.get(dataset.answer_field)
    text = "" if value is None else str(value)
    if dataset.answer_after is not None:
        _, mark, text = text.rpartition(dataset.answer_after)
        text = text if mark else ""
    text = text.strip()
    if text and grading.parse(text) is not None:
        return text
    if dataset.bad_answers == "drop":
        return None
    if dataset.answer_field not in row:
        found = ", ".join(map(str, row))
        raise UserError(f"{place}: no field {dataset.answer_field!r}; it has {found}: set answer_field")
    what = f"the answer {text[:60]!r} is no rational number" if text else "there is no answer"
    raise UserError(f"{place}: {what}; mend it, or set bad_answers: drop to drop and count such problems")


def _text(row: dict[str, Any], field: str, place: str) -> str:
    value = _field(row, field, place)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}: field {field!r} is empty or no text")
    return value


def _field(row: dict[str, Any], field: str, place: str) -> Any:
    if field not in row:
        raise UserError(f"{place}: no field {field!r}; it has {', '.join(map(str, row))}")
    return row[field]
