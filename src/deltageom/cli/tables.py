"""Make every table (csv and md) of a study from its records."""

import argparse
from pathlib import Path

from deltageom.arguments import add_settings, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--results", type=Path, required=True, help="the study's folder below results/")
    parser.add_argument("--output", type=Path, required=True, help="folder for the tables")


def run(arguments: argparse.Namespace) -> None:
    from deltageom import collect, jobs, tables

    settings = parse_settings(jobs.TableSettings, arguments.settings)
    for name, frame in collect.collect(arguments.results, settings).items():
        tables.write(frame, arguments.output, name)
