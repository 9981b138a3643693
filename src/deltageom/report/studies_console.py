"""What `deltageom studies` prints."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table

from deltageom import terminal
from deltageom.display.against import against
from deltageom.report.studies import FROM_FIRST, Finished, right_share
from deltageom.text import plain

SHOWN_SETTINGS = 30


def show(studies: Mapping[str, Finished], differ: pd.DataFrame, numbers: pd.DataFrame, reference: str) -> None:
    """Settings that differ, accuracies, and each run's cosine with the reference, a column per study."""
    out = terminal.console()
    shares = {name: right_share(study) for name, study in studies.items()}
    out.print("Settings that differ", _settings(differ, list(studies)), sep="\n")
    if len(differ) > SHOWN_SETTINGS:
        out.print(f"The first {SHOWN_SETTINGS} of {len(differ)}; all are in settings.csv (--output).")
    known = {name: f"{share:.3f}" for name, share in shares.items() if isfinite(share)}
    out.print("Share of right rollouts: " + ", ".join(f"{escape(name)} {text}" for name, text in known.items()))
    cosines = numbers[(numbers["source"] == "geometry_global") & (numbers["measure"] == "cosine")]
    cosines = cosines.drop(columns=FROM_FIRST)  # `against` would take them for differences of runs
    order = list(dict.fromkeys(run for study in studies.values() for run in study.tables["training"]["run"]))
    table = _numbers(against(cosines, reference, order), "run", list(studies))
    out.print(f"\nCosine with {escape(reference)}", table, sep="\n")
    for benchmark, rows in numbers[numbers["source"] == "accuracy"].groupby("benchmark", sort=False):
        found = _numbers(rows.rename(columns={"a": "model"}), "model", list(studies))
        out.print(f"\nAccuracy on {escape(str(benchmark))}", found, sep="\n")
    out.print("In brackets 95 % t intervals over replicates, where a study has three or more.")


def _settings(differ: pd.DataFrame, names: list[str]) -> Table:
    table = Table("setting", *map(escape, names))
    for _, row in differ.head(SHOWN_SETTINGS).iterrows():
        table.add_row(escape(row["key_name"]), *(escape(plain(str(row[name] or "–"), 60)) for name in names))
    return table


def _numbers(rows: pd.DataFrame, key: str, names: list[str]) -> Table:
    table = Table(key)
    for name in names:
        table.add_column(escape(name), justify="right")
    for run, of_run in rows.groupby(key, sort=False):
        by_study = of_run.set_index("study_name")
        cells = [_cell(by_study.loc[name]) if name in by_study.index else "–" for name in names]
        table.add_row(escape(str(run)), *cells)
    return table


def _cell(row: Any) -> str:
    interval = f" [{row['low']:.3f}, {row['high']:.3f}]" if isfinite(row["low"]) else ""
    return f"{row['mean']:.3f}{interval}"
