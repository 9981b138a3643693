"""Write the summary of a study: its tables and figures with captions, as Markdown."""

import argparse
from pathlib import Path

from deltageom.arguments import add_settings, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--tables", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--figures", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write, beside the figures' folder")


def run(arguments: argparse.Namespace) -> None:
    from deltageom import records, resolved, summary, tables

    study = parse_settings(resolved.Study, arguments.settings)
    frames = tables.read_all(arguments.tables)
    drawn = sorted(path.stem for path in arguments.figures.glob("*.png"))
    records.write_text(arguments.output, summary.summary(study.model_dump(mode="json"), frames, drawn))
