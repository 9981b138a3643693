"""A problem and its files."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from deltageom.errors import UserError
from deltageom.files import read_jsonl, write_jsonl


@dataclass(frozen=True)
class Problem:
    id: str
    question: str
    answer: str
    solution: str | None


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    write_jsonl(path, (asdict(problem) for problem in problems))


def read_problems(path: Path) -> list[Problem]:
    """What `write_problems` wrote. Raises UserError for a file of another shape."""
    try:
        return [Problem(**row) for row in read_jsonl(path)]
    except TypeError:
        names = ", ".join(field.name for field in fields(Problem))
        raise UserError(
            f"{path}: is no list of problems: each line has {names}; `deltageom problems` writes it"
        ) from None
