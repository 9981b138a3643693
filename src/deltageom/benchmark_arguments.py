"""The argument of the commands that read benchmarks' problems."""

import argparse
from typing import TYPE_CHECKING

from deltageom.arguments import named_path
from deltageom.errors import UserError

if TYPE_CHECKING:  # every command's arguments are read on every start
    from deltageom.records import Problem


def add_benchmarks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--benchmark",
        type=named_path,
        action="append",
        required=True,
        metavar="NAME=FILE",
        help="a benchmark's problems (jsonl); repeat for more",
    )


def benchmarks_of(arguments: argparse.Namespace) -> "dict[str, list[Problem]]":
    """Raises UserError if a name is given twice."""
    from deltageom import records

    paths = dict(arguments.benchmark)
    if len(paths) < len(arguments.benchmark):
        raise UserError("--benchmark: two have the same name; give each its own")
    return {name: records.read_problems(path) for name, path in paths.items()}
