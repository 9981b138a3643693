"""Train the toy base further on careful solutions: the teacher that samples the rollouts."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_settings, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--base", type=Path, required=True, help="folder of the toy base")
    parser.add_argument("--output", type=Path, required=True, help="folder for the teacher and its tokenizer")


def run(arguments: argparse.Namespace) -> None:
    from deltageom.study.settings import TeacherSettings
    from deltageom.toy import pretraining

    settings = parse_settings(TeacherSettings, arguments.settings)
    pretraining.train_teacher(
        arguments.base,
        settings.toy,
        settings.teacher.documents,
        settings.prompt,
        arguments.output,
        settings.device,
        settings.dtype,
    )
