"""Pre-train the toy base model on the toy's world's worked solutions, or take the one that comes with the package."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_settings, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder for the model and its tokenizer")


def run(arguments: argparse.Namespace) -> None:
    from deltageom.study.settings import PretrainSettings
    from deltageom.toy import shipped

    settings = parse_settings(PretrainSettings, arguments.settings)
    if shipped.fits(settings):
        shipped.copy(arguments.output)
        print(f"The base that comes with the package, of {shipped.made()['started']}: toy.shipped: false pre-trains")
        return
    from deltageom.toy import pretraining

    pretraining.pretrain(settings.toy, settings.prompt, arguments.output, settings.device, settings.dtype)
