"""Compare the weight updates of LoRA adapters and checkpoints, wherever they come from: no study needed."""

import argparse
import os
import re
from pathlib import Path

PROCESSES = 8  # more bring little: the files are soon read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="[NAME=]RUN",
        help="two or more: a PEFT LoRA adapter's folder or hub id (owner/name, owner/name@revision), or a checkpoint's",
    )
    parser.add_argument("--base", metavar="MODEL", help="folder or hub id: a checkpoint's delta is taken from it")
    parser.add_argument(
        "--top-k", type=_sizes, default=[10], metavar="K[,K...]", help="sizes of the singular subspaces (10)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="for per_module, per_layer, global, spectrum.csv")
    parser.add_argument(
        "--seeds", nargs="+", action="append", default=[], metavar="NAME", help="these differ only in seed; repeat"
    )
    parser.add_argument("--intersect", action="store_true", help="where modules differ, compare those that all have")
    parser.add_argument("--any-base", action="store_true", help="compare adapters though they name different bases")
    parser.add_argument(
        "--against-base",
        action="store_true",
        help="hold the runs against the weights of --base too: slow the first time",
    )
    parser.add_argument("--base-rank", type=_count, default=64, help="singular triplets of a base weight (%(default)s)")
    parser.add_argument(
        "--spectra", type=Path, metavar="DIR", help="keeps these triplets (default: in the user's cache folder)"
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--processes", type=_count, default=min(PROCESSES, cores), help="(%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    # a process a core: threads of BLAS on top of them would wait for each other. Read when numpy is first imported.
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    from deltageom import comparison, console, sources
    from deltageom.errors import UserError
    from deltageom.geometry.aggregate import numbers
    from deltageom.measures.base import BaseWeights

    if arguments.against_base and not arguments.base:
        raise UserError("--against-base needs --base, the model whose weights are meant")
    if arguments.spectra and not arguments.against_base:
        raise UserError("--spectra is of --against-base, which is not given")
    if arguments.against_base and arguments.base_rank < arguments.top_k[-1]:
        raise UserError(f"--base-rank {arguments.base_rank} is less than --top-k {arguments.top_k[-1]}: raise it")
    if arguments.output and arguments.output.exists() and not arguments.output.is_dir():
        raise UserError(f"--output {arguments.output} is a file: give a folder")
    named = sources.named(arguments.runs)
    opened = sources.open_all(named, arguments.base, arguments.intersect, arguments.any_base, arguments.against_base)
    noise = comparison.seed_pairs(list(opened.deltas), arguments.seeds)
    base = None
    if arguments.against_base and opened.base:
        base = BaseWeights(opened.base, arguments.spectra or _cache(arguments.base), arguments.base_rank)
    found = comparison.records(opened, arguments.top_k, base, arguments.processes)
    whole = numbers(found, "global", noise)
    console.show(opened, found, whole)
    if arguments.output:
        comparison.write(found, noise, whole, arguments.output, arguments.processes)
        print(f"Written to {arguments.output}: {', '.join(f'{name}.csv' for name in comparison.FILES)}")


def _cache(base: str) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "deltageom" / "base_spectrum" / re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip("-.")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def _sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(size) for size in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of positive numbers such as 1,10")
    return sizes
