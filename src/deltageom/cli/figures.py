"""Draw every figure (svg and png) of a study from its tables."""

import argparse
from pathlib import Path

from deltageom.arguments import add_settings, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--tables", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--output", type=Path, required=True, help="folder for the figures")


def run(arguments: argparse.Namespace) -> None:
    from deltageom import figures, jobs, tables

    settings = parse_settings(jobs.FigureSettings, arguments.settings)
    frames = tables.read_all(arguments.tables)
    for name, draw in figures.FIGURES.items():
        figures.save(draw(frames, settings.reference), arguments.output, name)
