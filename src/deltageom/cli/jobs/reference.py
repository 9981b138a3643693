"""The base's log-probs of the rollouts, and its own samples on held-out prompts."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_model, add_settings, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_model(parser)
    parser.add_argument("--rollouts", type=Path, required=True, help="parquet file of rollouts")
    parser.add_argument("--problems", type=Path, help="jsonl file of held-out problems; without it, no samples")
    parser.add_argument("--output", type=Path, required=True, help="folder for log_probs.parquet and held_out.parquet")


def run(arguments: argparse.Namespace) -> None:
    from deltageom.problems import problem
    from deltageom.study.settings import ReferenceSettings
    from deltageom.training import reference

    settings = parse_settings(ReferenceSettings, arguments.settings)
    problems = problem.read_problems(arguments.problems) if arguments.problems else []
    reference.write(settings, arguments.base, arguments.rollouts, problems, arguments.output)
