"""Online runs and replays through the real Snakemake, at the smoke study's size: from a few lines to the report."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import planned, snakemake

STUDY = """
extends: smoke
runs:
  rft: null
  rift: null
  offline_grpo: null
  whole: null
  dpo_as_long: null
  grpo: {method: online_grpo, snapshots: [2], kl_every: null}  # the KL's job reads the rollouts
  distilled: {method: on_policy_distillation}
  replay: {method: sft, rollouts_of: grpo, kl_every: null}
methods:
  online_grpo: {group: 4, max_tokens: 48}
  on_policy_distillation: {group: 4, max_tokens: 48}
"""


@pytest.fixture(scope="module")
def sampled(finished: Path) -> Path:
    (finished / "studies" / "sampled.yaml").write_text(STUDY)
    done = snakemake(finished, "--config", "study=sampled")
    assert done.returncode == 0, done.stdout + done.stderr
    return finished


def test_they_are_trained_answered_compared_and_shown_as_any_run(sampled: Path) -> None:
    results = sampled / "results" / "sampled"
    training = pd.read_csv(results / "tables" / "training.csv").set_index("run")
    assert training["method"].to_dict() == {
        **{"sft": "sft", "dpo": "dpo", "grpo": "online_grpo"},
        **{"distilled": "on_policy_distillation", "replay": "sft"},
    }
    assert training.loc["grpo", "unit"] == "completions"
    assert training.loc[["grpo", "distilled"], "rows"].tolist() == [24, 24]  # 3 steps of 8
    curves = pd.read_csv(results / "tables" / "training_curves.csv")
    assert {"reward", "mixed_groups", "entropy"} <= set(curves[curves["run"] == "grpo"]["metric"])
    pairs = pd.read_csv(results / "tables" / "geometry_global.csv").query("measure == 'cosine'")
    assert {("distilled", "grpo"), ("grpo", "sft")} <= set(zip(pairs["a"], pairs["b"], strict=True))
    scores = pd.read_csv(results / "tables" / "accuracy.csv")
    assert {"grpo", "distilled", "replay"} <= set(scores["model"])
    page = (results / "report.html").read_text()
    assert "Online GRPO" in (results / "details.md").read_text()
    assert '"grpo"' in page


def test_the_replay_reads_what_the_run_has_drawn(sampled: Path) -> None:
    runs = sampled / "results" / "sampled" / "runs"
    drawn = pd.read_parquet(runs / "grpo" / "samples.parquet")
    replay = json.loads((runs / "replay" / "selection.json").read_text())
    assert (replay["rows"], replay["selected"], replay["correct"]) == (24, 24, int(drawn["reward"].sum()))
    provenance = json.loads((sampled / "results" / "sampled" / "provenance.json").read_text())
    assert {"train/grpo", "train/distilled", "train/replay"} <= set(provenance["jobs"])
    assert {"runs/grpo/samples.parquet", "runs/grpo/snapshots/2.safetensors"} <= set(provenance["results"])


def test_other_rollouts_are_no_reason_to_draw_again(sampled: Path) -> None:
    assert planned(sampled, "study=sampled") == Counter()
    of_others = planned(sampled, "study=sampled", "rollouts={seed: 1}")
    assert of_others["train"] == 2  # sft and dpo
    assert "train_online_with_snapshots" not in of_others
    anew = planned(sampled, "study=sampled", "online={seed: 1}")
    assert (anew["train_online"], anew["train_online_with_snapshots"], anew["train"]) == (1, 1, 1)
    graded = planned(sampled, "study=sampled", "grading={rewards: math_verify}")
    assert (graded["train_online"], graded["train"]) == (1, 3)
