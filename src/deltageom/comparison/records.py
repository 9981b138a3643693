"""Compare adapters and checkpoints without a study: their records, module by module, in several processes."""

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from deltageom.comparison.runs import Sources
from deltageom.deltas.names import tower_of
from deltageom.errors import UserError
from deltageom.files import write_columns
from deltageom.geometry import record
from deltageom.geometry.aggregate.seeds import Identity, Pair, noise_pairs
from deltageom.geometry.aggregate.table import COLUMNS, COUNTS, Columns, Level, numbers
from deltageom.geometry.base_weights import BaseWeights
from deltageom.geometry.record import Row

if TYPE_CHECKING:
    import pandas as pd

Noise = dict[Pair, list[Pair]]

LEVELS: dict[str, Level] = {"per_module": "module", "per_layer": "layer"}
NOT_COMPARED = ("weights_not_compared", "share_not_compared")
FILES = (*LEVELS, "global", "spectrum")
SPECTRUM = ("module", "layer", "run", "index", "singular_value")

_inherited: Any  # by the forked processes: opened files, and records too large to send to each of them


def records(
    sources: Sources, top_ks: Sequence[int], base: BaseWeights | None, processes: int, draws: int | None = None
) -> list[Row]:
    """The record of every module that the runs share, in their order; see `geometry.record.record`.

    Each process holds one module at a time, so memory does not grow with their number. Raises UserError for what
    reading and measuring a module do, and if a process is killed.
    """
    with _forked(processes, (sources, top_ks, base, draws)) as pool:
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
    sources, top_ks, base, draws = _inherited
    deltas = {run: delta.read(module) for run, delta in sources.deltas.items()}
    return record.record(module, deltas, top_ks, base.module(module) if base else None, draws=draws)


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


def table(sources: Sources, found: list[Row], level: Level, noise: Noise) -> Columns:
    """The numbers of `geometry.aggregate.table.numbers`. The global ones begin with each run's weights_not_compared and
    share_not_compared: of the weights that it trained, those in no module that is compared. Layers are told apart by
    `tower`, a first column: a model of text and images, or with an encoder and a decoder, has several of one number.
    """
    if level == "module":
        return numbers(found, level, noise)
    if level == "global":
        return _joined([_not_compared(sources), numbers(found, level, noise)])
    towers: dict[str, list[Row]] = {}
    for module in found:
        towers.setdefault(tower_of(module["module"]), []).append(module)
    parts = {tower: numbers(modules, level, noise) for tower, modules in towers.items()}
    of_rows: list[str | None] = [tower for tower, part in parts.items() for _ in part["a"]]
    return {"tower": of_rows} | _joined(list(parts.values()))


def _not_compared(sources: Sources) -> Columns:
    runs: list[str | None] = [run for run in sources.deltas for _ in NOT_COMPARED]
    nothing: list[str | None] = [None] * len(runs)
    found: Columns = {column: np.full(len(runs), np.nan) for column in COLUMNS["global"]}
    found |= {"a": runs, "b": nothing, "reason": nothing, "measure": [*NOT_COMPARED] * len(sources.deltas)}
    found |= dict.fromkeys(("n_modules", "n_defined"), np.full(len(runs), float(len(sources.modules))))
    found["value"] = np.array([value for run in sources.deltas for value in sources.not_compared(run)], dtype=float)
    return found


def _joined(parts: list[Columns]) -> Columns:
    found: Columns = {}
    for column in parts[0]:
        arrays = [values for part in parts if isinstance(values := part[column], np.ndarray)]
        lists = [values for part in parts if not isinstance(values := part[column], np.ndarray)]
        found[column] = np.concatenate(arrays) if arrays else list(chain.from_iterable(lists))
    return found


def report(sources: Sources, found: list[Row], whole: Columns, compare_with: str | None) -> dict[str, Any]:
    """The global numbers as plain JSON, one row each, those of pairs only with `compare_with` if it is given."""
    columns = {key: _cells(key, column) for key, column in whole.items()}
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    shown = [row for row in rows if row["b"] is None or compare_with in (None, row["a"], row["b"])]
    return {
        "runs": list(sources.deltas),
        "modules": [module["module"] for module in found],
        "notes": sources.notes,
        "numbers": shown,
    }


def square(runs: Sequence[str], whole: Columns) -> "pd.DataFrame":
    """(runs, runs): the cosine of every two updates, missing where one of them is zero."""
    import pandas as pd

    table = pd.DataFrame(float("nan"), index=list(runs), columns=list(runs))
    keys = ("a", "b", "measure", "value")
    for a, b, measure, value in zip(*(whole[key] for key in keys), strict=True):
        if measure == "cosine":
            table.loc[a, b] = table.loc[b, a] = value
        elif measure == "norm" and value > 0:
            table.loc[a, a] = 1.0
    return table


def frames(sources: Sources, found: list[Row], noise: Noise, whole: Columns) -> "dict[str, pd.DataFrame]":
    """The tables of a study's geometry, by their names there: of the layers of the main stack alone."""
    import pandas as pd

    tables = {"geometry_global": whole} | {
        f"geometry_{level}": table(sources, found, level, noise) for level in LEVELS.values()
    }
    by_name = {}
    for name, of in tables.items():
        by_name[name] = pd.DataFrame({key: _cells(key, column) for key, column in of.items()})
    layers = by_name["geometry_layer"]
    by_name["geometry_layer"] = layers[layers["tower"] == layers["tower"].min()].drop(columns="tower")
    return by_name


def write(sources: Sources, found: list[Row], noise: Noise, whole: Columns, folder: Path, processes: int) -> None:
    """`folder`/NAME.csv: a table a level (`whole` is the global one) and the singular values. A process a file."""
    with _forked(processes, (sources, found, noise, whole, folder)) as pool:
        list(pool.map(_write, FILES))


def _write(name: str) -> None:
    sources, found, noise, whole, folder = _inherited
    columns: Mapping[str, Sequence[Any] | NDArray[np.float64]]
    if name == "spectrum":
        columns = _spectrum(found)
    else:
        columns = whole if name == "global" else table(sources, found, LEVELS[name], noise)
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
