"""Find the training problems that share a run of words with a benchmark's problem; count or drop them."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_benchmarks, add_settings, by_name, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--train", type=Path, required=True, help="the training problems (jsonl)")
    add_benchmarks(parser)
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for train.jsonl, overlaps.jsonl, report.json"
    )


def run(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from deltageom import files
    from deltageom.errors import UserError
    from deltageom.problems import decontamination, problem
    from deltageom.study.settings import DecontaminationSettings

    settings = parse_settings(DecontaminationSettings, arguments.settings).decontamination
    training = problem.read_problems(arguments.train)
    benchmark_files = by_name("--benchmark", arguments.benchmark)
    benchmarks = {name: problem.read_problems(path) for name, path in benchmark_files.items()}
    found = decontamination.overlaps(training, benchmarks, settings.words)
    kept = training if settings.overlap == "count" else decontamination.without(training, found)
    if not kept:
        raise UserError(
            f"decontamination drops all {len(training)} training problems: raise decontamination.words "
            f"({settings.words}), or set decontamination.overlap: count"
        )
    report = {
        "words": settings.words,
        "overlap": settings.overlap,
        "training_problems": len(training),
        "kept": len(kept),
        "benchmarks": decontamination.summary(benchmarks, found),
    }
    problem.write_problems(arguments.output / "train.jsonl", kept)
    files.write_jsonl(arguments.output / "overlaps.jsonl", map(asdict, found))
    files.write_json(arguments.output / "report.json", report)
    for row in decontamination.summary(benchmarks, found):
        print(
            "{benchmark}: {overlapping_problems} of {problems} problems overlap with {overlapping_training_problems} "
            "training problems, {identical} of them identical".format_map(row)
        )
    print(f"{len(kept)} of {len(training)} training problems are kept")
