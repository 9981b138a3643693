"""Typed tables in and out. A file appears whole or not at all: written aside, synced, renamed."""

import csv
import json
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deltageom.errors import UserError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name once the block has ended without an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.chmod(0o666 & ~_umask())  # mkstemp's 0600 would lock out a colleague on a shared disk
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json_line(row) for row in rows))


def json_line(row: dict[str, Any]) -> str:
    r"""One line of a jsonl file. A lone surrogate, which UTF-8 has not, becomes the escape (`\ud800`) it came from."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8") + "\n"


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows that share their keys; floats to full precision. Without rows the columns are unknown: one empty line."""
    with whole_file(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_columns(path: Path, pieces: Iterable[Mapping[str, Any]], counts: Collection[str] = ()) -> None:
    """A csv of tables one below the other, which have the same columns: lists of text or arrays of floats.

    Floats are written so that they are read back as they are, those of the columns `counts` as whole numbers; None and
    NaN are left empty.
    """
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv

    def column(name: str, values: Any) -> pa.Array:
        """Not by `pyarrow.array`, which imports pandas, in .2 s."""
        if not isinstance(values, np.ndarray):
            text = pa.lib.StringBuilder()
            text.append_values(values)
            return text.finish()
        missing, whole = np.isnan(values), name in counts
        known = np.packbits(~missing, bitorder="little")
        cells = np.where(missing, 0, values).astype(np.int64 if whole else np.float64)
        buffers = [pa.py_buffer(known), pa.py_buffer(cells)]
        return pa.Array.from_buffers(pa.int64() if whole else pa.float64(), len(values), buffers)

    with whole_file(path) as aside, aside.open("wb") as file:
        for number, columns in enumerate(pieces):
            table = pa.table({name: column(name, values) for name, values in columns.items()})
            csv.write_csv(table, file, csv.WriteOptions(include_header=number == 0))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """One object a line. Raises UserError naming the file and the number of the line that is none."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    rows = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:  # bad JSON or bad UTF-8
                raise UserError(f"{path}:{number}: not a JSON object: {error}") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}:{number}: not a JSON object but a {type(row).__name__}")
            rows.append(row)
    return rows


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_SURROGATE = re.compile("[\ud800-\udfff]")


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


def _line(error: Exception) -> str:
    """What it says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
