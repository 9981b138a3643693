"""Arguments of the commands that train, and how they start a training."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--held-out", type=Path, help="the base's samples on held-out prompts, for kl_every")
    parser.add_argument("--match", type=Path, help="selection.json of the run whose norm match_norm names")
    parser.add_argument("--output", type=Path, required=True, help="folder for the adapter and its records")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for checkpoints; removed in the end")
    parser.add_argument("--processes", type=int, default=1, help="devices to train on")
    parser.add_argument("--checkpoint-every", type=int, default=0, help="steps between checkpoints; 0 for none")
    parser.add_argument("--report-to", default="none", help="of tensorboard, wandb, trackio, comma between; or none")


def start(train: Callable[..., None], settings: Any, paths: Any, arguments: argparse.Namespace, *more: Any) -> None:
    """train(settings, paths, execution, *more), in as many processes as are asked for."""
    from deltageom.training import launch
    from deltageom.training.session import Execution

    reporters = () if arguments.report_to == "none" else tuple(arguments.report_to.split(","))
    given = settings, paths, Execution(arguments.processes, arguments.checkpoint_every, reporters), *more
    if arguments.processes == 1:
        train(*given)
    else:
        launch.launch(train, given, arguments.processes, settings.device == "cpu")
