"""The gradient of one run's loss at the base, written as the adapter that a step of gradient descent makes."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_model, add_settings, parse_settings
from deltageom.cli.shared.segments import let_segments_grow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_model(parser)
    parser.add_argument("--rollouts", type=Path, required=True, help="parquet file of rollouts")
    parser.add_argument("--reference", type=Path, help="the base's log-probs of them, for methods that need them")
    parser.add_argument("--mismatched", type=Path, help="and of mismatched completions, for KTO's KL term")
    parser.add_argument("--output", type=Path, required=True, help="folder for the adapter")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for what is removed in the end")


def run(arguments: argparse.Namespace) -> list[str]:
    let_segments_grow()

    import shutil

    from deltageom.training import gradient
    from deltageom.training.train import Paths

    settings = parse_settings(gradient.GradientSettings, arguments.settings)
    paths = Paths(
        base=arguments.base,
        rollouts=arguments.rollouts,
        output=arguments.output,
        scratch=arguments.scratch,
        reference=arguments.reference,
        mismatched=arguments.mismatched,
    )
    gradient.write(settings, paths)
    shutil.rmtree(arguments.scratch, ignore_errors=True)
    return [f"methods.{settings.method}"]
