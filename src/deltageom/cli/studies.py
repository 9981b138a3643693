"""Put finished studies side by side: the settings that differ, and every number that they share."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("studies", nargs="+", type=Path, metavar="RESULTS", help="folders of finished studies")
    parser.add_argument(
        "--compare-with", metavar="RUN", help="the run whose cosines are shown (the first study's compare_with)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="for settings, numbers (csv, md) and a figure")


def run(arguments: argparse.Namespace) -> None:
    from deltageom.errors import UserError
    from deltageom.report import studies, studies_console

    found = studies.named([studies.read(folder) for folder in arguments.studies])
    first = next(iter(found.values()))
    reference = arguments.compare_with or first.settings["measures"]["compare_with"]
    if lacking := [name for name, study in found.items() if reference not in set(study.tables["training"]["run"])]:
        raise UserError(f"study {lacking[0]} has no run {reference!r}: name one that all have (--compare-with)")
    differ, numbers = studies.settings_table(found), studies.numbers_table(found)
    studies_console.show(found, differ, numbers, reference)
    if arguments.output:
        from deltageom.display import drawing
        from deltageom.display.table_files import write_table
        from deltageom.report.studies_figure import studies_figure

        write_table(differ, arguments.output, "settings")
        write_table(numbers, arguments.output, "numbers")
        for kind in ("svg", "png"):
            drawing.save(studies_figure(found, reference), arguments.output / f"cosines.{kind}")
        print(f"Written to {arguments.output}: settings and numbers (csv, md), cosines (svg, png)")
