"""Compare the weight updates of LoRA adapters and checkpoints, wherever they come from: no study needed."""

import argparse
import json
import os
import re
import sys
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
    parser.add_argument("--compare-with", metavar="NAME", help="show only the pairs with this run")
    parser.add_argument("--by-layer", action="store_true", help="show the cosines by layer, too")
    parser.add_argument("--json", action="store_true", help="print runs, notes and every global number as JSON")
    parser.add_argument("--figure", type=_figure, metavar="FILE", help="heat map of the cosines: .svg, .png or .pdf")
    parser.add_argument("--html", type=_page, metavar="FILE", help="an interactive page of all pairs: .html")
    parser.add_argument(
        "--seeds", nargs="+", action="append", default=[], metavar="NAME", help="these differ only in seed; repeat"
    )
    parser.add_argument(
        "--draws",
        type=_draws,
        metavar="N",
        help="random B of each run and module, by which chance gives right angles (512 / rank, at most 2000 and at "
        "least 8; a study has 2000)",
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
    from deltageom import terminal
    from deltageom.comparison import console, records, runs
    from deltageom.errors import UserError
    from deltageom.geometry.base_weights import BaseWeights

    if arguments.against_base and not arguments.base:
        raise UserError("--against-base needs --base, the model whose weights are meant")
    if arguments.spectra and not arguments.against_base:
        raise UserError("--spectra is of --against-base, which is not given")
    if arguments.against_base and arguments.base_rank < arguments.top_k[-1]:
        raise UserError(f"--base-rank {arguments.base_rank} is less than --top-k {arguments.top_k[-1]}: raise it")
    if arguments.output and arguments.output.exists() and not arguments.output.is_dir():
        raise UserError(f"--output {arguments.output} is a file: give a folder")
    named = runs.named(arguments.runs)
    if arguments.compare_with not in (None, *named):
        raise UserError(f"--compare-with {arguments.compare_with!r} is none of the runs: {', '.join(named)}")
    if arguments.figure:
        from deltageom.display import drawing, heatmap  # before the work: the figure's packages are an extra
    if arguments.html:
        import pandas as pd

        from deltageom.display.columns import typed
        from deltageom.files import write_text
        from deltageom.report.page import render, source
    opened = runs.open_all(named, arguments.base, arguments.intersect, arguments.any_base, arguments.against_base)
    noise = records.seed_pairs(list(opened.deltas), arguments.seeds)
    base = None
    if arguments.against_base and opened.base:
        base = BaseWeights(opened.base, arguments.spectra or _cache(arguments.base), arguments.base_rank)

    def first_look(so_far: records.Found) -> None:
        whole = records.table(opened, so_far, "global", noise)
        console.first_look(opened, so_far.modules, whole, arguments.compare_with)

    look = first_look if terminal.console(stderr=True).is_terminal else None
    found = records.measure(opened, arguments.top_k, base, arguments.processes, arguments.draws, look)
    whole = records.table(opened, found, "global", noise)
    if arguments.json:
        print(json.dumps(records.report(opened, found, whole, arguments.compare_with), indent=1))
    else:
        by_layer = records.table(opened, found, "layer", noise) if arguments.by_layer else None
        console.show(opened, found.modules, whole, arguments.compare_with, by_layer)
    written = []
    if arguments.figure:
        title = f"Cosine between weight updates, all {len(found.modules.names)} modules stacked"
        drawing.save(heatmap.heatmap(records.square(list(opened.deltas), whole), title), arguments.figure)
        written.append(str(arguments.figure))
    if arguments.html:
        frames = {name: typed(frame) for name, frame in records.frames(opened, found, noise, whole).items()}
        shown = source.Source(
            name=", ".join(named),
            tables=frames,
            spectra=pd.DataFrame(dict(zip(source.SPECTRA, records.spectrum(found).values(), strict=True))),
            reference=arguments.compare_with or next(iter(named)),
            notes=opened.notes,
        )
        write_text(arguments.html, render.page([shown]))
        written.append(str(arguments.html))
    if arguments.output:
        records.write(opened, found, noise, whole, arguments.output, arguments.processes)
        written.append(f"{arguments.output}: {', '.join(f'{name}.csv' for name in records.FILES)}")
    for what in written:
        print(f"Written to {what}", file=sys.stderr if arguments.json else sys.stdout)


def _cache(base: str) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "deltageom" / "base_spectrum" / re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip("-.")


def _figure(text: str) -> Path:
    if Path(text).suffix not in (".svg", ".png", ".pdf"):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .svg, .png or .pdf")
    return Path(text)


def _page(text: str) -> Path:
    if Path(text).suffix != ".html":
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .html")
    return Path(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def _draws(text: str) -> int:
    if _count(text) < 2:
        raise argparse.ArgumentTypeError("one draw has no spread: give 2 or more")
    return int(text)


def _sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(size) for size in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of positive numbers such as 1,10")
    return sizes
