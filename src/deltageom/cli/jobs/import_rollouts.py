"""Check finished rollouts from a file and write them as the completions of the training problems."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_model, add_settings, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_model(parser)
    parser.add_argument("--file", type=Path, required=True, help="the rollouts, jsonl, json or parquet (docs/data.md)")
    parser.add_argument("--problems", type=Path, required=True, help="jsonl file of the training problems")
    parser.add_argument("--dropped", type=Path, help="jsonl of overlaps: rollouts of these problems are left out")
    parser.add_argument("--output", type=Path, required=True, help="parquet file to write")


def run(arguments: argparse.Namespace) -> None:
    from deltageom import files
    from deltageom.models.load import load_generation_config, load_tokenizer
    from deltageom.models.prompts import end_tokens
    from deltageom.problems import problem
    from deltageom.rollouts import imported
    from deltageom.study.settings import ImportSettings

    settings = parse_settings(ImportSettings, arguments.settings)
    problems = problem.read_problems(arguments.problems)
    overlaps = files.read_jsonl(arguments.dropped) if arguments.dropped else []
    dropped = {str(overlap.get("train_id")) for overlap in overlaps}
    rollouts = imported.read(arguments.file, problems, settings.rollouts.samples, dropped)
    tokenizer = load_tokenizer(arguments.base, settings.base)
    ends = end_tokens(tokenizer, load_generation_config(arguments.base, settings.base))
    imported.write(rollouts, problems, tokenizer, ends, settings, arguments.output)
    print(f"{arguments.output}: {len(rollouts)} rollouts of {len(problems)} problems")
