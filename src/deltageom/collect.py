"""Read a study's records from its results folder and make every table of them."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from deltageom import tables
from deltageom.jobs import TableSettings
from deltageom.records import read_jsonl


def collect(results: Path, settings: TableSettings) -> dict[str, pd.DataFrame]:
    """Every table by name (see tables.build), from the files that the rules have written below `results`."""
    runs = {name: settings.runs[name].model_dump(mode="json") for name in settings.order}
    return tables.build(
        runs,
        {name: json.loads((results / "runs" / name / "selection.json").read_text()) for name in runs},
        {name: pd.read_parquet(results / "runs" / name / "metrics.parquet") for name in runs},
        {
            (model, benchmark): read_jsonl(results / "graded" / model / f"{benchmark}.jsonl")
            for model in ("base", *runs)
            for benchmark in settings.benchmarks
        },
        [json.loads((results / "geometry" / f"{module}.json").read_text()) for module in settings.modules],
        _pairs(results / "connectivity", sorted(runs)),
        _pairs(results / "cka", sorted(runs)),
        json.loads((results / "decontamination" / "report.json").read_text()),
        settings.statistics,
        settings.reference,
    )


def _pairs(folder: Path, runs: Sequence[str]) -> dict[tuple[str, str], pd.DataFrame]:
    """The rows of each pair, from a file a run with those after it."""
    return {
        (a, str(b)): rows.drop(columns="b")
        for a in runs[:-1]
        for b, rows in _read(folder / f"{a}.csv").groupby("b", sort=False)
    }


def _read(path: Path) -> pd.DataFrame:
    # names are text whatever they look like: "NA" and "1" are good names
    return pd.read_csv(path, dtype={"b": str, "problem_id": str}, keep_default_na=False, na_values=[""])
