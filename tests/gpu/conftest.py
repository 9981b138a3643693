"""`python -m benchmarks.gpu` run once as a user would: a true size where torch sees a GPU, tiny on a CPU."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import options
from benchmarks.gpu.record import Line, cells, read

ROOT = Path(__file__).parents[2]
ON_GPU = torch.cuda.is_available()
TINY = ["--length", "64", "--parity-steps", "2", "--steps", "2"]


class Measured:
    """A folder that the benchmark has filled, and what it printed."""

    def __init__(self, folder: Path, printed: str) -> None:
        self.folder, self.printed = folder, printed

    def cells(self, part: str) -> dict[str, list[Line]]:
        """Of each cell, its lines; the part's log is shown where a test fails."""
        print((self.folder / f"{part}.log").read_text(errors="replace")[-2000:])
        return cells(read(self.folder / f"{part}.jsonl"))


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    # one thread: those of several processes that share the cores starve each other
    threads = {} if ON_GPU else {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=threads | os.environ, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("gpu")
    size = os.environ.get("DELTAGEOM_GPU_SIZE", "4b" if ON_GPU else "tiny")
    device = ["--device", "cuda"] if ON_GPU else ["--device", "cpu", *TINY]
    done = benchmark(*device, "--size", size, "--output", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    return Measured(folder, done.stdout)


@pytest.fixture
def tiny() -> argparse.Namespace:
    """The options of a tiny run on the CPU."""
    return options.parse(["--device", "cpu", "--size", "tiny", *TINY])
