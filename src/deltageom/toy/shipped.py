"""The toy base that comes with the package, for the settings that it was made with.

Pre-training is where machines part: kernels for other CPUs round otherwise, and after some hundred steps that is
another base. From one base on, other kernels give the same teacher, rollouts and updates within rounding. So a study
whose toy has the shipped base's settings uses that base, and two machines compare the same thing.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from deltageom.errors import UserError
from deltageom.study.settings import PretrainSettings

FOLDER = Path(__file__).parent / "base"
RECORD = "made.json"


def made() -> dict[str, Any]:
    """How the shipped base was made: command, settings, versions, machine, and the SHA-256 of each of its files."""
    record: dict[str, Any] = json.loads((FOLDER / RECORD).read_text(encoding="utf-8"))
    return record


def fits(settings: PretrainSettings) -> bool:
    """Whether these settings are the shipped base's: all but the device, and unless the study wants its own."""
    return settings.toy.shipped and _compared(settings.model_dump(mode="json")) == _compared(made()["settings"])


def copy(output: Path) -> None:
    """Writes the shipped base's files to `output`. Raises UserError if one is not what it was."""
    output.mkdir(parents=True, exist_ok=True)
    for name, digest in made()["files"].items():
        if hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() != digest:
            raise UserError(f"{FOLDER / name}: is not the file that came with the package: install it again")
        shutil.copyfile(FOLDER / name, output / name)


def _compared(settings: Any) -> dict[str, Any]:
    toy = {key: value for key, value in settings["toy"].items() if key != "shipped"}
    return {"toy": toy, "prompt": settings["prompt"], "dtype": settings["dtype"]}
