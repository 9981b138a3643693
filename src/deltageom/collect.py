"""Read a study's records from its results folder and make every table of them."""

import itertools
import json
from pathlib import Path

import pandas as pd

from deltageom import tables
from deltageom.records import read_jsonl
from deltageom.schema import TableSettings


def collect(results: Path, settings: TableSettings) -> dict[str, pd.DataFrame]:
    """Every table by name (see tables.build), from the files that the rules have written below `results`."""
    runs = {name: settings.runs[name].model_dump(mode="json") for name in settings.order}
    # files of a pair are named in the order of the names; the tables are in the order of the study
    pairs = list(itertools.combinations(sorted(runs), 2))
    return tables.build(
        runs,
        {name: json.loads((results / "runs" / name / "selection.json").read_text()) for name in runs},
        {
            (model, benchmark): read_jsonl(results / "evaluation" / model / f"{benchmark}.jsonl")
            for model in ("base", *runs)
            for benchmark in settings.benchmarks
        },
        [json.loads((results / "geometry" / f"{module}.json").read_text()) for module in settings.modules],
        {pair: _pair(results / "connectivity", pair) for pair in pairs},
        {pair: _pair(results / "cka", pair) for pair in pairs},
    )


def _pair(folder: Path, pair: tuple[str, str]) -> pd.DataFrame:
    a, b = pair
    return pd.read_csv(folder / a / f"{b}.csv", dtype={"problem_id": str})
