"""Snapshots and their measure through the real Snakemake: from a study's two lines to the tables, and no further."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import SMOKE, planned, snakemake

RUNS = ["dpo", "dpo_as_long", "sft"]
# The smoke study's whole run is trained without snapshots, so it is the smoke study's own.
STUDY = """
extends: smoke
training: {snapshots: [1, 3]}
runs: {rft: null, rift: null, offline_grpo: null, whole: {method: sft, adapter: none, snapshots: null}}
measures: {trajectory: {}}
"""


@pytest.fixture(scope="module")
def followed(finished: Path) -> Path:
    (finished / "studies" / "followed.yaml").write_text(STUDY)
    done = snakemake(finished, "--config", "study=followed")
    assert done.returncode == 0, done.stdout + done.stderr
    return finished


def test_runs_end_as_they_do_without_snapshots(followed: Path) -> None:
    with_, without = (followed / "results" / name / "runs" for name in ("followed", "smoke"))
    assert sorted(path.name for path in with_.iterdir()) == RUNS
    for run in RUNS:
        weights = (with_ / run / "adapter_model.safetensors").read_bytes()
        assert weights == (without / run / "adapter_model.safetensors").read_bytes()
        kept = {path.name: path.read_bytes() for path in (with_ / run / "snapshots").iterdir()}
        assert sorted(kept) == ["1.safetensors", "3.safetensors"]
        assert (kept["3.safetensors"] == weights) is (run != "dpo_as_long")  # which is scaled afterwards


def test_the_tables_figure_and_words_are_of_the_runs_with_snapshots(followed: Path) -> None:
    results = followed / "results" / "followed"
    tables = {name: pd.read_csv(results / "tables" / f"{name}.csv") for name in ("trajectory", "trajectory_pairs")}
    of_run, of_pair = (table[table["layer"].isna()] for table in tables.values())
    assert set(of_run["run"]) == set(RUNS)
    assert (of_run.loc[of_run["step"] == 3, "cosine_to_end"] > 1 - 1e-9).all()
    assert list(zip(of_pair["a"], of_pair["b"], of_pair["step"], strict=True)) == [
        (a, b, step) for a, *others in (RUNS, RUNS[1:]) for step in (1, 3) for b in others
    ]
    # after the last step the pairs are those of the geometry
    geometry = pd.read_csv(results / "tables" / "geometry_global.csv").query("measure == 'cosine'")
    ends = geometry.set_index(["a", "b"])["value"]
    for row in of_pair[of_pair["step"] == 3].itertuples():
        assert row.cosine == pytest.approx(ends[row.a, row.b], abs=1e-6)
    assert (results / "figures" / "trajectory.svg").is_file()
    details = (results / "details.md").read_text()
    assert "## Along the training" in details
    assert "](figures/trajectory.png)" in details
    provenance = json.loads((results / "provenance.json").read_text())
    assert {f"trajectory/{run}" for run in RUNS} == {job for job in provenance["jobs"] if job.startswith("trajectory/")}
    assert "runs/sft/snapshots/1.safetensors" in provenance["results"]


def test_a_lost_snapshot_is_made_again_and_nothing_else_is_to_do(followed: Path) -> None:
    assert "Nothing to be done" in snakemake(followed, "-n", "--config", "study=followed").stdout
    assert planned(followed) == Counter()  # the smoke study: its own runs are as they were
    lost = followed / "results" / "followed" / "runs" / "dpo" / "snapshots" / "1.safetensors"
    shutil.move(lost, lost.with_suffix(".aside"))
    try:
        asked = f"results/followed/runs/dpo/snapshots/{lost.name}"
        done = snakemake(followed, "-n", "--config", "study=followed", "--", asked)
        assert "train_with_snapshots" in done.stdout, done.stdout + done.stderr
    finally:
        shutil.move(lost.with_suffix(".aside"), lost)


def test_a_study_without_snapshots_has_neither_files_nor_jobs_of_them(finished: Path) -> None:
    assert "snapshots" not in SMOKE
    results = finished / "results" / "smoke"
    assert not list(results.glob("runs/*/snapshots"))
    assert not (results / "trajectory").exists()
    assert not (results / "tables" / "trajectory.csv").exists()
