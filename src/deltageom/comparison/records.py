"""Compare adapters and checkpoints without a study: their numbers, module by module, in several processes."""

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, product
from math import isnan
from operator import itemgetter
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
from deltageom.geometry.aggregate.arrays import Array, Modules, collect, joined
from deltageom.geometry.aggregate.seeds import Identity, Pair, noise_pairs
from deltageom.geometry.aggregate.table import COLUMNS, COUNTS, OF, Columns, Level, numbers
from deltageom.geometry.base_weights import BaseWeights

if TYPE_CHECKING:
    import pandas as pd

Noise = dict[Pair, list[Pair]]
Sigma = dict[str, Array]  # of each run, descending

LEVELS: dict[str, Level] = {"per_module": "module", "per_layer": "layer"}
NOT_COMPARED = ("weights_not_compared", "share_not_compared")
FILES = (*LEVELS, "global", "spectrum")
COUNTED = (*COUNTS, "index")
FIRST_LOOK = 3.0  # seconds
AT_ONCE = 4  # modules whose numbers are in memory as rows

_inherited: Any  # by the forked processes: opened files, and numbers too large to send to each of them


@dataclass(frozen=True)
class Found:
    """What was measured: the numbers of the modules, and the singular values of each."""

    modules: Modules
    sigma: list[Sigma]


def measure(
    sources: Sources,
    top_ks: Sequence[int],
    base: BaseWeights | None,
    processes: int,
    draws: int | None = None,
    first_look: Callable[[Found], None] | None = None,
) -> Found:
    """Of every module that the runs share, in their order; see `geometry.record.record`.

    Each process holds the factors of one module at a time, and sends its numbers as arrays. `first_look` is called
    once with what there is after FIRST_LOOK seconds, if that is not all. Raises UserError for what reading and
    measuring a module do, and if a process is killed.
    """
    order = _spread(len(sources.modules))
    found: list[tuple[Modules, Sigma]] = []
    started = time.monotonic()
    with _forked(processes, (sources, top_ks, base, draws)) as pool:
        measured = pool.map(_measure, [sources.modules[place] for place in order])
        for of_module in tqdm(measured, total=len(order), unit="module", disable=None):
            found.append(of_module)
            if first_look and len(found) < len(order) and time.monotonic() - started > FIRST_LOOK:
                with tqdm.external_write_mode():
                    first_look(_found(found))
                first_look = None
    return _found([of_module for _, of_module in sorted(zip(order, found, strict=True), key=itemgetter(0))])


def _spread(n: int) -> list[int]:
    """0 to n - 1 so that the first few are of everywhere: by their binary digits from behind."""
    return sorted(range(n), key=lambda place: f"{place:032b}"[::-1])


def _found(of_modules: Sequence[tuple[Modules, Sigma]]) -> Found:
    return Found(joined([modules for modules, _ in of_modules]), [sigma for _, sigma in of_modules])


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


def _measure(module: str) -> tuple[Modules, Sigma]:
    sources, top_ks, base, draws = _inherited
    deltas = {run: delta.read(module) for run, delta in sources.deltas.items()}
    found = record.record(module, deltas, top_ks, base.module(module) if base else None, draws=draws)
    return collect([found]), {run["run"]: np.array(run["singular_values"]) for run in found["runs"]}


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


def table(sources: Sources, found: Found, level: Level, noise: Noise) -> Columns:
    """The numbers of `geometry.aggregate.table.numbers`. The global ones begin with each run's weights_not_compared and
    share_not_compared: of the weights that it trained, those in no module that is compared. Layers are told apart by
    `tower`, a first column: a model of text and images, or with an encoder and a decoder, has several of one number.
    """
    return _joined(list(_pieces(sources, found, level, noise)))


def _pieces(sources: Sources, found: Found, level: Level, noise: Noise) -> Iterator[Columns]:
    """The table in pieces one below the other, since its rows take ten times the memory of their numbers."""
    if level == "global":
        yield _not_compared(sources)
        yield numbers(found.modules, level, noise)
    elif level == "module":
        yield numbers(found.modules, level, noise, of=["runs"])
        every = range(len(found.modules.names))
        for start in every[::AT_ONCE]:
            yield numbers(found.modules.at(list(every[start : start + AT_ONCE])), level, noise, of=["pairs"])
    else:
        layers: dict[str, dict[float, list[int]]] = {}
        for place, (module, layer) in enumerate(zip(found.modules.names, found.modules.layers, strict=True)):
            of_tower = layers.setdefault(tower_of(module), {})
            if not isnan(layer):
                of_tower.setdefault(layer, []).append(place)
        yield _of_tower("", numbers([], level, noise))  # the columns, where no module is in a layer
        for tower, places in layers.items():
            for of, layer in product(OF, sorted(places)):
                yield _of_tower(tower, numbers(found.modules.at(places[layer]), level, noise, of=[of]))


def _of_tower(tower: str, columns: Columns) -> Columns:
    of_rows: list[str | None] = [tower] * len(columns["a"])
    return {"tower": of_rows} | columns


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


def report(sources: Sources, found: Found, whole: Columns, compare_with: str | None) -> dict[str, Any]:
    """The global numbers as plain JSON, one row each, those of pairs only with `compare_with` if it is given."""
    columns = {key: _cells(key, column) for key, column in whole.items()}
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    shown = [row for row in rows if row["b"] is None or compare_with in (None, row["a"], row["b"])]
    return {
        "runs": list(sources.deltas),
        "modules": found.modules.names,
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


def frames(sources: Sources, found: Found, noise: Noise, whole: Columns) -> "dict[str, pd.DataFrame]":
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


def write(sources: Sources, found: Found, noise: Noise, whole: Columns, folder: Path, processes: int) -> None:
    """`folder`/NAME.csv: a table a level (`whole` is the global one) and the singular values. A process a file."""
    with _forked(processes, (sources, found, noise, whole, folder)) as pool:
        list(pool.map(_write, FILES))


def _write(name: str) -> None:
    sources, found, noise, whole, folder = _inherited
    pieces: Iterable[Mapping[str, Any]]
    if name == "spectrum":
        pieces = [spectrum(found)]
    else:
        pieces = [whole] if name == "global" else _pieces(sources, found, LEVELS[name], noise)
    write_columns(folder / f"{name}.csv", pieces, COUNTED)


def spectrum(found: Found) -> dict[str, Any]:
    """module, layer, run, index (from 1) and singular_value: a row per singular value."""
    every = [
        (module, layer, run, values)
        for module, layer, sigma in zip(found.modules.names, found.modules.layers, found.sigma, strict=True)
        for run, values in sigma.items()
    ]
    sizes = [len(values) for *_, values in every]
    return {
        "module": [module for module, _, _, values in every for _ in values],
        "layer": np.repeat([layer for _, layer, _, _ in every], sizes),
        "run": [run for _, _, run, values in every for _ in values],
        "index": np.concatenate([np.arange(1.0, size + 1) for size in sizes]),
        "singular_value": np.concatenate([values for *_, values in every]),
    }


def _cells(name: str, column: Sequence[Any] | NDArray[np.float64]) -> list[Any]:
    """As they are written: missing ones None, counts whole."""
    cells = column.tolist() if isinstance(column, np.ndarray) else column
    missing = [None if cell != cell else cell for cell in cells]
    return [cell if cell is None else int(cell) for cell in missing] if name in COUNTS else missing
