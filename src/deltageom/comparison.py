"""Compare adapters and checkpoints without a study: their records, module by module, in several processes."""

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from deltageom.errors import UserError
from deltageom.geometry.aggregate import COUNTS, Columns, Level, numbers
from deltageom.geometry.noise import Identity, Pair, noise_pairs
from deltageom.measures import geometry
from deltageom.measures.base import BaseWeights
from deltageom.measures.geometry import Row
from deltageom.records import write_columns
from deltageom.sources import Sources

Noise = dict[Pair, list[Pair]]

LEVELS: dict[str, Level] = {"per_module": "module", "per_layer": "layer"}
FILES = (*LEVELS, "global", "spectrum")
SPECTRUM = ("module", "layer", "run", "index", "singular_value")

_inherited: Any  # by the forked processes: opened files, and records too large to send to each of them


def records(sources: Sources, top_ks: Sequence[int], base: BaseWeights | None, processes: int) -> list[Row]:
    """The record of every module that the runs share, in their order; see `measures.geometry.record`.

    Each process holds one module at a time, so memory does not grow with their number. Raises UserError for what
    reading and measuring a module do, and if a process is killed.
    """
    with _forked(processes, (sources, top_ks, base)) as pool:
        found = pool.map(_record, sources.modules)
        return list(tqdm(found, total=len(sources.modules), unit="module", disable=None))


@contextmanager
def _forked(processes: int, inherited: Any) -> Iterator[ProcessPoolExecutor]:
    global _inherited
    _inherited = inherited
    try:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
            yield pool
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {processes} processes was killed, most likely for want of memory: give fewer --processes"
        ) from error


def _record(module: str) -> Row:
    sources, top_ks, base = _inherited
    deltas = {run: delta.read(module) for run, delta in sources.deltas.items()}
    return geometry.record(module, deltas, top_ks, base.module(module) if base else None)


def seed_pairs(runs: Sequence[str], seed_groups: Sequence[Sequence[str]]) -> Noise:
    """For every pair of runs those to hold it against; the runs of a group differ only in seed. Raises UserError for
    a name that is none of the runs, and for a run in two groups."""
    groups: dict[str, str] = {}
    for i, group in enumerate(seed_groups):
        for run in group:
            if run not in runs:
                raise UserError(f"--seeds names {run!r}, which is none of the runs: {', '.join(runs)}")
            if groups.setdefault(run, str(i)) != str(i):
                raise UserError(f"{run} is in two --seeds: give the runs that differ only in seed together")
    return noise_pairs({run: Identity(groups.get(run, f"only {run}"), run, "") for run in runs})


def write(found: list[Row], noise: Noise, whole: Columns, folder: Path, processes: int) -> None:
    """`folder`/NAME.csv: a table a level (`whole` is the global one) and the singular values. A process a file."""
    with _forked(processes, (found, noise, whole, folder)) as pool:
        list(pool.map(_write, FILES))


def _write(name: str) -> None:
    found, noise, whole, folder = _inherited
    columns: Mapping[str, Sequence[Any] | NDArray[np.float64]]
    if name == "spectrum":
        columns = _spectrum(found)
    else:
        columns = whole if name == "global" else numbers(found, LEVELS[name], noise)
    write_columns(folder / f"{name}.csv", {key: _cells(key, column) for key, column in columns.items()})


def _spectrum(found: list[Row]) -> dict[str, list[Any]]:
    values = [
        (module["module"], module["layer"], run["run"], index, value)
        for module in found
        for run in module["runs"]
        for index, value in enumerate(run["singular_values"], 1)
    ]
    return {key: [row[i] for row in values] for i, key in enumerate(SPECTRUM)}


def _cells(name: str, column: Sequence[Any] | NDArray[np.float64]) -> list[Any]:
    """As they are written: missing ones None, counts whole."""
    cells = column.tolist() if isinstance(column, np.ndarray) else column
    missing = [None if cell != cell else cell for cell in cells]
    return [cell if cell is None else int(cell) for cell in missing] if name in COUNTS else missing
