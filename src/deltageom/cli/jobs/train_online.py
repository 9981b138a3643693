"""Train one run by a method that samples while it trains: a LoRA adapter, and the samples that it drew."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_model, add_settings, parse_settings
from deltageom.cli.shared.segments import let_segments_grow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_model(parser)
    parser.add_argument("--problems", type=Path, required=True, help="jsonl file of the problems to sample")
    parser.add_argument("--teacher", help="folder or hub id of the model whose distribution the run learns")
    parser.add_argument("--held-out", type=Path, help="the base's samples on held-out prompts, for kl_every")
    parser.add_argument("--match", type=Path, help="selection.json of the run whose norm match_norm names")
    parser.add_argument("--output", type=Path, required=True, help="folder for the adapter, its records and samples")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for checkpoints; removed in the end")
    parser.add_argument("--processes", type=int, default=1, help="devices to train on")
    parser.add_argument("--checkpoint-every", type=int, default=0, help="steps between checkpoints; 0 for none")
    parser.add_argument("--memory-share", type=float, default=0.3, help="of the GPU's, for vLLM (%(default)s)")
    parser.add_argument("--report-to", default="none", help="of tensorboard, wandb, trackio, comma between; or none")


def run(arguments: argparse.Namespace) -> list[str]:
    let_segments_grow()

    from deltageom.study.settings import OnlineSettings
    from deltageom.training import launch
    from deltageom.training.online.train import Paths, train
    from deltageom.training.session import Execution

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
    reporters = () if arguments.report_to == "none" else tuple(arguments.report_to.split(","))
    execution = Execution(arguments.processes, arguments.checkpoint_every, reporters)
    given = settings, paths, execution, arguments.memory_share
    if arguments.processes == 1:
        train(*given)
    else:
        launch.launch(train, given, arguments.processes, settings.device == "cpu")
    return [f"methods.{settings.method}"]
