"""The base's log-probs of mismatched completions, each after another problem's prompt, for KTO's KL term."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_model, add_settings, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_model(parser)
    parser.add_argument("--rollouts", type=Path, required=True, help="parquet file of rollouts")
    parser.add_argument("--output", type=Path, required=True, help="parquet file")


def run(arguments: argparse.Namespace) -> None:
    from deltageom.study.settings import MismatchedSettings
    from deltageom.training import reference

    settings = parse_settings(MismatchedSettings, arguments.settings)
    reference.write_mismatched(settings, arguments.base, arguments.rollouts, arguments.output)
