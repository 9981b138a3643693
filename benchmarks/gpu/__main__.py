"""Runs the parts, each a process of its own with a time limit, and prints one page of their tables.

python -m benchmarks.gpu                                  # the GPU that torch sees, Qwen3-4B's shape
python -m benchmarks.gpu --device cpu --size tiny --length 64 --parity-steps 4
python -m benchmarks.gpu --output FOLDER --table          # the page of a folder that has been filled
"""

import argparse
import importlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu import options, page
from benchmarks.gpu.record import Record

ROOT = Path(__file__).parents[2]
ALL_GPUS = ("versions", "dag", "processes")  # the other parts are of one GPU
GRACE = 5.0  # seconds between a request to end and the end


def main() -> None:
    given = options.parse()
    if given.inside:
        part = importlib.import_module(f"benchmarks.gpu.{given.inside}")
        part.run(given, Record(given.output / f"{given.inside}.jsonl"))
        return
    if not given.table:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that the part under way ends too
        given.output = given.output.resolve()
        given.output.mkdir(parents=True, exist_ok=True)
        page.keep_options(given)
        for name in dict.fromkeys(["versions", *given.parts]):
            print(f"{name} ...", file=sys.stderr, flush=True)
            measure(name, given)
    print(page.write(given.output))


def measure(name: str, given: argparse.Namespace) -> None:
    """One part in a process of its own; whatever becomes of it is a line in its file."""
    path = given.output / f"{name}.jsonl"
    path.write_text("")
    log = given.output / f"{name}.log"
    with tempfile.TemporaryDirectory(prefix="deltageom-gpu-") as scratch, log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu", *page.arguments(given), "--inside", name],
            cwd=ROOT,
            env=environment(name, given.device) | {"TMPDIR": scratch},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(given.seconds)
        except subprocess.TimeoutExpired:
            Record(path).write(ended=f"not reached: time limit of {given.seconds:g} s")
        else:
            if code:
                Record(path).write(ended=f"not reached: the part ended with status {code}", said=_last_line(log))
        finally:
            _end(process)


def environment(name: str, device: str) -> dict[str, str]:
    """A user's own settings stay."""
    defaults = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin cost more than they bring where others compute too
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    }
    found = defaults | os.environ
    if device == "cpu":
        return found | {"CUDA_VISIBLE_DEVICES": ""}
    if name not in ALL_GPUS:
        found["CUDA_VISIBLE_DEVICES"] = found.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the part with all that it started, which has a session of its own."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
            process.wait(GRACE)
        except (ProcessLookupError, PermissionError):
            return
        except subprocess.TimeoutExpired:
            continue


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"


if __name__ == "__main__":
    main()
