"""What a machine says of itself: outside programs with a time limit, installed versions. Nothing is imported
that takes a second, and nothing raises.
"""

import importlib.util
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;#]+)")


@dataclass(frozen=True)
class Answer:
    """What a program printed. status: its exit status, None if it gave no answer in time or did not start."""

    status: int | None
    text: str


def ask(command: Sequence[str], seconds: float) -> Answer:
    """Runs a program, at most so long. It and all that it has started are killed then: one of those may hold the pipe
    open, and reading would wait for it."""
    environment = os.environ | {"LC_ALL": "C"}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        return Answer(None, f"does not start: {error.strerror}")
    try:
        text, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as late:
        os.killpg(process.pid, signal.SIGKILL)
        # what it has said so far; it is not waited for, since one that hangs in a driver does not even die
        said = late.output or b""
        return Answer(None, said.decode(errors="replace") if isinstance(said, bytes) else said)
    return Answer(process.returncode, text)


def pins(path: Path) -> dict[str, str]:
    """Name to version of the lines `name==version`; none if there is no such file."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {match[1]: match[2] for line in lines if (match := PIN.match(line))}


def version(package: str) -> str | None:
    """Of an installed package, with its build ('2.13.0+cpu')."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def public(version: str) -> str:
    """Without the build: a pin names none, so that the installer takes the machine's."""
    return version.partition("+")[0]


def torch_cuda() -> str | None:
    """The CUDA version that torch is built for, from its files: importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.origin:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^cuda\b[^=\n]*=\s*['\"]([0-9.]+)['\"]", text, flags=re.MULTILINE)
    return match[1] if match else None


def importable(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    path = path.absolute()
    return path if path.exists() else existing(path.parent)
