"""Compare a model's hidden states with some others' by linear CKA, layer by layer, biased and debiased."""

import argparse
from pathlib import Path

from deltageom.arguments import by_name, named_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--a", type=Path, required=True, help="hidden states (safetensors) of one model")
    parser.add_argument(
        "--b",
        type=named_path,
        action="append",
        required=True,
        metavar="NAME=FILE",
        help="hidden states of another; repeat for more",
    )
    parser.add_argument("--output", type=Path, required=True, help="csv file to write")


def run(arguments: argparse.Namespace) -> None:
    from deltageom import records
    from deltageom.measures import cka

    records.write_csv(arguments.output, cka.compare(arguments.a, by_name("--b", arguments.b)))
