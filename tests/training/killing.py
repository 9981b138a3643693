"""Trainings in processes of their own, to be killed."""

import os
import signal
import subprocess
import time
from pathlib import Path


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def killed_when(moment: str, command: list[str], scratch: Path, output: Path) -> None:
    """Starts the training, and kills it with SIGKILL once a path in its scratch folder appears."""
    process = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    limit = time.monotonic() + 120
    while not list(scratch.glob(moment)):
        assert process.poll() is None, f"the training ended before {moment}"
        assert time.monotonic() < limit
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not output.exists()
