"""Measure the boxed-answer loss along the paths between one run's delta and some others'."""

import argparse
from pathlib import Path

from deltageom.arguments import add_model, add_named_paths, add_settings, by_name, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_model(parser)
    parser.add_argument("--a", type=Path, required=True, help="folder of the run that alpha weighs")
    add_named_paths(parser, "--b", "NAME=FOLDER", "a run that 1 - alpha weighs; repeat for more paths")
    parser.add_argument("--problems", type=Path, required=True, help="jsonl file of problems")
    parser.add_argument("--output", type=Path, required=True, help="csv file to write")


def run(arguments: argparse.Namespace) -> None:
    from deltageom import jobs, records
    from deltageom.measures import connectivity

    settings = parse_settings(jobs.ConnectivitySettings, arguments.settings)
    problems = records.read_problems(arguments.problems)[: settings.connectivity.problems]
    rows = connectivity.loss_along_paths(settings, arguments.base, arguments.a, by_name("--b", arguments.b), problems)
    records.write_csv(arguments.output, rows)
