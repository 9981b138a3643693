"""Sample the completions that every run is trained on; `reward` grades them."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_model, add_settings, parse_settings
from deltageom.cli.shared.generation import add_generation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_model(parser)
    parser.add_argument("--generator", required=True, help="the model that is sampled: a folder or a hub id")
    parser.add_argument("--problems", type=Path, required=True, help="jsonl file of problems")
    parser.add_argument("--output", type=Path, required=True, help="parquet file to write")
    add_generation(parser)


def run(arguments: argparse.Namespace) -> list[str]:
    from deltageom.generation.generate import Job
    from deltageom.problems import problem
    from deltageom.rollouts import sample
    from deltageom.study.settings import RolloutSettings

    settings = parse_settings(RolloutSettings, arguments.settings)
    shape = arguments.shard_size, arguments.tensor_parallel, arguments.memory_share
    counts = sample.sample(
        settings,
        arguments.base,
        arguments.generator,
        problem.read_problems(arguments.problems),
        arguments.output,
        Job(arguments.scratch, *shape, arguments.parts, arguments.part),
    )
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
    return [f"generation.engines.{settings.rollouts.engine}"]
