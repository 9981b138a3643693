"""Checkpoints of a training: written whole, known by what they are of, found again after a kill."""

import json
import os
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from deltageom.errors import UserError
from deltageom.files import write_json
from deltageom.jobs import still_true
from deltageom.study.settings import TrainSettings

MARK = "complete.json"
STACK = ("torch", "transformers", "trl", "peft", "accelerate")


def identity(
    settings: TrainSettings, base: str, inputs: dict[str, Path | None], command: str, processes: int
) -> dict[str, Any]:
    """All that decides the bytes of an adapter: a checkpoint is continued only where this is equal.

    `command`: the one that trains. `inputs` are files, or folders of safetensors. The base is a folder's weights; a hub
    model stands for itself by its name and revision, which are in the settings.
    """
    folders = {"base": Path(base) if Path(base).is_dir() else None}
    return {
        "settings": settings.model_dump(mode="json"),
        **{name: _digest(path) for name, path in (inputs | folders).items() if path},
        "code": still_true.of_code(f"cli.jobs.{command}", f"methods.{settings.method}"),
        "processes": processes,
        **{package: metadata.version(package) for package in STACK},
    }


def marker(identity: dict[str, Any]) -> Callable[[Path], None]:
    """What completes a checkpoint's folder: its files are on the disk before the mark says so."""

    def mark(folder: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                _sync(path)
        write_json(folder / MARK, identity)
        _sync(folder)

    return mark


def latest(scratch: Path, identity: dict[str, Any]) -> Path | None:
    """The last complete checkpoint, None if there is none. Raises UserError if it is of another training.

    A folder without its mark was being written when the training was killed: it is passed over, and written again.
    """
    marked = [path.parent for path in scratch.glob(f"checkpoint-*/{MARK}")]
    if not marked:
        return None
    newest = max(marked, key=_step_of)
    found = json.loads((newest / MARK).read_text(encoding="utf-8"))
    if differences := _differences(found, identity):
        raise UserError(
            f"{newest}: is a checkpoint of another training ({'; '.join(differences)}): to start afresh delete "
            f"{scratch}, to go on with it put back what has changed"
        )
    return newest


def check_kept(places: Callable[[int], Iterable[Path]], resumed: Path | None, scratch: Path) -> None:
    """Raises UserError if one of the `places` of what a training keeps in its first so many steps is gone, and it is to
    go on from the checkpoint `resumed`."""
    done = _step_of(resumed) if resumed else 0
    if gone := [path for path in places(done) if not path.is_file()]:
        raise UserError(
            f"{gone[0]}: is gone, and the training cannot go on from {resumed} without it: to start afresh delete "
            f"{scratch}"
        )


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        if found == wanted:
            return []
        return [f"{name} is {wanted!r}, there {found!r}" if _short(found) and _short(wanted) else f"another {name}"]
    keys = sorted({*found, *wanted})
    prefix = "" if name in ("", "settings") else f"{name}."
    return [line for key in keys for line in _differences(found.get(key), wanted.get(key), f"{prefix}{key}")]


def _short(value: Any) -> bool:
    return len(repr(value)) < 60


def _digest(path: Path) -> str:
    return still_true.of_files(path.glob("*.safetensors")) if path.is_dir() else still_true.of_file(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
