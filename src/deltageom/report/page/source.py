"""What a page is made from: the files of a study's folder of results, as far as they are there."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from deltageom.display.table_files import read_tables
from deltageom.errors import UserError
from deltageom.measures.interface import chosen
from deltageom.report import results
from deltageom.report.tables.training import training_curves
from deltageom.study.replicates import FOLDER as REPLICATES

# what the page cannot do without, of the tables that it draws; a table of another version may lack it
COLUMNS = {
    "accuracy": ("model", "benchmark", "n", "samples", "accuracy", "interval", "low", "high"),
    "comparisons": ("benchmark", "a", "b", "n", "difference", "low", "high", "p", "family", "p_holm", "q_bh"),
    "training": ("run", "method"),
    "training_curves": ("run", "step", "metric", "value"),
    **{f"geometry_{level}": ("a", "b", "measure", "k", "value") for level in ("module", "layer", "global")},
    "cka": ("a", "b", "layer", "estimator", "similarity"),
    "connectivity": ("a", "b", "alpha", "loss"),
    "trajectory_pairs": ("a", "b", "layer", "step", "cosine", "norm_a", "norm_b"),
    "barriers": ("a", "b", "chord", "chord_low", "chord_high"),
}
SPECTRA = ["module", "layer", "run", "index", "value"]


@dataclass(frozen=True)
class Source:
    """A study to be shown.

    tables: by name, see docs/tables.md; settings: the resolved study, None where there is no study; provenance: its
    provenance.json; spectra: a row per singular value, columns SPECTRA; graded: the records of each (model, benchmark);
    replicates: geometry_global of the replicates after the first; missing: what is not there, in words. Of adapters
    from anywhere, without a study: reference, the run that the others are shown against, and notes on them.
    """

    name: str
    tables: Mapping[str, pd.DataFrame]
    settings: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] | None = None
    spectra: pd.DataFrame | None = None
    graded: Mapping[tuple[str, str], Path] = field(default_factory=dict)
    replicates: Sequence[pd.DataFrame] = ()
    missing: Sequence[str] = ()
    reference: str | None = None
    notes: Sequence[str] = ()

    def is_study(self) -> bool:
        return self.reference is None


def read(folder: Path) -> Source:
    """A study's folder of results, finished or not. Raises UserError if it is none, or is of another version."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: give a study's folder of results, results/NAME")
    provenance = _provenance(folder / "provenance.json")
    tables = read_tables(folder / "tables")
    for name, columns in COLUMNS.items():
        if name in tables and (lacking := [column for column in columns if column not in tables[name]]):
            raise UserError(
                f"{folder / 'tables' / name}.csv: has no column {lacking[0]!r}: another version of deltageom made it; "
                "run the study again with this one"
            )
    if "training_curves" not in tables and (curves := _curves(folder)):
        tables["training_curves"] = training_curves(curves)
    graded = {} if provenance is None and not tables else _graded(folder, provenance)
    if not tables and not graded:
        raise UserError(f"{folder}: has neither tables nor training curves yet: run the study first")
    return Source(
        name=str(provenance["study"]) if provenance else folder.resolve().name,
        tables=tables,
        settings=provenance["settings"] if provenance else None,
        provenance=provenance,
        spectra=spectra(_geometry(folder, provenance)),
        graded=graded,
        replicates=_replicates(folder),
        missing=_missing(provenance, tables, graded),
    )


def spectra(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame | None:
    """The singular values in the records of modules (see `geometry.record.record`); None without a record."""
    rows = [
        (module["module"], module["layer"], run["run"], index, value)
        for module in records
        for run in module["runs"]
        for index, value in enumerate(run["singular_values"], 1)
    ]
    return pd.DataFrame(rows, columns=SPECTRA) if rows else None


def _provenance(path: Path) -> dict[str, Any] | None:
    """None where there is no such file: the study is not finished."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        settings = found["settings"]
        for section, key in (("measures", "compare_with"), ("replicates", "count"), ("replicates", "vary")):
            settings[section][key]
        str(found["study"]), found["jobs"].items(), found["results"].items()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f" (it has no {error})" if isinstance(error, KeyError) else ""
        raise UserError(
            f"{path}: is no provenance of a study of this version of deltageom{what}: run the study again with it"
        ) from None
    return found


def _place(folder: Path, provenance: Mapping[str, Any] | None, job: str) -> Path:
    """The folder that has a job's files: the study's own, or that of one that it extends or is a replicate of."""
    if provenance is None:
        return folder
    study = str(provenance["study"])
    owner = str((provenance["jobs"].get(job) or {}).get("study") or study)
    if owner == study or ".." in Path(owner).parts:
        return folder
    return folder.joinpath(*[".."] * len(Path(study).parts), owner)


def _geometry(folder: Path, provenance: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    jobs = [job for job in (provenance["jobs"] if provenance else {}) if job.startswith("geometry/")]
    places = {_place(folder, provenance, job) for job in jobs} or {folder}
    runs = set(_runs(provenance["settings"])) if provenance else None
    records = []
    for place in sorted(places):
        for path in (place / "geometry").glob("*.json"):
            record = json.loads(path.read_bytes())
            kept = [run for run in record["runs"] if runs is None or run["run"] in runs]
            records.append({"module": record["module"], "layer": record["layer"], "runs": kept})
    return sorted(records, key=lambda one: (one["layer"] is None, one["layer"], one["module"]))


def _graded(folder: Path, provenance: Mapping[str, Any] | None) -> dict[tuple[str, str], Path]:
    """Those that are there, the base's first, then in the study's order."""
    if provenance is None:
        found = sorted((folder / "graded").glob("*/*.jsonl"))
        paths = {(path.parent.name, path.stem): path for path in found}
    else:
        settings = provenance["settings"]
        paths = {
            (model, benchmark): _place(folder, provenance, f"grade/{model}") / "graded" / model / f"{benchmark}.jsonl"
            for model in ("base", *_runs(settings))
            for benchmark in settings["benchmarks"]
        }
    return {key: path for key, path in paths.items() if path.is_file()}


def _curves(folder: Path) -> dict[str, pd.DataFrame]:
    """Of the runs that have been trained, of a study that has no tables yet."""
    paths = sorted((folder / "runs").glob("*/metrics.parquet"))
    return {path.parent.name: pd.read_parquet(path) for path in paths}


def _replicates(folder: Path) -> list[pd.DataFrame]:
    found = []
    for number in sorted((path for path in (folder / REPLICATES).glob("*") if path.name.isdecimal()), key=_number):
        tables = read_tables(number / "tables")
        if "geometry_global" in tables:
            found.append(tables["geometry_global"])
    return found


def _runs(settings: Mapping[str, Any]) -> list[str]:
    """Those that were trained and those that were derived from them."""
    return [*settings["runs"], *settings.get("derived", {})]


def _number(path: Path) -> int:
    return int(path.name)


def _missing(
    provenance: Mapping[str, Any] | None,
    tables: Mapping[str, pd.DataFrame],
    graded: Mapping[tuple[str, str], Path],
) -> list[str]:
    known = results.tables(chosen(provenance["settings"]["measures"] if provenance else {}))
    found = [f"tables/{name}.csv ({known[name].section})" for name in known if name not in tables]
    if provenance is None:
        found.append("provenance.json (settings, versions, machines; the answer in sentences needs it)")
    wanted = provenance["settings"]["benchmarks"] if provenance else {}
    models = ["base", *_runs(provenance["settings"])] if provenance else []
    lacking = [f"graded/{m}/{b}.jsonl" for m in models for b in wanted if (m, b) not in graded]
    if lacking or not graded:
        some = f"{lacking[0]} and {len(lacking) - 1} more" if len(lacking) > 1 else (lacking or ["graded/"])[0]
        found.append(f"{some} (graded answers: what the sample browser shows)")
    return found
