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
    parser.add_argument(
        "--primary",
        choices=["strict", "math_verify"],
        default="strict",
        help="the grader whose word is `correct`; with math_verify, golds need not be rational numbers (%(default)s)",
    )
    parser.add_argument("--no-math-verify", action="store_true", help="the strict grader alone")


def run(arguments: argparse.Namespace) -> None:
    import sys
    from functools import partial

    from deltageom import files
    from deltageom.errors import UserError
    from deltageom.grading import second_opinion
    from deltageom.grading.records import grade_files, outputs, show

    if arguments.no_math_verify and arguments.primary == "math_verify":
        raise UserError("--no-math-verify leaves --primary math_verify without a grader: give one of the two")
    targets = outputs(arguments.files, arguments.output) if arguments.output else {}
    judge = partial(
        second_opinion.judge,
        workers=arguments.workers,
        seconds=arguments.seconds,
        memory_mib=arguments.memory,
    )
    found = grade_files(arguments.files, None if arguments.no_math_verify else judge, arguments.primary)
    for path, target in targets.items():
        files.write_jsonl(target, found[path])
    if not targets:
        lines = (files.json_line(row) for rows in found.values() for row in rows)
        sys.stdout.buffer.writelines(line.encode() for line in lines)
        sys.stdout.buffer.flush()
    show(found, stderr=not targets)


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
