"""Write one problem set as jsonl: id, question, answer, solution."""

import argparse
from pathlib import Path

from deltageom.arguments import add_settings, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--output", type=Path, required=True, help="jsonl file to write")


def run(arguments: argparse.Namespace) -> None:
    from deltageom import jobs, problems, records

    settings = parse_settings(jobs.ProblemSettings, arguments.settings)
    found = problems.load(settings.dataset, settings.seed, settings.world)
    records.write_problems(arguments.output, found)
    print(f"{arguments.output}: {len(found)} problems")
