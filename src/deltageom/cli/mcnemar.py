"""Compare the scores of two models on the same problems: exact McNemar, intervals, what could be found at all."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "a",
        type=Path,
        metavar="A.jsonl",
        help="graded records (problem_id, correct; sample if several), or a sample log of lm-evaluation-harness",
    )
    parser.add_argument("b", type=Path, metavar="B.jsonl", help="another model's, of the same problems")
    parser.add_argument(
        "--metric", metavar="NAME", help="of a sample log: what says correct (exact_match, or its only one)"
    )
    parser.add_argument("--filter", metavar="NAME", help="of a sample log with several: whose answers")
    parser.add_argument(
        "--resamples", type=_resamples, default=10000, help="of the bootstrap and of the sign-flip test (%(default)s)"
    )
    parser.add_argument("--seed", type=_seed, default=42, help="of both (%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    from deltageom import files
    from deltageom.errors import UserError
    from deltageom.evaluation import console, lm_eval

    a, b = (files.read_jsonl(path) for path in (arguments.a, arguments.b))
    names = str(arguments.a), str(arguments.b)
    logs = [lm_eval.is_log(lines) for lines in (a, b)]
    if (arguments.metric or arguments.filter) and not any(logs):
        raise UserError("--metric and --filter are of lm-evaluation-harness's sample logs, and neither file is one")
    a, b = (
        lm_eval.scored(lines, name, arguments.metric, arguments.filter) if log else lines
        for lines, name, log in zip((a, b), names, logs, strict=True)
    )
    print(console.report(a, b, names, arguments.resamples, arguments.seed))


def _resamples(text: str) -> int:
    if not text.isdecimal() or int(text) < 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of resamples, 100 or more")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no seed, a whole number from 0 on")
    return int(text)
