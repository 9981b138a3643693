"""Sample the completions that every run is trained on; `reward` grades them."""

import argparse
from pathlib import Path

from deltageom.arguments import add_model, add_settings, parse_settings
from deltageom.generation_arguments import add_generation, job_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_model(parser)
    parser.add_argument("--generator", required=True, help="the model that is sampled: a folder or a hub id")
    parser.add_argument("--problems", type=Path, required=True, help="jsonl file of problems")
    parser.add_argument("--output", type=Path, required=True, help="parquet file to write")
    add_generation(parser)


def run(arguments: argparse.Namespace) -> list[str]:
    from deltageom import jobs, records, rollouts

    settings = parse_settings(jobs.RolloutSettings, arguments.settings)
    counts = rollouts.sample(
        settings,
        arguments.base,
        arguments.generator,
        records.read_problems(arguments.problems),
        arguments.output,
        job_of(arguments),
    )
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
    return [f"engines.{settings.rollouts.engine}"]
