"""Problems from where the study says: a file, a hub data set, or the embedded world.

The published sets, their shapes and what is wrong with them: docs/data.md.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

from deltageom import answers
from deltageom.errors import UserError
from deltageom.records import Problem, read_jsonl
from deltageom.schema import Dataset, World

_SURROGATE = re.compile("[\ud800-\udfff]")


def load(dataset: Dataset, seed: int, world: World | None = None) -> list[Problem]:
    """The problems of one data set, in its order, at most `limit`. `seed` and `world`: the embedded world's.

    Raises UserError for a missing file, field or answer, a duplicate id, an answer that does not parse, or none left.
    """
    if dataset.source == "embedded":
        return _embedded(dataset, seed, world)
    if dataset.source == "file":
        return from_file(dataset)
    return _from_rows(_hub_rows(dataset), dataset, f"{dataset.path}, row")


def from_file(dataset: Dataset) -> list[Problem]:
    """The problems of a jsonl, json or parquet file: cheap enough to be checked before any job starts."""
    assert dataset.path is not None
    return _from_rows(file_rows(Path(dataset.path)), dataset, f"{dataset.path}, problem")


def file_rows(path: Path) -> Iterable[dict[str, Any]]:
    """The rows of a file by its ending: .jsonl (an object a line), .json (one array of objects) or .parquet.

    Raises UserError for another ending, a missing file, and one that does not hold what its ending says.
    """
    readers = {".jsonl": read_jsonl, ".json": _json_rows, ".parquet": _parquet_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"{path}: ends in {path.suffix or 'nothing'}; rows are read from .jsonl, .json and .parquet: convert or "
            "rename it"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return reader(path)


def is_unicode(text: str) -> bool:
    r"""Whether it can be written: a JSON file may hold half of a surrogate pair (`\ud835`), a UTF-8 file may not."""
    return _SURROGATE.search(text) is None


def _json_rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_bytes())
    except ValueError as error:  # bad JSON or bad UTF-8
        raise UserError(f"{path}: not JSON ({error}); if it has one object a line, name it .jsonl") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: not an array of objects but a {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path}, entry {number}: not an object but a {type(row).__name__}")
    return rows


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa  # the Snakemake process reads this module on every start, and few studies have such a file
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a parquet file: {_line(error)}") from None


def _embedded(dataset: Dataset, seed: int, world: World | None) -> list[Problem]:
    from deltageom.embedded.world import TOY, problems

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


def _answer(row: dict[str, Any], dataset: Dataset, place: str) -> str | None:
    """The gold answer, or None where it is unusable and the study says to drop such problems."""
    value = row.get(dataset.answer_field)
    text = "" if value is None else str(value)
    if dataset.answer_after is not None:
        _, mark, text = text.rpartition(dataset.answer_after)
        text = text if mark else ""
    if "\\boxed" in text:  # math-ai/aime24 has its answers as \boxed{204}, MATH at the end of its solutions
        text = answers.extract(text) or ""
    text = text.strip()
    if text and answers.parse(text) is not None:
        return text
    if dataset.bad_answers == "drop":
        return None
    if dataset.answer_field not in row:
        found = ", ".join(map(str, row))
        raise UserError(f"{place}: no field {dataset.answer_field!r}; it has {found}: set answer_field")
    what = f"the answer {text[:60]!r} is no rational number" if text else "there is no answer"
    raise UserError(f"{place}: {what}; mend it, or set bad_answers: drop to drop and count such problems")


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


def _line(error: Exception) -> str:
    """What it says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
