"""Score the base or a run on every benchmark: greedy pass@1, one record an item."""

import argparse
from pathlib import Path

from deltageom.arguments import add_model, add_settings, named_path, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_model(parser, adapter=True)
    parser.add_argument(
        "--benchmark",
        type=named_path,
        action="append",
        required=True,
        metavar="NAME=FILE",
        help="a benchmark's problems (jsonl); repeat for more",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for NAME.jsonl")


def run(arguments: argparse.Namespace) -> list[str]:
    from deltageom import evaluation, jobs, records

    settings = parse_settings(jobs.EvaluationSettings, arguments.settings)
    benchmarks = {name: records.read_problems(path) for name, path in arguments.benchmark}
    accuracy = evaluation.evaluate(settings, arguments.base, arguments.adapter, benchmarks, arguments.output)
    print(", ".join(f"{name} {value:.3f}" for name, value in accuracy.items()))
    return [f"engines.{settings.evaluation.engine}"]
