"""Tidy tables from the records of a study: pure pandas, undefined values are missing, never zero.

Runs and models keep the order in which they are given (the study's). `write` saves a table as .csv (full
precision) and .md (rounded for reading); `read` gives back what `write` saved.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from deltageom.display.columns import Record
from deltageom.files import read_jsonl
from deltageom.measures import interface as measures
from deltageom.report.tables.derived import derived
from deltageom.report.tables.geometry import cosine_matrix, geometry_tables
from deltageom.report.tables.scores import (
    Graded,
    accuracy,
    comparisons,
    decontamination,
    disagreements,
    graders,
    pass_at_k,
)
from deltageom.report.tables.training import training, training_curves
from deltageom.study.running import Statistics
from deltageom.study.settings import TableSettings


def build_tables(
    runs: Mapping[str, Record],
    selections: Mapping[str, Record],
    metrics: Mapping[str, pd.DataFrame],
    graded: Graded,
    modules: Sequence[Record],
    measured: Mapping[str, pd.DataFrame],
    overlap: Record,
    statistics: Statistics,
    reference: str,
) -> dict[str, pd.DataFrame]:
    """Every table by name, from the arguments of the functions below; `runs` are the study's in its order, if trained.

    `selections` are of all runs; one that is not among `runs` is derived, and only a study with such has `derived`.
    Those of the geometry are `aggregate.table.numbers`, one row per number; `measured` are the measures' own, by name;
    `overlap` is the decontamination's report.
    """
    order = [*runs, *(name for name in selections if name not in runs)]
    tables = {
        "training": training(runs, selections),
        "training_curves": training_curves({run: metrics[run] for run in runs if run in metrics}),
        "accuracy": accuracy(graded, statistics),
        "pass_at_k": pass_at_k(graded, statistics),
        "comparisons": comparisons(graded, statistics, reference),
        "graders": graders(graded),
        "disagreements": disagreements(graded),
        "decontamination": decontamination(overlap),
        **geometry_tables(modules, runs),
        **measured,
    }
    tables["cosine_matrix"] = cosine_matrix(tables["geometry_global"], order)
    if len(order) > len(runs):
        tables["derived"] = derived(selections, tables["geometry_global"])
    return tables


def collect(
    results: Path, settings: TableSettings, shared: Mapping[str, Path] | None = None
) -> dict[str, pd.DataFrame]:
    """Every table by name (see tables.build), from the files that the rules have written below `results`.

    `shared`: by stage (`train/sft`, `geometry`), the folder of another study that lies there instead.
    """
    shared = shared or {}

    def of(stage: str) -> Path:
        return shared.get(stage, results)

    ordered = {name: settings.runs.get(name) for name in settings.order}
    made_by = {name: of(f"{'train' if name in settings.runs else 'derive'}/{name}") for name in settings.order}
    folders = {name: results / "runs" / name for name, results in made_by.items()}
    runs = {name: settings.runs[name].model_dump(mode="json") for name in settings.order if name in settings.runs}
    return build_tables(
        runs,
        {name: json.loads((folder / "selection.json").read_text()) for name, folder in folders.items()},
        {name: pd.read_parquet(folders[name] / "metrics.parquet") for name in runs},
        {
            (model, benchmark): read_jsonl(of(f"grade/{model}") / "graded" / model / f"{benchmark}.jsonl")
            for model in ("base", *folders)
            for benchmark in settings.benchmarks
        },
        [json.loads((of("geometry") / "geometry" / f"{module}.json").read_text()) for module in settings.modules],
        {
            name: table
            for measure, one in ((name, measures.load(name)) for name in settings.measures)
            for name, table in one.build(of(measure), one.takes(ordered)).items()
        },
        json.loads((of("decontaminate") / "decontamination" / "report.json").read_text()),
        settings.statistics,
        settings.compare_with,
    )
