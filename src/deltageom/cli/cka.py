"""Compare a model's hidden states with some others' by linear CKA, layer by layer, biased and debiased."""

import argparse
from pathlib import Path

from deltageom.arguments import add_named_paths, by_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--a", type=Path, required=True, help="hidden states (safetensors) of one model")
    add_named_paths(parser, "--b", "NAME=FILE", "hidden states of another; repeat for more")
    parser.add_argument("--output", type=Path, required=True, help="csv file to write")


def run(arguments: argparse.Namespace) -> None:
    from deltageom import records
    from deltageom.measures import cka

    records.write_csv(arguments.output, cka.compare(arguments.a, by_name("--b", arguments.b)))
