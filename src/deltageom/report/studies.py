"""Finished studies side by side: the settings that differ, and every number that they share."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from deltageom.display.columns import typed
from deltageom.display.table_files import read_tables
from deltageom.errors import UserError
from deltageom.evaluation.over_replicates import ENOUGH
from deltageom.report.replicates import KEYS, long_table

FROM_FIRST = ["difference", "difference_low", "difference_high"]  # of a study's number from the first study's
UNCOMPARED = ("study", "execution", "benchmarks")  # `benchmarks`: their numbers say what they share


@dataclass(frozen=True)
class Finished:
    """A finished study: its settings, its tables, and its numbers (KEYS, n, mean, sd, low, high)."""

    name: str
    settings: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    numbers: pd.DataFrame


def read(folder: Path) -> Finished:
    """From the study's folder of results. Raises UserError if it is none, or not finished."""
    record, tables = folder / "provenance.json", folder / "tables"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: give the folder of a finished study, results/NAME")
    try:
        found = json.loads(record.read_bytes())
        name, settings, _ = str(found["study"]), found["settings"], found["settings"]["measures"]["compare_with"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{record}: is no provenance of a finished study of this version: run it to its end") from None
    frames = read_tables(tables)
    if missing := [one for one in ("accuracy", "geometry_global", "training") if one not in frames]:
        raise UserError(f"{tables}: has no {missing[0]}.csv: finish the study first")
    return Finished(name, settings, frames, _numbers(frames))


def named(studies: Sequence[Finished]) -> dict[str, Finished]:
    """By name. Raises UserError for fewer than two, for two of one name, and where no two share a run."""
    if len(studies) < 2:
        raise UserError("give two or more folders of finished studies")
    found = {study.name: study for study in studies}
    if len(found) < len(studies):
        raise UserError(f"two of the studies are called {studies[0].name}: compare studies of different names")
    shared = reduce(set.intersection, (set(study.tables["training"]["run"]) for study in studies))
    if not shared:
        runs = "; ".join(f"{study.name}: {', '.join(study.tables['training']['run'])}" for study in studies)
        raise UserError(f"the studies have no run in common ({runs})")
    return found


def settings_table(studies: Mapping[str, Finished]) -> pd.DataFrame:
    """One row per setting that is not the same in all: key, and a column per study; of what a study lacks, nothing."""
    flat = {name: dict(_flat(study.settings)) for name, study in studies.items()}
    keys = list(dict.fromkeys(key for found in flat.values() for key in found))
    differ = [key for key in keys if len({found.get(key) for found in flat.values()}) > 1]
    return pd.DataFrame(
        [{"key_name": key, **{name: flat[name].get(key) for name in flat}} for key in differ],
        columns=["key_name", *flat],
    )


def numbers_table(studies: Mapping[str, Finished]) -> pd.DataFrame:
    """One row per study and number that at least two share: KEYS, study, n, mean, sd, low, high, and its difference
    from the first study's, with Welch's 95 % t interval where both have three replicates or more."""
    first = next(iter(studies))
    frames = [study.numbers.assign(study_name=name) for name, study in studies.items()]
    every = pd.concat(frames, ignore_index=True)
    every = every[every.groupby(KEYS, dropna=False)["study_name"].transform("nunique") > 1]
    base = every[every["study_name"] == first].drop(columns=["study_name", "low", "high"])
    joined = every.merge(base, on=KEYS, how="left", suffixes=("", "_first"))
    other = joined["study_name"] != first
    joined["difference"] = (joined["mean"] - joined["mean_first"]).where(other)
    half = _welch(joined).where(other)
    joined["difference_low"], joined["difference_high"] = joined["difference"] - half, joined["difference"] + half
    columns = [*KEYS, "study_name", "n", "mean", "sd", "low", "high", *FROM_FIRST]
    return typed(joined[columns].reset_index(drop=True), ["layer", "k", "n"])


def right_share(study: Finished) -> float:
    """The share of right rollouts, of the rows that the first run chose from; NaN where the table does not say."""
    training = study.tables["training"]
    if not {"correct", "rows"} <= set(training):
        return float("nan")
    row = training.iloc[0]
    if "replicates" in study.tables:
        table = study.tables["replicates"]
        found = table[(table["source"] == "training") & (table["measure"] == "correct") & (table["a"] == row["run"])]
        return float(found["mean"].iloc[0] / row["rows"]) if len(found) else float("nan")
    return float(row["correct"] / row["rows"])


def _numbers(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    columns = [*KEYS, "n", "mean", "sd", "low", "high"]
    if "replicates" in tables:
        return tables["replicates"][columns]
    alone = long_table(tables).rename(columns={"value": "mean"}).assign(n=1)
    return alone.reindex(columns=columns)


def _welch(rows: pd.DataFrame) -> pd.Series:
    """Half the width of the interval of each difference; missing where one has fewer than ENOUGH replicates."""
    n, n_first = rows["n"].astype(float), rows["n_first"].astype(float)
    part, part_first = rows["sd"] ** 2 / n, rows["sd_first"] ** 2 / n_first
    variance = part + part_first
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = variance**2 / (part**2 / (n - 1) + part_first**2 / (n_first - 1))
    half: pd.Series[float] = pd.Series(t.ppf(0.975, freedom), index=rows.index) * np.sqrt(variance)
    return half.where((n >= ENOUGH) & (n_first >= ENOUGH))


def _flat(tree: Any, place: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if not place and key in UNCOMPARED:
            continue
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", json.dumps(value)
