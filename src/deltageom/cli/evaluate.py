"""Answer every benchmark with the base or a run, one record a completion; `grade` grades them."""

import argparse
from pathlib import Path

from deltageom.arguments import add_model, add_settings, parse_settings
from deltageom.benchmark_arguments import add_benchmarks, benchmarks_of
from deltageom.generation_arguments import add_generation, job_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_model(parser, adapter=True)
    add_benchmarks(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder for NAME.jsonl")
    add_generation(parser)


def run(arguments: argparse.Namespace) -> list[str]:
    from deltageom import evaluation, jobs
    from deltageom.errors import UserError

    settings = parse_settings(jobs.EvaluationSettings, arguments.settings)
    benchmarks = benchmarks_of(arguments)
    if missing := benchmarks.keys() - settings.decodings.keys():
        raise UserError(f"--settings: decodings has no {sorted(missing)[0]!r}, which --benchmark names")
    kept, answered = evaluation.evaluate(
        settings, arguments.base, arguments.adapter, benchmarks, arguments.output, job_of(arguments)
    )
    print(f"answered: {', '.join(answered) or 'none'}; kept from before: {', '.join(kept) or 'none'}")
    return [f"engines.{settings.evaluation.engine}"]
