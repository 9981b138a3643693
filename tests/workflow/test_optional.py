"""Measures that a study turns on: only their jobs are planned, and their results are in every part of the report."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd

from tests.conftest import planned, snakemake

ADAPTED = ["dpo", "dpo_as_long", "offline_grpo", "rft", "rift", "sft"]
DUE = ("gradients", "gradients_pairs", "behaviour", "representations", "representations_pairs")
LAST = dict.fromkeys(("tables", "figures", "summary", "provenance", "page"), 1)
BEFORE = """
extends: smoke
measures:
  gradients: {batches: 2}
  behaviour: {benchmark: easy, prompts: 4, max_tokens: 8, batch_size: 3, seed: 0}
  representations: {resamples: 100, seed: 0}
"""


def test_they_are_off_until_a_study_turns_them_on(finished: Path) -> None:
    results = finished / "results" / "smoke"
    for name in DUE:
        assert not list(results.rglob(f"{name}.*"))
    (finished / "studies" / "before.yaml").write_text(BEFORE)
    jobs = {"base_gradient": 6, "gradients": 6, "behaviour": 7, "hidden_states": 1, "representations": 7, **LAST}
    assert planned(finished, "study=before") == Counter(jobs)

    done = snakemake(finished, "--config", "study=before")
    assert done.returncode == 0, done.stdout + done.stderr
    assert planned(finished, "study=before") == Counter()
    results = finished / "results" / "before"
    tables = {name: pd.read_csv(results / "tables" / f"{name}.csv") for name in DUE}
    pairs = tables["gradients_pairs"]
    assert sorted(tables["gradients"]["run"].unique()) == ADAPTED  # a run without an adapter is left out
    assert len(pairs.groupby(["a", "b"])) == 15
    assert sorted(tables["behaviour"]["run"]) == sorted([*ADAPTED, "whole"])
    assert sorted(tables["representations"]["run"].unique()) == sorted([*ADAPTED, "whole"])
    assert len(tables["representations_pairs"].groupby(["a", "b"])) == 21
    assert (tables["representations"]["shift"] > 0).all()
    # the cosine of the trained updates is the geometry's
    cosines = pd.read_csv(results / "tables" / "geometry_global.csv").query("measure == 'cosine'")
    known = cosines.set_index(["a", "b"])["value"]
    over_all = pairs[pairs["layer"].isna()].set_index(["a", "b"])["delta"]
    assert (over_all - known[over_all.index]).abs().max() < 1e-6
    assert pairs.drop(columns=["layer", "module"]).notna().all(axis=None)

    details, page = ((results / name).read_text() for name in ("details.md", "report.html"))
    for name in ("gradients", "behaviour", "representations"):
        assert f"](figures/{name}.png)" in details
        assert (results / "figures" / f"{name}.svg").exists()
        assert f'"{name}"' in page
    assert "Left out, because they have no adapter whose A the others could share: whole." in details
    provenance = json.loads((results / "provenance.json").read_text())["jobs"]
    assert {f"base_gradient/{run}" for run in ADAPTED} <= set(provenance)
    assert {"hidden_states/base", "representations/whole"} <= set(provenance)
    assert not list((results / "shards").rglob("*"))
