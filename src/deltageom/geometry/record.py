"""The weight geometry of modules, from files to records; a module's file keeps what is still true in it."""

import json
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from deltageom.deltas.delta import Delta, Dense, Factors
from deltageom.deltas.names import layer_of
from deltageom.errors import UserError
from deltageom.files import write_json
from deltageom.geometry.against_base import against_base
from deltageom.geometry.base_weights import BaseModule
from deltageom.geometry.module_numbers import Pair, measure_module
from deltageom.geometry.random_subspaces import DRAWS
from deltageom.jobs import still_true

Row = dict[str, Any]


def record(
    module: str,
    deltas: Mapping[str, Factors | Dense],
    top_ks: Sequence[int],
    base: BaseModule | None = None,
    pairs: Collection[Pair] | None = None,
    draws: int | None = DRAWS,
) -> Row:
    """All numbers of one module: {"module", "layer", "shape", "runs", "pairs"}, see `measure_module`; with `base` each
    run has a "base", see `against_base`."""
    found = measure_module(module, deltas, top_ks, pairs, draws)
    if base is not None:
        spectrum = base.spectrum()
        for run in found["runs"]:
            run["base"] = against_base(base.weight, spectrum, deltas[run["run"]], top_ks)
    return _place(module, deltas) | found


def update(
    path: Path,
    module: str,
    runs: Mapping[str, Delta],
    top_ks: Sequence[int],
    made_by: str,
    base: BaseModule | None = None,
    earlier: Sequence[Path] = (),
) -> tuple[int, int]:
    """Brings the record of a module in `path` (JSON) up to date; how many pairs were measured, and how many kept.

    Kept, digit for digit, from there or from the module's record of another study in one of `earlier`, is every pair
    whose two runs have the names and the factors that they had, and that the same code (`made_by`, a digest) measured
    with the same `top_ks` and base: a run that joins a study leaves the others alone. Raises UserError for what
    reading the deltas does, and for a top_k over a module's shorter side.
    """
    deltas = {run: delta.read(module) for run, delta in runs.items()}
    _has_directions(module, deltas, max(top_ks))
    same = {"made_by": made_by, "top_ks": list(top_ks), "base": base.identity if base else None}
    digests = {run: _digest(delta) for run, delta in deltas.items()}
    old_runs: dict[str, Row] = {}
    old_pairs: dict[Pair, Row] = {}
    for place in (*reversed(earlier), path):
        its_runs, its_pairs = _still_true(place, same, digests)
        old_runs |= its_runs
        old_pairs |= its_pairs
    missing = [pair for pair in combinations(sorted(deltas), 2) if pair not in old_pairs]
    needed = {run for pair in missing for run in pair} | (deltas.keys() - old_runs.keys())
    new: Row = {"runs": [], "pairs": []}
    if needed:
        new = record(module, {run: deltas[run] for run in needed}, top_ks, base, missing)
    of_runs = {row["run"]: row | {"sha256": digests[row["run"]]} for row in new["runs"]} | old_runs
    of_pairs = {(row["a"], row["b"]): row for row in new["pairs"]} | old_pairs
    rows = {"runs": [of_runs[run] for run in sorted(of_runs)], "pairs": [of_pairs[pair] for pair in sorted(of_pairs)]}
    write_json(path, same | _place(module, deltas) | rows)
    return len(missing), len(old_pairs)


def _place(module: str, deltas: Mapping[str, Factors | Dense]) -> Row:
    return {"module": module, "layer": layer_of(module), "shape": list(next(iter(deltas.values())).shape)}


def _still_true(path: Path, same: Row, digests: Mapping[str, str]) -> tuple[dict[str, Row], dict[Pair, Row]]:
    """The rows of runs and of pairs in `path` that need no measuring."""
    try:
        old: Any = json.loads(path.read_text(encoding="utf-8"))
        if any(old[key] != value for key, value in same.items()):
            return {}, {}
        runs = {row["run"]: row for row in old["runs"] if row["sha256"] == digests.get(row["run"])}
        return runs, {(row["a"], row["b"]): row for row in old["pairs"] if row["a"] in runs and row["b"] in runs}
    except (OSError, ValueError, KeyError, TypeError):  # none there, or not one of ours: measured afresh
        return {}, {}


def _digest(delta: Factors | Dense) -> str:
    """SHA-256 of what the measures read of a run's module."""
    if isinstance(delta, Factors):
        return still_true.of_values([delta.scale, still_true.of_arrays(delta.b, delta.a)])
    return still_true.of_arrays(delta.weight)


def _has_directions(module: str, deltas: Mapping[str, Factors | Dense], top_k: int) -> None:
    """A study is checked against the ranks of its adapters; the shape of a module is known only here."""
    directions = min(min(delta.shape) for delta in deltas.values())
    if top_k > directions:
        raise UserError(
            f"measures.geometry.top_k {top_k} is more than the {directions} singular directions of {module}: lower it"
        )
