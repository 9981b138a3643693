"""Is what lies here still true? Digests of what decides it: values, arrays, files' content, code.

What a job keeps for later (a checkpoint, a shard, a benchmark's answers, a pair's numbers) lies
beside the digest of what it was made from, and is used again only where that digest is the same.
"""

import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from deltageom.files import write_json
from deltageom.jobs import code

LARGE = 10_000_000  # bytes: smaller files are read in milliseconds
SETTLED = 2_000_000_000  # ns: what has changed later than that may change again within one tick of the disk's clock

Stamp = list[int]  # size, mtime, ctime and inode: no content changes without one of them
_read: dict[str, tuple[Stamp, str]] = {}


class Array(Protocol):
    """What numpy's arrays have."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def tobytes(self) -> bytes: ...


def of_values(value: Any) -> str:
    """SHA-256 of plain values: those of equal values are equal, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def of_code(*modules: str) -> str:
    """SHA-256 of the files that the `modules` ('cli.train', 'methods.dpo') import, by meaning: see code.py."""
    return of_values(code.digests(*modules))


def of_arrays(*arrays: Array) -> str:
    """SHA-256 of shapes and bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode() + array.tobytes())
    return digest.hexdigest()


def of_files(paths: Iterable[Path]) -> str:
    """SHA-256 of the files' names and contents, in the order of their paths."""
    return of_values([[path.name, of_file(path)] for path in sorted(paths)])


def of_file(path: Path, kept: Path | None = None) -> str:
    """SHA-256 of a file's content, which is read in pieces, and once per process.

    `kept`, a JSON file, remembers large files for the next process. Raises OSError.
    """
    stat = path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    if kept and stat.st_size >= LARGE and str(path) not in _read:
        _read.update({name: entry for name, entry in _entries(kept).items() if name not in _read})
    if (found := _read.get(str(path))) and found[0] == stamp:
        return found[1]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - stat.st_ctime_ns > SETTLED:
        _read[str(path)] = stamp, digest
        if kept and stat.st_size >= LARGE:
            write_json(kept, _entries(kept) | {str(path): (stamp, digest)})
    return digest


def _entries(kept: Path) -> dict[str, tuple[Stamp, str]]:
    try:
        return {str(name): (stamp, digest) for name, (stamp, digest) in json.loads(kept.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # none yet, or damaged: read afresh
        return {}
