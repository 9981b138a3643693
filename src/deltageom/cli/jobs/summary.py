"""Write what a study found: the summary, the details with every table and figure, the tables that a paper prints."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_settings, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--tables", type=Path, required=True, help="folder of the tables; gets those in LaTeX")
    parser.add_argument("--figures", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--output", type=Path, required=True, help="folder for summary.md and details.md")


def run(arguments: argparse.Namespace) -> None:
    from deltageom import files
    from deltageom.display.table_files import read_tables
    from deltageom.report import details, summary
    from deltageom.report.tables import printed
    from deltageom.study import resolved

    study = parse_settings(resolved.Study, arguments.settings).model_dump(mode="json")
    frames = read_tables(arguments.tables)
    drawn = sorted(path.stem for path in arguments.figures.glob("*.png"))
    files.write_text(arguments.output / "summary.md", summary.summary(study, frames))
    files.write_text(arguments.output / "details.md", details.details(study, frames, drawn))
    for name, text in printed.as_latex(study, frames).items():
        files.write_text(arguments.tables / f"{name}.tex", text)
