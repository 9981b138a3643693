"""Write one problem set as jsonl: id, question, answer, solution."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_settings, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument(
        "--grader",
        choices=["strict", "math_verify"],
        default="strict",
        help="whose golds are read, if --settings do not say (%(default)s)",
    )
    parser.add_argument("--output", type=Path, required=True, help="jsonl file to write")


def run(arguments: argparse.Namespace) -> None:
    from deltageom.problems import problem
    from deltageom.problems.load import load_problems
    from deltageom.study.settings import ProblemSettings

    settings = parse_settings(ProblemSettings, arguments.settings)
    found = load_problems(settings.dataset, settings.seed, settings.world, settings.grader or arguments.grader)
    problem.write_problems(arguments.output, found)
    print(f"{arguments.output}: {len(found)} problems")
