"""Compute the rows of one measure: of a run, or of a run with each of some others."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_named_paths, by_name, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the measure: a file of src/deltageom/measures/")
    parser.add_argument("--settings", default="{}", metavar="JSON", help="what the measure is told of the study")
    add_named_paths(parser, "--input", "NAME=PATH", "what the measure reads, by its name for it", required=False)
    add_named_paths(parser, "--run", "NAME=PATH", "a run that it reads; repeat for more", required=False)
    parser.add_argument("--output", type=Path, required=True, help="csv file to write")


def run(arguments: argparse.Namespace) -> list[str]:
    from deltageom import files
    from deltageom.errors import UserError
    from deltageom.measures import interface as measures

    if arguments.name not in measures.names():
        raise UserError(f"measure {arguments.name!r}: there is no such measure; known: {', '.join(measures.names())}")
    measure = measures.load(arguments.name)
    settings = parse_settings(measure.settings, arguments.settings)
    inputs = by_name("--input", arguments.input)
    if missing := [name for name in measure.inputs if name not in inputs]:
        raise UserError(
            f"--input {missing[0]}=PATH is missing: measure {arguments.name} reads {', '.join(measure.inputs)}"
        )
    rows = measure.rows(settings, inputs, by_name("--run", arguments.run))
    files.write_csv(arguments.output, rows)
    return [f"measures.{arguments.name}"]
