"""Make every table (csv and md) of a study from its records."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_settings, add_shared, by_name, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--results", type=Path, required=True, help="the study's folder below results/")
    add_shared(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder for the tables")


def run(arguments: argparse.Namespace) -> None:
    from deltageom.display.table_files import write_table
    from deltageom.report.tables import build
    from deltageom.study.settings import TableSettings

    settings = parse_settings(TableSettings, arguments.settings)
    shared = by_name("--shared", arguments.shared)
    for name, frame in build.collect(arguments.results, settings, shared).items():
        write_table(frame, arguments.output, name)
