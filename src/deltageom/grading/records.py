"""Records of completions with what two graders say of them: the strict one and math-verify."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from deltageom import files, terminal
from deltageom.errors import UserError
from deltageom.grading import graders, numbers
from deltageom.grading.answers import as_said
from deltageom.grading.graders import Judge
from deltageom.study.running import Grader
from deltageom.text import plain

Record = dict[str, Any]

ADDED = ("extracted", "correct", "primary", "strict", "reason", "math_verify", "math_verify_failure")
# symbolic_gold: math-verify alone reads the gold; unread_gold: neither does
VERDICTS = ("both_correct", "both_wrong", "strict_alone", "math_verify_alone", "symbolic_gold")
FAILURES = ("timeout", "memory", "crash", "error", "unread_gold")

SHOWN_ITEMS = 30  # of a table of disagreements
SHOWN_CELL = 40  # characters


def read(path: Path, primary: Grader = "strict") -> list[Record]:
    """The records of a jsonl file, each with a `response` and a `gold` that the primary grader may understand.

    Raises UserError naming file and line where one has not, where a number is not JSON's, or where there is no line.
    """
    rows = files.read_jsonl(path)
    if not rows:
        raise UserError(f"{path}: holds no records: give a file with `response` and `gold` in each line")
    with path.open("rb") as file:
        numbers = [number for number, line in enumerate(file, 1) if line.strip()]
    for number, row in zip(numbers, rows, strict=True):
        _check(f"{path}:{number}", row, primary)
    return rows


def _check(where: str, row: Record, primary: Grader) -> None:
    for field in ("response", "gold"):
        if field not in row:
            raise UserError(f"{where}: has no `{field}`: each line needs `response` and `gold`")
    if not isinstance(row["response"], str):
        raise UserError(f"{where}: `response` is {_shown(row['response'])}: give text")
    if not isinstance(row["gold"], str | int | float):
        raise UserError(f"{where}: `gold` is {_shown(row['gold'])}: give text or a number")
    if primary == "strict" and numbers.parse(gold_text(row)) is None:
        raise UserError(
            f"{where}: `gold` is {_shown(row['gold'])}, not a rational number such as 18, 0.5 or 1/2: the strict "
            "grader compares nothing else; leave such lines out, or give --primary math_verify"
        )
    if not gold_text(row).strip():
        raise UserError(f"{where}: `gold` is empty: leave such lines out of the file")
    try:
        files.json_line(row)
    except ValueError:
        raise UserError(f"{where}: holds a NaN or an Infinity, which JSON has not: write null") from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def gold_text(record: Record) -> str:
    """AIME's files have its golds as numbers."""
    return str(record["gold"])


def grade(rows: Sequence[Record], judge: Judge | None, primary: Grader = "strict") -> list[Record]:
    """The records in their order, with ADDED: see `Verdict`; earlier values of these fields are replaced.

    Of a row with `prompt` and `finish_reason`, thoughts that the prompt opens and that are cut off are no answer.
    judge: gives math-verify's opinions of (response, gold) pairs; without it both of its fields are None.
    """
    graded = []
    verdicts = graders.grade([(_said(row), gold_text(row)) for row in rows], judge, primary)
    for row, said in zip(rows, verdicts, strict=True):
        added = (said.extracted, said.correct, primary, said.strict, said.reason, said.math_verify, said.failure)
        kept = {key: value for key, value in row.items() if key not in ADDED}
        graded.append(kept | dict(zip(ADDED, added, strict=True)))
    return graded


def _said(row: Record) -> str:
    prompt = row.get("prompt")
    return as_said(prompt if isinstance(prompt, str) else "", row["response"], row.get("finish_reason"))


def grade_files(paths: Sequence[Path], judge: Judge | None, primary: Grader = "strict") -> dict[Path, list[Record]]:
    """Graded records by file. All files are read and checked (see `read`) before any work, and judged together.

    Raises UserError for a file that is given twice.
    """
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"{path} is given twice: once is enough")
    found = {path: read(path, primary) for path in paths}
    graded = iter(grade([row for rows in found.values() for row in rows], judge, primary))
    return {path: [next(graded) for _ in rows] for path, rows in found.items()}


def outputs(paths: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Where each file's graded records go: `output` itself if it ends in .jsonl, else a file of that folder.

    Raises UserError where several files would go to one, or where a folder is needed and a file stands.
    """
    if output.suffix == ".jsonl":
        if len(paths) > 1:
            raise UserError(f"--output {output} is one file, but {len(paths)} are given: name a folder")
        if output.is_dir():
            raise UserError(f"--output {output} is a folder: name one that does not end in .jsonl, or a file")
        return {paths[0]: output}
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file: name a folder, or a file ending in .jsonl")
    targets: dict[Path, Path] = {}
    for path in paths:
        target = output / f"{path.stem}.jsonl"
        if target in targets:
            raise UserError(f"{targets[target]} and {path} would both be written to {target}: rename one")
        targets[target] = path
    return {path: target for target, path in targets.items()}


def case(record: Record) -> str | None:
    """One of VERDICTS or FAILURES; None where math-verify was not asked."""
    if (verdict := record["math_verify"]) is None:
        failure = record["math_verify_failure"]
        if failure == "error" and record["strict"] is None:
            return "unread_gold"
        return None if failure is None else str(failure)
    if record["strict"] is None:
        return "symbolic_gold"
    if record["strict"]:
        return "both_correct" if verdict else "strict_alone"
    return "math_verify_alone" if verdict else "both_wrong"


def disagreements(rows: Sequence[Record]) -> dict[int, Record]:
    """The records of which the graders say different things or math-verify nothing, by number, the first being 1."""
    agreed = (None, "both_correct", "both_wrong", "symbolic_gold")
    return {number: row for number, row in enumerate(rows, 1) if case(row) not in agreed}


def counts(rows: Sequence[Record]) -> dict[str, int]:
    """How many records there are of each case; they add up to all of which math-verify was asked."""
    cases = [case(row) for row in rows]
    return {name: cases.count(name) for name in (*VERDICTS, *FAILURES)}


def show(graded: Mapping[Path, Sequence[Record]], stderr: bool) -> None:
    """Counts of every file and the first disagreements as tables."""
    console = terminal.console(stderr)
    console.print(_of_files(graded))
    apart = [(path, number, row) for path, rows in graded.items() for number, row in disagreements(rows).items()]
    if apart:
        console.print("\nThe graders disagree, or math-verify gives no verdict:", _of_items(apart), sep="\n")
    if len(apart) > SHOWN_ITEMS:
        console.print(f"The first {SHOWN_ITEMS} of {len(apart)}.")


def _of_files(graded: Mapping[Path, Sequence[Record]]) -> Table:
    cases = {case(row) for rows in graded.values() for row in rows}
    seldom = [name for name in ("symbolic_gold", *FAILURES) if name in cases]
    columns = [] if cases == {None} else [*VERDICTS[:4], *seldom]
    table = Table()
    table.add_column("file", no_wrap=True)
    for name in ("items", "correct", *columns):
        table.add_column(name.replace("math_verify", "math-verify").replace("_", " "), justify="right")
    for path, rows in graded.items():
        found = counts(rows)
        numbers = [len(rows), sum(row["correct"] for row in rows), *(found[name] for name in columns)]
        table.add_row(_cell(path.name), *map(str, numbers))
    return table


def _of_items(apart: Sequence[tuple[Path, int, Record]]) -> Table:
    table = Table()
    for name in ("file", "item", "gold", "extracted", "strict", "math-verify"):
        table.add_column(name)
    for path, number, row in apart[:SHOWN_ITEMS]:
        item = str(row.get("problem_id", f"line {number}")) + (f" #{row['sample']}" if "sample" in row else "")
        said = row["math_verify_failure"] or ("correct" if row["math_verify"] else "wrong")
        cells = (path.name, item, gold_text(row), row["extracted"] or "–", row["reason"], said)
        table.add_row(*map(_cell, cells))
    return table


def _cell(text: str) -> Text:
    """Models wrote it: neither rich's markup nor the terminal's is obeyed."""
    return Text(plain(text, SHOWN_CELL))
