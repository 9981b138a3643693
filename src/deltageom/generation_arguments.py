"""Arguments of the commands that generate: how completions are made, not which, so no key of their settings."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # every command's arguments are read on every start, and generation imports much
    from deltageom.generation import Job


def add_generation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scratch", type=Path, required=True, help="folder for what a killed job goes on from")
    parser.add_argument(
        "--shard-size", type=int, default=2048, help="completions that it keeps at a time (%(default)s)"
    )
    parser.add_argument("--tensor-parallel", type=int, default=1, help="GPUs for one vLLM engine (%(default)s)")
    parser.add_argument("--memory-share", type=float, default=0.9, help="of a GPU's, for vLLM (%(default)s)")


def job_of(arguments: argparse.Namespace) -> "Job":
    from deltageom.generation import Job

    return Job(arguments.scratch, arguments.shard_size, arguments.tensor_parallel, arguments.memory_share)
