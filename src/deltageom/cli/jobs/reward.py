"""Grade the completions of the training problems: the rollouts that every run is trained on, with a data set card."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_model, add_settings, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_model(parser)
    parser.add_argument("--completions", type=Path, required=True, help="parquet file of completions")
    parser.add_argument("--problems", type=Path, required=True, help="jsonl file of their problems")
    parser.add_argument("--workers", type=int, default=1, help="processes of the second grader (%(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder for rollouts.parquet and README.md")


def run(arguments: argparse.Namespace) -> None:
    from deltageom.problems import problem
    from deltageom.rollouts import reward
    from deltageom.study.settings import RewardSettings

    settings = parse_settings(RewardSettings, arguments.settings)
    problems = problem.read_problems(arguments.problems)
    counts = reward.reward(
        settings, arguments.base, arguments.completions, problems, arguments.output, arguments.workers
    )
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
