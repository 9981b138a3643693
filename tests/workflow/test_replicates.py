"""Replicates through the real Snakemake: what is computed, what the tables over them say, and what an edit reruns."""

import json
import re
import shutil
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import BIN, FULL, environment, snakemake

TWICE = """
extends: smoke
replicates: {count: 2}
runs: {offline_grpo: null, rift: null, dpo_as_long: null, whole: null}
benchmarks: {hard: null, hard_sampled: null}
"""


@pytest.fixture(scope="module")
def twice(smoke_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A child of the finished smoke study with two replicates of three runs."""
    project = tmp_path_factory.mktemp("twice") / "project"
    shutil.copytree(smoke_study, project, symlinks=True)
    (project / "studies" / "twice.yaml").write_text(TWICE)
    done = snakemake(project, "--config", "study=twice")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def planned(project: Path) -> Counter[str]:
    done = snakemake(project, "--dry-run", FULL, "--config", "study=twice")
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = Counter(re.findall(r"^(?:local)?rule (\w+):$", done.stdout + done.stderr, flags=re.MULTILINE))
    return Counter({rule: n for rule, n in jobs.items() if rule != "all"})


def table(project: Path, name: str, replicate: int = 1) -> pd.DataFrame:
    folder = project / "results" / "twice" / (f"replicates/{replicate}" if replicate > 1 else "")
    return pd.read_csv(folder / "tables" / f"{name}.csv", keep_default_na=False, na_values=[""])


def test_each_replicate_draws_its_own_and_shares_the_rest(twice: Path) -> None:
    results = twice / "results"
    own = {path.name for path in (results / "twice" / "replicates" / "2").iterdir()}
    assert {"rollouts", "runs", "tables", "provenance.json"} <= own
    assert not {"base", "teacher", "problems"} & own
    paths = (results / of / "rollouts" / "rollouts.parquet" for of in ("smoke", "twice/replicates/2"))
    rollouts = [pd.read_parquet(path) for path in paths]
    assert (rollouts[0]["text"] != rollouts[1]["text"]).any()
    one, two = table(twice, "training"), table(twice, "training", 2)
    assert (two["seed"] - one["seed"]).unique().tolist() == [1000]
    assert (two["init_seed"] - one["init_seed"]).unique().tolist() == [1000]
    assert two["run"].tolist() == one["run"].tolist()


def test_the_table_over_replicates_is_of_both(twice: Path) -> None:
    found = table(twice, "replicates")
    cosines = [table(twice, "geometry_global", n).query("measure == 'cosine'").set_index(["a", "b"]) for n in (1, 2)]
    for _, row in found.query("source == 'geometry_global' and measure == 'cosine'").iterrows():
        values = [of["value"][row["a"], row["b"]] for of in cosines]
        assert (row["n"], row["mean"]) == (2, pytest.approx(np.mean(values)))
        assert row["sd"] == pytest.approx(np.std(values, ddof=1))
        assert (row["smallest"], row["largest"]) == (min(values), max(values))
        assert np.isnan(row["low"])  # two replicates have no interval
    scores = [table(twice, "accuracy", n).set_index("model")["accuracy"] for n in (1, 2)]
    accuracies = found.query("source == 'accuracy'").set_index("a")["mean"]
    assert accuracies.to_dict() == pytest.approx(((scores[0] + scores[1]) / 2).to_dict())
    differences = table(twice, "replicate_differences").query("measure == 'cosine'")
    assert len(differences) == 1  # of rft and dpo, which are held against sft
    assert not differences["can_show"].any()


def test_the_summary_begins_with_them(twice: Path) -> None:
    summary, page = ((twice / "results" / "twice" / name).read_text() for name in ("summary.md", "details.md"))
    assert summary.startswith("# Study twice\n\n## In short\n")
    assert "2 replicates, each with the rollouts, the order of the data and the initial A drawn anew" in summary
    assert "Means over 2 replicates" in summary
    assert page.index("## Over the replicates") < page.index("## What was compared")
    assert "2 replicates cannot show a difference" in page
    assert "](figures/replicates.png)" in page


def test_both_have_their_provenance(twice: Path) -> None:
    folder = twice / "results" / "twice"
    whole, two = (json.loads((path / "provenance.json").read_text()) for path in (folder, folder / "replicates" / "2"))
    assert "replicates/2/provenance.json" in whole["results"]
    assert "replicates" in whole["jobs"]
    assert two["study"] == "twice/replicates/2"
    assert two["jobs"]["pretrain"]["study"] == "smoke"
    assert two["jobs"]["train/sft"]["study"] == "twice/replicates/2"
    assert two["seeds"]["runs.sft.training.seed"] == 1042
    done = snakemake(twice, "--dry-run", "--config", "study=twice")
    assert "Nothing to be done" in done.stdout + done.stderr


def test_one_more_replicate_and_a_changed_run(twice: Path) -> None:
    study = twice / "studies" / "twice.yaml"
    try:
        study.write_text(TWICE.replace("count: 2", "count: 3"))
        again = planned(twice)
        assert (again["train"], again["rollouts"], again["replicate_tables"]) == (3, 1, 1)
        assert again["tables"] == again["pretrain"] == 0
        study.write_text(TWICE.replace("runs: {", "runs: {rft: {learning_rate: 1.0e-3}, "))
        again = planned(twice)
        assert (again["train"], again["tables"], again["replicate_tables"], again["replicates"]) == (2, 1, 1, 1)
        assert again["rollouts"] == again["teacher"] == 0
    finally:
        study.write_text(TWICE)


def test_a_replicate_is_packed_with_its_study(twice: Path, tmp_path: Path) -> None:
    archive = tmp_path / "twice.tar"
    done = subprocess.run(
        [BIN / "deltageom", "pack", "twice", "--output", archive],
        cwd=twice, env=environment(twice), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert "results/twice/replicates/2/tables/accuracy.csv" in names
    assert "results/smoke/base/model.safetensors" in names
