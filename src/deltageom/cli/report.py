"""Write a study's results as one interactive page; of several studies, one page with all of them."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help="a study's folder, results/NAME")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the page (RESULTS/report.html; of several studies, report.html)"
    )


def run(arguments: argparse.Namespace) -> None:
    from deltageom import files
    from deltageom.errors import UserError
    from deltageom.report import studies
    from deltageom.report.page import render, source

    folders = arguments.results
    output = arguments.output or (folders[0] if len(folders) == 1 else Path()) / "report.html"
    if output.is_dir():
        raise UserError(f"--output {output} is a folder: name a file, such as {output / 'report.html'}")
    sources = [source.read(folder) for folder in folders]
    side_by_side = None
    if len(folders) > 1:
        found = studies.named([studies.read(folder) for folder in folders])
        side_by_side = {"settings": studies.settings_table(found), "numbers": studies.numbers_table(found)}
    files.write_text(output, render.page(sources, side_by_side))
    print(f"Written to {output}")
