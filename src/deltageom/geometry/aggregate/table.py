"""The numbers of modules, layers and the whole update, each beside what chance and other seeds give.

Norms, cosines and orthogonal fractions over modules are those of the stacked vector of their deltas, not means; angles
are medians, overlaps and ranks means, over the modules where they are defined.

What the baselines do not claim. The modules of one network are not independent, neither in how they were trained nor as
a sample of anything: the bootstrap says how far a median depends on which modules are there, and no more. The z of a
number is its distance from chance, or from other seeds, in standard deviations and gives no p-value: the chance
distributions of angles, overlaps and orthogonal fractions are skewed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deltageom.geometry.aggregate import pairs as pair_numbers
from deltageom.geometry.aggregate import runs as run_numbers
from deltageom.geometry.aggregate.arrays import Modules, Pair, Record, collect
from deltageom.geometry.aggregate.pairs import DIRECTIONAL
from deltageom.geometry.aggregate.runs import Number
from deltageom.geometry.aggregate.seeds import seed_columns

Array = NDArray[np.float64]
Columns = dict[str, "list[str | None] | Array"]
Level = Literal["module", "layer", "global"]
Of = Literal["runs", "pairs"]
OF: tuple[Of, ...] = ("runs", "pairs")

BASELINES = (
    *(f"chance_{which}_{what}" for which in ("own", "fresh") for what in ("mean", "sd", "z")),
    *(f"seed_{what}" for what in ("n", "mean", "sd", "z")),
)
OVER = ("low", "high", "n_modules", "n_defined")
COLUMNS: dict[str, tuple[str, ...]] = {
    "module": ("module", "layer", "a", "b", "measure", "k", "value", "reason", *BASELINES),
    "layer": ("layer", "a", "b", "measure", "k", "value", *OVER, "reason", *BASELINES),
    "global": ("a", "b", "measure", "k", "value", *OVER, "reason", *BASELINES),
}
TEXT = ("module", "a", "b", "measure", "reason")
NUMERIC = ("k", "value", *OVER, *BASELINES)
COUNTS = ("layer", "k", "n_modules", "n_defined", "seed_n")  # whole numbers
REASONS = (None, "zero delta", "not measured")


def numbers(
    found: Sequence[Record] | Modules,
    level: Level,
    noise: Mapping[Pair, Sequence[Pair]],
    of: Sequence[Of] = OF,
) -> Columns:
    """One row per number, in COLUMNS[level]: text as lists, None where missing; numbers as float64 arrays, NaN there.

    found: the records of modules, see `measure_module`, with "module", "layer" and "shape", or these as arrays; a
    module whose layer is None is in no layer. noise: for each pair of runs the pairs that differ only in seeds, see
    `noise_pairs`. of: the rows of runs, of pairs, or both.
    Rows: all runs before all pairs; within these by module (in the order given) or layer (ascending), then by run or
    pair, then by measure. `b` is None for a run. `k` is the k used, the smallest over modules (the asked one where
    the value is undefined); an asked k that uses the same k as a smaller one everywhere has no rows of its own.
    n_defined counts the modules where the measure is defined. reason says why a value is NaN.

    Over modules a run has norm (stacked), stable_rank_mean, effective_rank_..._mean; with the base's weights
    input_energy and output_energy (of the stacked delta: weighted by |delta|^2), spectral_drift_mean, intruders_sum,
    unchanged_bf16 (weighted by the number of weights). A pair has inner, cosine and coefficient_... (stacked), and
    - orthogonal_fraction_stacked = sqrt(1 - cosine^2): what is left of b after its projection on the stacked
      a, one coefficient for all modules; symmetric.
    - orthogonal_fraction_by_module_b_outside_a: the fraction of b that is orthogonal to a when b is projected on
      a in each module apart, a coefficient a module, and residuals are stacked. Never above the stacked one.
    - orthogonal_fraction_by_module_a_outside_b: the same with a and b exchanged.
    - cosine_median, left_smallest_median, ..., right_largest_median (degrees), with low and high, the bounds of
      their 95 % bootstrap interval; left_overlap_mean, right_overlap_mean, u1_overlap_mean, v1_overlap_mean.

    chance_fresh_...: of random deltas, both factors Gaussian; chance_own_...: B Gaussian, each run's A kept. Given the
    runs' own norms and independent modules, the stacked cosine has mean 0 and the standard deviation
    sqrt(sum_m (|a_m| |b_m| sd_m)^2) / (|a| |b|); orthogonal fractions follow from it to leading order. seed_...: of
    the same measure over the noise pairs, NaN for a measure that tells a from b.
    Raises UserError, naming the module, if modules hold different runs, pairs or k.
    """
    if level not in COLUMNS:
        raise ValueError(f"level must be 'module', 'layer' or 'global', not {level!r}")
    if not isinstance(found, Modules) and not found:
        return _table(level, [])
    modules = found if isinstance(found, Modules) else collect(found)
    of_runs, of_pairs = run_numbers.over_modules, pair_numbers.over_modules
    parts, names, layers = [modules], list[str](), np.array([np.nan])
    if level == "module":
        names, layers = modules.names, modules.layers
        of_runs, of_pairs = run_numbers.in_modules, pair_numbers.in_modules
    elif level == "layer":
        groups = _layers(modules.layers)
        parts, layers = [modules.at(group) for group in groups.values()], np.array(list(groups))
    if not parts:
        return _table(level, [])
    sections = []
    if "runs" in of:
        runs = _Section(_by_place(of_runs, parts))
        sections.append(runs.columns(names, layers, [(run, None) for run in modules.runs]))
    if "pairs" in of and modules.pairs:
        pairs = _Section(_by_place(of_pairs, parts))
        pairs.hold_against(modules.pairs, noise)
        sections.append(pairs.columns(names, layers, modules.pairs))
    return _table(level, sections)


def _layers(layers: Array) -> dict[float, list[int]]:
    return {layer: np.flatnonzero(layers == layer).tolist() for layer in np.unique(layers[~np.isnan(layers)]).tolist()}


def _by_place(measure: Callable[[Modules], list[Number]], parts: list[Modules]) -> list[Number]:
    """Columns (modules or layers, runs or pairs), from one part of all modules or from one a layer."""
    measured = [measure(part) for part in parts]
    if measured[0][0][1]["value"].ndim == 2:
        return [(name, {key: array.T for key, array in columns.items()}) for name, columns in measured[0]]
    return [
        (same[0][0], {key: np.stack([columns[key] for _, columns in same]) for key in same[0][1]})
        for same in zip(*measured, strict=True)
    ]


class _Section:
    """The rows of all runs or of all pairs: arrays (modules or layers, runs or pairs, measures)."""

    def __init__(self, found: list[Number]) -> None:
        self.measures = [name for name, _ in found]
        missing = np.full(found[0][1]["value"].shape, np.nan)
        keys = (*NUMERIC, "zero", "repeated")
        self.table = {key: np.stack([columns.get(key, missing) for _, columns in found], -1) for key in keys}

    def hold_against(self, pairs: Sequence[Pair], noise: Mapping[Pair, Sequence[Pair]]) -> None:
        seeds = seed_columns(self.table["value"], self.table["k"], pairs, noise)
        directed = np.isin(self.measures, DIRECTIONAL)
        self.table |= {key: np.where(directed, np.nan, array) for key, array in seeds.items()}

    def columns(self, names: list[str], layers: Array, rows: Sequence[tuple[str, str | None]]) -> Columns:
        for of in ("chance_own", "chance_fresh", "seed"):
            self.table[f"{of}_z"] = self._z(of)
        keep = self.table["repeated"] != 1
        place, row, measure = np.nonzero(keep)
        found: Columns = {key: self.table[key][keep] for key in NUMERIC}
        undefined, moved = np.isnan(self.table["value"][keep]), self.table["zero"][keep] == 0
        return found | {
            "module": [names[i] for i in place.tolist()] if names else [],
            "layer": layers[place],
            "a": [rows[i][0] for i in row.tolist()],
            "b": [rows[i][1] for i in row.tolist()],
            "measure": [self.measures[i] for i in measure.tolist()],
            "reason": [REASONS[i] for i in (undefined * (1 + moved)).tolist()],
        }

    def _z(self, of: str) -> Array:
        sd = self.table[f"{of}_sd"]
        away = self.table["value"] - self.table[f"{of}_mean"]
        z: Array = np.divide(away, sd, out=np.full_like(sd, np.nan), where=sd > 0)
        return z


def _table(level: Level, sections: list[Columns]) -> Columns:
    found: Columns = {}
    for column in COLUMNS[level]:
        parts = [section[column] for section in sections]
        if column in TEXT:
            found[column] = [value for part in parts for value in part]
        else:
            found[column] = np.concatenate([np.zeros(0), *parts])
    return found
