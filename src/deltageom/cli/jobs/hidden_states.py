"""Encode prompts with the base or a run and keep every layer's hidden states."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_model, add_settings, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_model(parser, adapter=True)
    parser.add_argument("--problems", type=Path, required=True, help="jsonl file of problems")
    parser.add_argument("--answers", type=Path, help="the base's graded answers to them, for pooling completion")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")


def run(arguments: argparse.Namespace) -> None:
    from deltageom.measures.shared import hidden_states
    from deltageom.measures.shared.settings import HiddenSettings
    from deltageom.problems import problem

    settings = parse_settings(HiddenSettings, arguments.settings)
    problems = problem.read_problems(arguments.problems)[: settings.cka.prompts]
    hidden_states.write(settings, arguments.base, arguments.adapter, problems, arguments.output, arguments.answers)
