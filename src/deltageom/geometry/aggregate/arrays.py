"""The records of modules as arrays: one row per run or pair, one column per module, NaN where undefined."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from deltageom.errors import UserError
from deltageom.geometry.quantiles import LEVELS
from deltageom.geometry.random_subspaces import ANGLES

Array = NDArray[np.float64]
Record = dict[str, Any]
Pair = tuple[str, str]
Key = TypeVar("Key", str, tuple[str, int])

RUN = ("norm", "spectral_norm", "stable_rank", "effective_rank_sigma", "effective_rank_sigma2", "rank")
ENERGIES = ("input_energy", "output_energy")
BASE = (*ENERGIES, "spectral_drift", "intruders")  # each at several k
PAIR = ("inner", "cosine", "coefficient_a_on_b", "coefficient_b_on_a", "orthogonal_fraction")
VECTORS = ("u1_overlap", "v1_overlap")
SIDES = ("left", "right")


@dataclass(frozen=True)
class Drawn:
    """What each run's own A and random B give of a number: mean and sd, (pairs, modules) each, NaN where a run has no
    A; quantiles (pairs, modules, LEVELS)."""

    mean: Array
    sd: Array
    quantiles: Array

    def at(self, places: list[int]) -> "Drawn":
        return Drawn(self.mean[:, places], self.sd[:, places], self.quantiles[:, places])


@dataclass(frozen=True)
class Angles:
    """Of one asked k: the k used (pairs, modules); values "left_smallest", ..., "right_overlap", each (pairs, modules);
    own, "smallest", ..., "overlap": of the right side."""

    top_k: int
    k: Array
    values: dict[str, Array]
    own: dict[str, Drawn]

    def at(self, places: list[int]) -> "Angles":
        own = {which: drawn.at(places) for which, drawn in self.own.items()}
        return Angles(self.top_k, self.k[:, places], _at(self.values, places), own)


@dataclass(frozen=True)
class Modules:
    """layers (modules,), shapes (modules, 2): d_out and d_in; run, base and base_chance (by measure and k), unchanged:
    (runs, modules) each; pair, sd_own and sd_fresh: (pairs, modules) each; own_v1: of the overlap of v1."""

    names: list[str]
    layers: Array
    shapes: Array
    runs: list[str]
    pairs: list[Pair]
    run: dict[str, Array]
    base: dict[tuple[str, int], Array]
    base_chance: dict[tuple[str, int], Array]
    unchanged: Array | None
    pair: dict[str, Array]
    angles: list[Angles]
    sd_own: Array
    sd_fresh: Array
    own_v1: Drawn

    @property
    def norms(self) -> tuple[Array, Array]:
        """Of each pair the norms of a and of b, (pairs, modules) each."""
        a, b = ([self.runs.index(pair[which]) for pair in self.pairs] for which in (0, 1))
        return self.run["norm"][a], self.run["norm"][b]

    def at(self, places: list[int]) -> "Modules":
        """These modules alone."""
        return Modules(
            names=[self.names[place] for place in places],
            layers=self.layers[places],
            shapes=self.shapes[places],
            runs=self.runs,
            pairs=self.pairs,
            run=_at(self.run, places),
            base=_at(self.base, places),
            base_chance=_at(self.base_chance, places),
            unchanged=None if self.unchanged is None else self.unchanged[:, places],
            pair=_at(self.pair, places),
            angles=[angles.at(places) for angles in self.angles],
            sd_own=self.sd_own[:, places],
            sd_fresh=self.sd_fresh[:, places],
            own_v1=self.own_v1.at(places),
        )


def _at(arrays: dict[Key, Array], places: list[int]) -> dict[Key, Array]:
    return {key: array[:, places] for key, array in arrays.items()}


def joined(parts: Sequence[Modules]) -> Modules:
    """The modules of all parts, which hold the same runs, pairs and top_ks."""
    sizes = [len(part.names) for part in parts]
    by_module = ("run", "base", "base_chance", "unchanged", "pair", "angles", "sd_own", "sd_fresh", "own_v1")
    return Modules(
        names=[name for part in parts for name in part.names],
        layers=np.concatenate([part.layers for part in parts]),
        shapes=np.concatenate([part.shapes for part in parts]),
        runs=parts[0].runs,
        pairs=parts[0].pairs,
        **{name: _side_by_side([getattr(part, name) for part in parts], sizes) for name in by_module},
    )


def _side_by_side(found: Sequence[Any], sizes: Sequence[int]) -> Any:
    """One value of every part, arrays (..., modules, ...) put together. Where a part has none (its angles, if none of
    its pairs is defined), its modules get NaN."""
    known = next((value for value in found if value is not None), None)
    if isinstance(known, np.ndarray):
        gaps = [np.full((len(known), size, *known.shape[2:]), np.nan) for size in sizes]
        filled = [gap if value is None else value for value, gap in zip(found, gaps, strict=True)]
        return np.asfortranarray(np.concatenate(filled, axis=1))  # as `collect` has them: sums round by the layout
    if isinstance(known, dict):
        keys = dict.fromkeys(key for value in found for key in value or ())
        return {key: _side_by_side([(value or {}).get(key) for value in found], sizes) for key in keys}
    if isinstance(known, list):
        many = max(len(value or ()) for value in found)
        return [_side_by_side([value[i] if value else None for value in found], sizes) for i in range(many)]
    if isinstance(known, Drawn | Angles):
        names = [field.name for field in fields(known)]
        return type(known)(*(_side_by_side([getattr(value, name, None) for value in found], sizes) for name in names))
    return known


def collect(records: Sequence[Record]) -> Modules:
    """Raises UserError, naming the module, if modules hold different runs, pairs or k."""
    _alike(records)
    runs, pairs = ([record[key] for record in records] for key in ("runs", "pairs"))
    chances = [[pair["chance"] or {} for pair in of_module] for of_module in pairs]
    base, base_chance, unchanged = _base(runs)
    return Modules(
        names=[record["module"] for record in records],
        layers=np.array([record["layer"] for record in records], dtype=float),
        shapes=np.array([record["shape"] for record in records], dtype=float),
        runs=[run["run"] for run in runs[0]],
        pairs=[(pair["a"], pair["b"]) for pair in pairs[0]],
        run={key: _table(runs, key) for key in RUN},
        base=base,
        base_chance=base_chance,
        unchanged=unchanged,
        pair={key: _table(pairs, key) for key in (*PAIR, *VECTORS)},
        angles=_angles(pairs, chances),
        sd_own=_table(chances, "cosine_sd_own"),
        sd_fresh=_table(chances, "cosine_sd_fresh"),
        own_v1=_drawn([[chance.get("own_v1_overlap") for chance in of_module] for of_module in chances]),
    )


def _alike(records: Sequence[Record]) -> None:
    for what, of_record in (("runs", _runs), ("pairs", _pairs), ("top_k", _top_ks)):
        first: tuple[str, list[Any]] | None = None
        for record in records:
            held = of_record(record)
            if held is None:
                continue
            first = first or (record["module"], held)
            if held != first[1]:
                lacking, more = (
                    [x for x in one if x not in other] for one, other in ((first[1], held), (held, first[1]))
                )
                raise UserError(
                    f"module {record['module']} does not hold the {what} of {first[0]}: it lacks {lacking} and holds "
                    f"{more} besides; measure all modules again with the same {what}"
                )


def _runs(record: Record) -> list[str]:
    return [run["run"] for run in record["runs"]]


def _pairs(record: Record) -> list[Pair]:
    return [(pair["a"], pair["b"]) for pair in record["pairs"]]


def _top_ks(record: Record) -> list[int] | None:
    """None where no pair has angles."""
    return next(([angles["top_k"] for angles in pair["angles"]] for pair in record["pairs"] if pair["angles"]), None)


def _table(rows: list[list[Record]], key: str) -> Array:
    """(rows of a module, modules) of one key, NaN where it is None or missing."""
    found: Array = np.array([[row.get(key) for row in of_module] for of_module in rows], dtype=float)
    return found.T


def _base(
    runs: list[list[Record]],
) -> tuple[dict[tuple[str, int], Array], dict[tuple[str, int], Array], Array | None]:
    """Values and chances by measure and k, and the unchanged parts; nothing where no run has the base's numbers."""
    bases = [[run.get("base") or {} for run in of_module] for of_module in runs]
    if not any(chain.from_iterable(bases)):
        return {}, {}, None
    values, chances = {}, {}
    for measure in BASE:
        by_k = [[{row["top_k"]: row for row in base.get(measure) or ()} for base in of_module] for of_module in bases]
        for k in sorted(set(chain.from_iterable(chain.from_iterable(by_k)))):
            rows = [[at.get(k, {}) for at in of_module] for of_module in by_k]
            values[measure, k] = _table(rows, "value")
            chances[measure, k] = _table(rows, "chance")
    return values, chances, _table(bases, "unchanged_bf16")


def _angles(pairs: list[list[Record]], chances: list[list[Record]]) -> list[Angles]:
    top_ks = next((found for found in (_top_ks({"pairs": of_module}) for of_module in pairs) if found), [])
    found = []
    for i, top_k in enumerate(top_ks):
        rows = [[pair["angles"][i] if pair["angles"] else {} for pair in of_module] for of_module in pairs]
        own = [[chance["own"][i] if chance.get("own") else {} for chance in of_module] for of_module in chances]
        values = {
            f"{side}_{which}": table
            for side in SIDES
            for which, table in _summaries([[row.get(side) for row in of_module] for of_module in rows]).items()
        }
        drawn = {
            which: _drawn([[row.get(f"right_{which}") for row in of_module] for of_module in own])
            for which in (*ANGLES, "overlap")
        }
        found.append(Angles(top_k, _table(rows, "k"), values, drawn))
    return found


def _summaries(degrees: list[list[Sequence[float] | None]]) -> dict[str, Array]:
    """smallest, median and largest angle and overlap, (pairs, modules) each, from lists of ascending angles."""
    shape = (len(degrees), len(degrees[0]))
    lists = [angles for angles in chain.from_iterable(degrees) if angles is not None]
    defined = np.array([angles is not None for angles in chain.from_iterable(degrees)])
    flat = np.fromiter(chain.from_iterable(lists), dtype=float)
    sizes = np.array([len(angles) for angles in lists], dtype=int)
    starts = np.cumsum(sizes) - sizes
    columns = {
        "smallest": flat[starts],
        "median": (flat[starts + (sizes - 1) // 2] + flat[starts + sizes // 2]) / 2,
        "largest": flat[starts + sizes - 1],
        "overlap": np.add.reduceat(np.cos(np.radians(flat)) ** 2, starts) / sizes,
    }
    found = {}
    for which, values in columns.items():
        table = np.full(len(defined), np.nan)
        table[defined] = values
        found[which] = table.reshape(shape).T
    return found


def _drawn(found: list[list[Record | None]]) -> Drawn:
    """From what is found of each pair in each module, NaN where that is nothing."""
    rows = [[row or {} for row in of_module] for of_module in found]
    missing = [np.nan] * LEVELS.size
    quantiles = [[row.get("quantiles", missing) for row in of_module] for of_module in rows]
    table = np.array(quantiles, dtype=float).reshape(len(rows), -1, LEVELS.size)
    return Drawn(_table(rows, "mean"), _table(rows, "sd"), table.transpose(1, 0, 2))
