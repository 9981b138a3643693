"""Measure the weight geometry of some modules, all runs and pairs, from the adapters' factors."""

import argparse
from pathlib import Path

from deltageom.arguments import named_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run", type=named_path, action="append", required=True, metavar="NAME=FOLDER", help="a run; repeat"
    )
    parser.add_argument("--module", action="append", required=True, help="layers.0.self_attn.q_proj; repeat")
    parser.add_argument("--top-k", type=int, required=True, help="singular directions in the principal angles")
    parser.add_argument("--output", type=Path, required=True, help="folder for MODULE.json")


def run(arguments: argparse.Namespace) -> None:
    from deltageom.measures import geometry

    geometry.write(arguments.module, dict(arguments.run), arguments.top_k, arguments.output)
