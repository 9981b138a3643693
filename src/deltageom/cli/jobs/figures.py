"""Draw every figure (svg, pdf and png) of a study from its tables."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_settings, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--tables", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--output", type=Path, required=True, help="folder for the figures")


def run(arguments: argparse.Namespace) -> None:
    from deltageom.display import drawing
    from deltageom.display.table_files import read_tables
    from deltageom.report import figures
    from deltageom.study.settings import FigureSettings

    settings = parse_settings(FigureSettings, arguments.settings)
    frames = read_tables(arguments.tables)
    drawn = figures.every_figure(frames)
    if "replicates" in frames:
        drawn["replicates"] = figures.replicates
    for name, draw in drawn.items():
        figure = draw(frames, settings.compare_with)
        for kind in ("svg", "pdf", "png"):
            drawing.save(figure, arguments.output / f"{name}.{kind}")
