"""Measure the weight geometry of some modules, all runs and pairs, from the factors of their deltas."""

import argparse
from pathlib import Path

from deltageom.arguments import named_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run", type=named_path, action="append", required=True, metavar="NAME=FOLDER", help="a run; repeat"
    )
    parser.add_argument("--module", action="append", required=True, help="layers.0.self_attn.q_proj; repeat")
    parser.add_argument("--top-k", type=int, required=True, help="singular directions in the principal angles")
    parser.add_argument("--base", help="the base model, a folder or a hub id, where a run is a checkpoint")
    parser.add_argument("--revision", help="the base's hub commit or tag")
    parser.add_argument("--output", type=Path, required=True, help="folder for MODULE.json")


def run(arguments: argparse.Namespace) -> None:
    from deltageom import hub
    from deltageom.measures import geometry

    base = hub.weights_folder(arguments.base, arguments.revision) if arguments.base else None
    geometry.write(arguments.module, dict(arguments.run), arguments.top_k, arguments.output, base)
