"""Pre-train the embedded base model on the embedded world's worked solutions."""

import argparse
from pathlib import Path

from deltageom.arguments import add_settings, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder for the model and its tokenizer")


def run(arguments: argparse.Namespace) -> None:
    from deltageom import jobs
    from deltageom.embedded import pretraining

    settings = parse_settings(jobs.PretrainSettings, arguments.settings)
    pretraining.pretrain(settings.embedded, settings.prompt, arguments.output, settings.device, settings.dtype)
