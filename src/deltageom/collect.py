"""Read a study's records from its results folder and make every table of them."""

import itertools
import json
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
        {
            (str(a), str(b)): path.drop(columns="b")
            for a in sorted(runs)[:-1]
            for b, path in _read(results / "connectivity" / f"{a}.csv").groupby("b")
        },
        {(a, b): _read(results / "cka" / a / f"{b}.csv") for a, b in itertools.combinations(sorted(runs), 2)},
        json.loads((results / "decontamination" / "report.json").read_text()),
        settings.statistics,
        settings.reference,
    )


def _read(path: Path) -> pd.DataFrame:
    # names are text whatever they look like: "NA" and "1" are good names
    return pd.read_csv(path, dtype={"b": str, "problem_id": str}, keep_default_na=False, na_values=[""])
