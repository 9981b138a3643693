"""The geometry's tables: one row per number with its baselines; and the same numbers side by side, for reading."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from deltageom.display.columns import MATRIX_KEY, Record, typed
from deltageom.geometry.aggregate.seeds import Identity, noise_pairs
from deltageom.geometry.aggregate.table import Level, numbers

LEVELS: tuple[Level, ...] = ("module", "layer", "global")
PLACES = ("module", "layer")
SEEDS = ("seed", "pair_seed", "kl_seed")  # of a method's options and of training, besides init_seed


def geometry_tables(modules: Sequence[Record], runs: Mapping[str, Record]) -> dict[str, pd.DataFrame]:
    """geometry_module, geometry_layer and geometry_global: see `aggregate.table.numbers`.

    `modules` are the records of all modules, `runs` the study's: those that differ only in seeds are the noise.
    """
    noise = noise_pairs({name: identity(run) for name, run in runs.items()})
    records = [dict(module) for module in modules]
    return {f"geometry_{level}": typed(pd.DataFrame(numbers(records, level, noise))) for level in LEVELS}


def identity(run: Record) -> Identity:
    """What tells a run from those that differ from it only in seeds; `init` is what its initial A depends on."""
    training, options = dict(run["training"]), dict(run["options"])
    lora = dict(training.pop("lora"))
    init = {key: lora[key] for key in ("init_seed", "rank", "target_modules")} if training["adapter"] == "lora" else {}
    lora.pop("init_seed")
    seeds = {key: of.pop(key) for of in (training, options) for key in SEEDS if key in of}
    settings = {"method": run["method"], "options": options, "training": training, "lora": lora}
    return Identity(_text(settings), _text(seeds), _text(init))


def of_runs(table: pd.DataFrame) -> pd.DataFrame:
    """A row per run (and place): a column per measure, of the largest k where it has several."""
    return _wide(table[table["b"].isna()].rename(columns={"a": "run"}), ["run"])


def of_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """A row per pair of runs (and place): the same."""
    return _wide(table[table["b"].notna()], ["a", "b"])


def of_measure(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The rows of one measure of pairs, of the largest k where it has several."""
    return _of_largest_k(table[(table["measure"] == measure) & table["b"].notna()], ["a", "b"])


def chance_mean(rows: pd.DataFrame) -> pd.Series:
    """Of chance with each run's own A; where one has none, of random deltas."""
    return rows["chance_own_mean"].fillna(rows["chance_fresh_mean"])


def chance_sd(rows: pd.DataFrame) -> pd.Series:
    """The same of its standard deviation."""
    return rows["chance_own_sd"].fillna(rows["chance_fresh_sd"])


def count_modules(tables: Mapping[str, pd.DataFrame]) -> int:
    return int(tables["geometry_module"]["module"].nunique())


def _wide(rows: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    keys = [*(place for place in PLACES if place in rows), *names]
    values = _of_largest_k(rows, names).set_index([*keys, "measure"])["value"].unstack("measure")
    others = [column for column in ("k", "n_modules", "n_defined", "reason") if column in rows]
    facts = rows.groupby(keys, sort=False)[others].agg(
        {column: "max" if column == "k" else "first" for column in others}
    )
    measures = list(dict.fromkeys(rows["measure"]))
    return facts[[]].join(values[measures]).join(facts).reset_index()


def _of_largest_k(rows: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    keys = [key for key in (*PLACES, *names, "measure") if key in rows]
    return rows.sort_values("k", na_position="first", kind="stable").drop_duplicates(keys, keep="last")


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def cosine_matrix(table: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """The cosines of geometry_global as a square: column `(run)`, then a column per run, rows and columns in `order`.

    The diagonal is 1, missing for a zero delta.
    """
    matrix = pd.DataFrame(np.nan, index=list(order), columns=list(order))
    runs, pairs = of_runs(table), of_pairs(table)
    for run, norm in zip(runs["run"], runs["norm"], strict=True):
        matrix.loc[run, run] = 1.0 if norm > 0 else np.nan
    if not pairs.empty:
        for a, b, cosine in zip(pairs["a"], pairs["b"], pairs["cosine"], strict=True):
            matrix.loc[a, b] = matrix.loc[b, a] = cosine
    return matrix.rename_axis(MATRIX_KEY).reset_index()
