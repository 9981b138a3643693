"""Train one run: a LoRA adapter on the rollouts by one method."""

import argparse
from pathlib import Path

from deltageom.arguments import add_model, add_settings, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_model(parser)
    parser.add_argument("--rollouts", type=Path, required=True, help="parquet file of rollouts")
    parser.add_argument("--output", type=Path, required=True, help="folder for the adapter and its records")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for the trainer's own files")


def run(arguments: argparse.Namespace) -> list[str]:
    from deltageom import jobs, training

    settings = parse_settings(jobs.TrainSettings, arguments.settings)
    training.train(settings, arguments.base, arguments.rollouts, arguments.output, arguments.scratch)
    return [f"methods.{settings.method}"]
