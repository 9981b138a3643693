"""Check finished rollouts from a file and write them as the completions of the training problems."""

import argparse
from pathlib import Path

from deltageom.arguments import add_model, add_settings, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_model(parser)
    parser.add_argument("--file", type=Path, required=True, help="the rollouts, jsonl, json or parquet (docs/data.md)")
    parser.add_argument("--problems", type=Path, required=True, help="jsonl file of the training problems")
    parser.add_argument("--dropped", type=Path, help="jsonl of overlaps: rollouts of these problems are left out")
    parser.add_argument("--output", type=Path, required=True, help="parquet file to write")


def run(arguments: argparse.Namespace) -> None:
    from deltageom import imported, jobs, models, records

    settings = parse_settings(jobs.ImportSettings, arguments.settings)
    problems = records.read_problems(arguments.problems)
    overlaps = records.read_jsonl(arguments.dropped) if arguments.dropped else []
    dropped = {str(overlap.get("train_id")) for overlap in overlaps}
    rollouts = imported.read(arguments.file, problems, settings.rollouts.samples, dropped)
    tokenizer = models.load_tokenizer(arguments.base, settings.base)
    ends = models.end_tokens(models.load_generation_config(arguments.base, settings.base))
    imported.write(rollouts, problems, tokenizer, ends, settings, arguments.output)
    print(f"{arguments.output}: {len(rollouts)} rollouts of {len(problems)} problems")
