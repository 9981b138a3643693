"""The argument of the commands that read benchmarks' problems."""

import argparse
from typing import TYPE_CHECKING

from deltageom.arguments import add_named_paths, by_name

if TYPE_CHECKING:  # every command's arguments are read on every start
    from deltageom.records import Problem


def add_benchmarks(parser: argparse.ArgumentParser) -> None:
    add_named_paths(parser, "--benchmark", "NAME=FILE", "a benchmark's problems (jsonl); repeat for more")


def benchmarks_of(arguments: argparse.Namespace) -> "dict[str, list[Problem]]":
    """Raises UserError if a name is given twice."""
    from deltageom import records

    paths = by_name("--benchmark", arguments.benchmark)
    return {name: records.read_problems(path) for name, path in paths.items()}
