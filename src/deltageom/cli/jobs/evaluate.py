"""Answer every benchmark with the base or a run, one record per completion; `grade` grades them."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import (
    add_benchmarks,
    add_earlier,
    add_model,
    add_settings,
    by_name,
    parse_settings,
)
from deltageom.cli.shared.generation import add_generation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_model(parser, adapter=True)
    add_benchmarks(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder for NAME.jsonl")
    add_earlier(parser)
    add_generation(parser)


def run(arguments: argparse.Namespace) -> list[str]:
    from deltageom.errors import UserError
    from deltageom.evaluation.answer import evaluate
    from deltageom.generation.generate import Job
    from deltageom.problems.problem import read_problems
    from deltageom.study.settings import EvaluationSettings

    settings = parse_settings(EvaluationSettings, arguments.settings)
    files = by_name("--benchmark", arguments.benchmark)
    benchmarks = {name: read_problems(path) for name, path in files.items()}
    shape = arguments.shard_size, arguments.tensor_parallel, arguments.memory_share
    job = Job(arguments.scratch, *shape, arguments.parts, arguments.part)
    if missing := benchmarks.keys() - settings.decodings.keys():
        raise UserError(f"--settings: decodings has no {sorted(missing)[0]!r}, which --benchmark names")
    kept, answered = evaluate(
        settings, arguments.base, arguments.adapter, benchmarks, arguments.output, job, arguments.earlier
    )
    print(f"answered: {', '.join(answered) or 'none'}; kept from before: {', '.join(kept) or 'none'}")
    return [f"generation.engines.{settings.evaluation.engine}"]
