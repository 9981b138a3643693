"""The real Snakemake in a copy of the project, whose own sources its jobs run."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import environment


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", *arguments]


def snakemake(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("--cores", "2", *arguments),
        cwd=project,
        env=environment(project),
        capture_output=True,
        text=True,
        check=False,
    )
