"""Grade completions twice: by the strict grader and, in processes that can be killed, by math-verify."""

import argparse
import os
from pathlib import Path

WORKERS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE.jsonl", help="`response` and `gold` in each line; the rest is kept"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="a file ending in .jsonl, or a folder for a file of each input's name (default: standard output)",
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=_count, default=min(WORKERS, cores), help="processes (%(default)s)")
    parser.add_argument("--seconds", type=_seconds, default=5.0, help="math-verify may take for an item (%(default)s)")
    parser.add_argument(
        "--memory", type=_count, default=2048, metavar="MIB", help="math-verify may take for an item (%(default)s)"
    )
    parser.add_argument("--no-math-verify", action="store_true", help="the strict grader alone")


def run(arguments: argparse.Namespace) -> None:
    import sys
    from functools import partial

    from deltageom import graded, records, second_opinion

    targets = graded.outputs(arguments.files, arguments.output) if arguments.output else {}
    judge = partial(
        second_opinion.judge,
        workers=arguments.workers,
        seconds=arguments.seconds,
        memory_mib=arguments.memory,
    )
    found = graded.grade_files(arguments.files, None if arguments.no_math_verify else judge)
    for path, target in targets.items():
        records.write_jsonl(target, found[path])
    if not targets:
        lines = (records.json_line(row) for rows in found.values() for row in rows)
        sys.stdout.buffer.writelines(line.encode() for line in lines)
        sys.stdout.buffer.flush()
    graded.show(found, stderr=not targets)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number of seconds")
    return seconds
