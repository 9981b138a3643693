"""Arguments of the commands that generate completions."""

import argparse
from pathlib import Path


def add_generation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scratch", type=Path, required=True, help="folder for what a killed job goes on from")
    parser.add_argument(
        "--shard-size", type=int, default=2048, help="completions that it keeps at a time (%(default)s)"
    )
    parser.add_argument("--tensor-parallel", type=int, default=1, help="GPUs for one vLLM engine (%(default)s)")
    parser.add_argument("--memory-share", type=float, default=0.9, help="of a GPU's, for vLLM (%(default)s)")
    parser.add_argument("--parts", type=int, default=1, metavar="N", help="jobs that share the work (%(default)s)")
    parser.add_argument(
        "--part", type=int, metavar="I", help="keep part I of --parts in --scratch; without it, merge what they kept"
    )
