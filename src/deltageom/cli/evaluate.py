"""Answer every benchmark with the base or a run, one record a completion; `grade` grades them."""

import argparse
from pathlib import Path

from deltageom.arguments import add_model, add_settings, named_path, parse_settings
from deltageom.generation_arguments import add_generation, job_of


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
    add_generation(parser)


def run(arguments: argparse.Namespace) -> list[str]:
    from deltageom import evaluation, jobs, records
    from deltageom.errors import UserError

    settings = parse_settings(jobs.EvaluationSettings, arguments.settings)
    benchmarks = {name: records.read_problems(path) for name, path in arguments.benchmark}
    if missing := benchmarks.keys() - settings.decodings.keys():
        raise UserError(f"--settings: decodings has no {sorted(missing)[0]!r}, which --benchmark names")
    kept, answered = evaluation.evaluate(
        settings, arguments.base, arguments.adapter, benchmarks, arguments.output, job_of(arguments)
    )
    print(f"answered: {', '.join(answered) or 'none'}; kept from before: {', '.join(kept) or 'none'}")
    return [f"engines.{settings.evaluation.engine}"]
