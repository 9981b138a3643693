"""Train one run: a LoRA adapter, or the whole model, on the rollouts by one method."""

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
    parser.add_argument("--held-out", type=Path, help="the base's samples on held-out prompts, for kl_every")
    parser.add_argument("--match", type=Path, help="selection.json of the run whose norm match_norm names")
    parser.add_argument("--output", type=Path, required=True, help="folder for the adapter and its records")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for checkpoints; removed in the end")
    parser.add_argument("--processes", type=int, default=1, help="devices to train on")
    parser.add_argument("--checkpoint-every", type=int, default=0, help="steps between checkpoints; 0 for none")
    parser.add_argument("--report-to", default="none", help="of tensorboard, wandb, trackio, comma between; or none")


def run(arguments: argparse.Namespace) -> list[str]:
    let_segments_grow()

    from deltageom.study.settings import TrainSettings
    from deltageom.training import launch
    from deltageom.training.session import Execution
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
    reporters = () if arguments.report_to == "none" else tuple(arguments.report_to.split(","))
    execution = Execution(arguments.processes, arguments.checkpoint_every, reporters)
    if arguments.processes == 1:
        train(settings, paths, execution)
    else:
        launch.launch(train, (settings, paths, execution), arguments.processes, settings.device == "cpu")
    return [f"methods.{settings.method}"]
