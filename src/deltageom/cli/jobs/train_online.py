"""Train one run by a method that samples while it trains: a LoRA adapter, and the samples that it drew."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_model, add_settings, parse_settings
from deltageom.cli.shared.segments import let_segments_grow
from deltageom.cli.shared.training import add_training, start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_model(parser)
    parser.add_argument("--problems", type=Path, required=True, help="jsonl file of the problems to sample")
    parser.add_argument("--teacher", help="folder or hub id of the model whose distribution the run learns")
    add_training(parser)
    parser.add_argument("--memory-share", type=float, default=0.3, help="of the GPU's, for vLLM (%(default)s)")


def run(arguments: argparse.Namespace) -> list[str]:
    let_segments_grow()

    from deltageom.study.settings import OnlineSettings
    from deltageom.training.online.train import Paths, train

    settings = parse_settings(OnlineSettings, arguments.settings)
    paths = Paths(
        base=arguments.base,
        problems=arguments.problems,
        output=arguments.output,
        scratch=arguments.scratch,
        teacher=arguments.teacher,
        held_out=arguments.held_out,
        match=arguments.match,
    )
    start(train, settings, paths, arguments, arguments.memory_share)
    return [f"methods.{settings.method}"]
