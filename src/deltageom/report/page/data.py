"""All that a page holds: what it draws at once, and what it unpacks after the first picture."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from deltageom.display.palette import looks, on_dark
from deltageom.measures.interface import load_all
from deltageom.report import results
from deltageom.report.page.answers import answers, verdict_table
from deltageom.report.page.arrange import BASE, order, plane
from deltageom.report.page.columns import Columns, columns, numbers
from deltageom.report.page.measures import MEASURES, names_of_level
from deltageom.report.page.samples import samples
from deltageom.report.page.source import Source
from deltageom.report.summary_replicates import paper_beside
from deltageom.report.tables.training import DERIVED

Data = dict[str, Any]

AT_ONCE = 2_000  # rows of a table that is there before the first picture; FIRST is there however long it is
FIRST = "geometry_global"
LONG = {"geometry_global": 5_000}  # rows of a table from which on it is shortened; of others:
LONG_ELSE = 100_000
DIGITS = 4  # significant ones of a shortened table
STEPS = 400  # of a training curve in a shortened table
KEPT = ["module", "layer", "a", "b", "measure", "k", "value", "low", "high", "chance_own_mean"]
KEPT += ["chance_own_sd", "chance_fresh_mean", "chance_fresh_sd"]


def at_once(source: Source) -> Data:
    """The study as far as the first picture needs it."""
    runs, table = _runs(source), source.tables.get("geometry_global")
    look = looks(runs)
    names = [*([BASE] if "accuracy" in source.tables else []), *runs]
    return {
        "name": source.name,
        "answers": answers(source.settings, source.tables) if source.settings else [],
        "verdicts": verdict_table(source.settings, source.tables) if source.settings else [],
        "reference": _reference(source, runs),
        "runs": list(runs),
        "looks": {
            name: {"light": look[name].colour, "dark": on_dark(look[name].colour), "marker": look[name].marker}
            for name in names
        },
        "methods": runs,
        "order": order(table, list(runs)) if table is not None else list(runs),
        "map": plane(table, list(runs), source.replicates) if table is not None else None,
        "paper": _paper(source),
        "replicates": source.settings["replicates"]["count"] if source.settings else 1,
        "missing": list(source.missing),
        **_tables({name: frame for name, frame in source.tables.items() if _at_once(name, frame)}),
        "captions": {
            name: one.caption
            for name, one in {**results.tables(load_all()), **results.DERIVED, **results.REPLICATES}.items()
        },
    }


def afterwards(source: Source) -> Data:
    """The long tables (shortened where they are very long: `shortened` says how), spectra and samples."""
    return {
        **_tables({name: frame for name, frame in source.tables.items() if not _at_once(name, frame)}),
        "spectra": _spectra(source.spectra) if source.spectra is not None else None,
        "samples": samples(source.graded),
    }


def _runs(source: Source) -> dict[str, str]:
    """Each run's method, in the study's order; of adapters from anywhere the name stands for the method."""
    if "training" in source.tables:
        table = source.tables["training"]
        return dict(zip(table["run"], table["method"], strict=True))
    if source.settings:
        trained = {name: run["method"] for name, run in source.settings["runs"].items()}
        return trained | dict.fromkeys(source.settings.get("derived", {}), DERIVED)
    for name, column in (("geometry_global", "a"), ("training_curves", "run")):
        if name in source.tables:
            return {run: run for run in dict.fromkeys(source.tables[name][column])}
    return {}


def _reference(source: Source, runs: Mapping[str, str]) -> str | None:
    if source.reference:
        return source.reference
    if source.settings and source.settings["measures"]["compare_with"] in runs:
        return str(source.settings["measures"]["compare_with"])
    return next(iter(runs), None)


def _paper(source: Source) -> dict[str, dict[str, float]]:
    """The paper's values against SFT: by measure, then by run."""
    if not source.settings or "training" not in source.tables:
        return {}
    found = {one.of_all: paper_beside(source.settings, source.tables, one.of_all) for one in MEASURES}
    return {measure: values for measure, values in found.items() if values}


def _at_once(name: str, frame: pd.DataFrame) -> bool:
    return name == FIRST or len(frame) <= AT_ONCE


def _tables(frames: Mapping[str, pd.DataFrame]) -> Data:
    found = {name: _table(name, frame) for name, frame in frames.items()}
    return {
        "tables": {name: table for name, (table, _) in found.items()},
        "shortened": {name: said for name, (_, said) in found.items() if said},
    }


def _table(name: str, frame: pd.DataFrame) -> tuple[Columns, str | None]:
    if len(frame) <= LONG.get(name, LONG_ELSE):
        return columns(frame), None
    kept, said = frame, ""
    if name.startswith("geometry_"):
        shown = frame["measure"].isin(names_of_level("module" if name.endswith("module") else "layer"))
        largest = frame.groupby("measure")["k"].transform("max")
        kept = frame.loc[shown & (frame["k"].isna() | (frame["k"] == largest)), [c for c in KEPT if c in frame]]
        if name.endswith("module"):
            kept = kept[[c for c in KEPT if c in kept and not c.startswith("chance")]]
        elif name.endswith("layer"):
            kept = kept.drop(columns=["low", "high"], errors="ignore")
        said = "the measures that this page draws, at the largest k, without further baselines; "
    elif name == "training_curves":
        every = max(1, int(frame["step"].max()) // STEPS)
        last = frame.groupby(["run", "metric"])["step"].transform("max")
        kept = frame[(frame["step"] % every == 0) | (frame["step"] == last) | (frame["metric"] == "kl_to_base")]
        said = f"every {every}th step and the last; "
    return columns(kept, DIGITS), f"{said}{DIGITS} significant digits; the whole table is tables/{name}.csv"


def _spectra(frame: pd.DataFrame) -> Data:
    """Singular values, largest first: by module, then by run."""
    digits = DIGITS if len(frame) > LONG_ELSE else None
    values: dict[str, dict[str, list[float | None]]] = {}
    for (module, run), rows in frame.groupby(["module", "run"], sort=False):
        values.setdefault(str(module), {})[str(run)] = numbers(rows["value"].to_numpy(float), digits)
    return values
