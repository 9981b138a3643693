"""Make the tables over a study's replicates: means, spreads, intervals, paired differences."""

import argparse
from pathlib import Path

from deltageom.cli.shared.arguments import add_named_paths, add_settings, by_name, parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--replicate", type=Path, action="append", required=True, help="a replicate's tables; repeat")
    add_named_paths(parser, "--graded", "N/MODEL/BENCHMARK=FILE", "graded answers in the N-th replicate from 0; repeat")
    parser.add_argument("--output", type=Path, required=True, help="folder for the tables")


def run(arguments: argparse.Namespace) -> None:
    import numpy as np

    from deltageom import files
    from deltageom.display.table_files import read_tables, write_table
    from deltageom.evaluation import scores
    from deltageom.report.replicates import differences_table, replicates_table
    from deltageom.study.settings import ReplicateSettings

    settings = parse_settings(ReplicateSettings, arguments.settings)
    tables = [read_tables(folder) for folder in arguments.replicate]
    by_problem: dict[tuple[str, str], list[np.ndarray]] = {}
    for name, path in by_name("--graded", arguments.graded).items():
        _, model, benchmark = name.split("/")
        found = scores.read(files.read_jsonl(path), f"{model} on {benchmark}").by_problem
        by_problem.setdefault((model, benchmark), []).append(found)
    crossed = {key: np.stack(values) for key, values in by_problem.items()} if settings.same_problems else None
    write_table(replicates_table(tables, crossed, settings.statistics), arguments.output, "replicates")
    write_table(differences_table(tables, settings.compare_with), arguments.output, "replicate_differences")
