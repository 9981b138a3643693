"""Train one run: a LoRA adapter, or the whole model, on the rollouts by one method."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_model, add_settings, parse_settings
from deltageom.cli.shared.segments import let_segments_grow
from deltageom.cli.shared.training import add_training, start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_model(parser)
    parser.add_argument("--rollouts", type=Path, required=True, help="parquet file of rollouts")
    parser.add_argument("--reference", type=Path, help="the base's log-probs of them, for methods that need them")
    parser.add_argument("--mismatched", type=Path, help="and of mismatched completions, for KTO's KL term")
    add_training(parser)


def run(arguments: argparse.Namespace) -> list[str]:
    let_segments_grow()

    from deltageom.study.settings import TrainSettings
    from deltageom.training.train import Paths, train

    settings = parse_settings(TrainSettings, arguments.settings)
    paths = Paths(
        base=arguments.base,
        rollouts=arguments.rollouts,
        output=arguments.output,
        scratch=arguments.scratch,
        reference=arguments.reference,
        mismatched=arguments.mismatched,
        held_out=arguments.held_out,
        match=arguments.match,
    )
    start(train, settings, paths, arguments)
    return [f"methods.{settings.method}"]
