"""Derived runs through the real Snakemake: in every table, and redone with what they are made from alone."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deltageom.deltas.open import open_run
from tests.conftest import FULL, snakemake

PARTS = """
extends: smoke
runs: {rft: null, rift: null, whole: null, dpo_as_long: null}
derived:
  along: {of: offline_grpo, keep: sft, project: module, norm_of: sft}
  late: {of: sft, layers: [2, 3], rank: 2}
  rest: {of: offline_grpo, remove: sft}
  rest_and_dpo: {sum: {rest: 0.5, dpo: 2.0}}
"""
RUNS = ["along", "dpo", "late", "offline_grpo", "rest", "rest_and_dpo", "sft"]
LAST = {"geometry": 4, "tables": 1, "figures": 1, "summary": 1, "provenance": 1, "page": 1}


@pytest.fixture(scope="module")
def parts(finished: Path) -> Path:
    """The project, in which the study of derived runs has run after the smoke study, which has its trained ones."""
    (finished / "studies" / "parts.yaml").write_text(PARTS)
    done = snakemake(finished, "--config", "study=parts")
    assert done.returncode == 0, done.stdout + done.stderr
    return finished


def planned(project: Path, text: str = PARTS, study: str = "parts") -> Counter[str]:
    """By rule and by what it is of, the jobs of a dry run with this file of the study."""
    path = project / "studies" / "parts.yaml"
    path.write_text(text)
    try:
        done = snakemake(project, "--dry-run", FULL, "--config", f"study={study}")
    finally:
        path.write_text(PARTS)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^(?:local)?rule (\w+):\n(.*?)(?=^\[|\Z)", done.stdout + done.stderr, re.MULTILINE | re.DOTALL)
    of = {rule: re.compile(r"^ +wildcards: .*?\brun=([^,\n]+)", re.MULTILINE) for rule in ("train", "derive")}
    return Counter(
        f"{rule} {of[rule].search(body)[1]}" if rule in of else rule  # type: ignore[index]
        for rule, body in found
        if rule != "all"
    )


def follows(*changed: str) -> dict[str, int]:
    """What reads these runs' updates."""
    pairs = {a for i, a in enumerate(RUNS) for b in RUNS[i + 1 :] if {a, b} & set(changed)}
    of_each = dict.fromkeys(("evaluate", "grade", "hidden_states"), len(changed))
    return {**of_each, "connectivity": len(pairs), "cka": len(pairs), **LAST}


def dense(project: Path, run: str, study: str = "parts") -> dict[str, np.ndarray]:
    delta = open_run(project / "results" / study / "runs" / run)
    return {module: delta.read(module).dense() for module in delta.modules}


def test_the_updates_are_what_the_recipes_say(parts: Path) -> None:
    sft, grpo, dpo = (dense(parts, run, "smoke") for run in ("sft", "offline_grpo", "dpo"))
    rest, late, both = (dense(parts, run) for run in ("rest", "late", "rest_and_dpo"))
    c = sum(np.sum(grpo[m] * sft[m]) for m in sft) / sum(np.sum(sft[m] ** 2) for m in sft)
    for module in sft:
        size = np.linalg.norm(grpo[module])
        np.testing.assert_allclose(rest[module], grpo[module] - c * sft[module], atol=1e-6 * size)
        np.testing.assert_allclose(both[module], 0.5 * rest[module] + 2 * dpo[module], atol=1e-6 * size)
        assert np.linalg.matrix_rank(late[module], tol=1e-6 * size) == (2 if module[7] in "23" else 0)


def test_they_are_in_every_table(parts: Path) -> None:
    folder = parts / "results" / "parts" / "tables"
    tables = {path.stem: pd.read_csv(path) for path in folder.glob("*.csv")}
    training = tables["training"].set_index("run")
    assert list(training.index) == ["sft", "offline_grpo", "dpo", "along", "late", "rest", "rest_and_dpo"]
    assert list(training["method"])[3:] == ["derived"] * 4
    assert training.loc["rest", "options"] == "offline_grpo without its projection on sft"
    assert set(tables["training_curves"]["run"]) == {"sft", "offline_grpo", "dpo"}
    assert set(tables["accuracy"]["model"]) == {"base", *RUNS}
    compared = tables["comparisons"]
    for parent in ("sft", "offline_grpo"):
        assert ({"rest", parent} == compared[["a", "b"]].apply(set, axis=1)).sum() == 3  # on each benchmark
    for name in ("barriers", "cka", "geometry_global", "geometry_module"):
        assert {*tables[name]["a"], *tables[name]["b"].dropna()} == set(RUNS)
    rows = tables["derived"].set_index(["run", "parent"])
    assert abs(rows.loc[("rest", "sft"), "cosine"]) < 1e-7
    assert rows.loc[("along", "sft"), "norm"] == pytest.approx(rows.loc[("along", "sft"), "parent_norm"], rel=1e-6)
    of_pair = tables["geometry_global"].query("a == 'offline_grpo' and b == 'sft' and measure == 'cosine'")
    assert rows.loc[("rest", "offline_grpo"), "cosine"] ** 2 + of_pair["value"].iloc[0] ** 2 == pytest.approx(1)
    assert set(rows.index.get_level_values("parent")) == {"sft", "offline_grpo", "rest", "dpo"}


def test_the_report_and_the_provenance_have_them(parts: Path) -> None:
    results = parts / "results" / "parts"
    details = (results / "details.md").read_text()
    section = details.partition("## Derived runs")[2].partition("\n## ")[0]
    assert "rest" in section
    assert "0.5 rest + 2 dpo" in section.replace("\\", "") or "2 dpo + 0.5 rest" in section.replace("\\", "")
    assert "rest_and_dpo" in (results / "report.html").read_text()
    merged = json.loads((results / "provenance.json").read_text())
    assert {name for name in merged["jobs"] if name.startswith("derive/")} == {
        *("derive/along", "derive/late", "derive/rest", "derive/rest_and_dpo")
    }
    told = merged["job_settings"][merged["jobs"]["derive/late"]["settings"]]
    assert told == {"of": "sft", "layers": [2, 3], "rank": 2}
    assert "runs/rest/adapter_model.safetensors" in merged["results"]
    assert not (results / "runs" / "sft").exists()  # the smoke study's


def test_an_edit_reruns_what_follows_from_it(parts: Path) -> None:
    assert planned(parts) == Counter()
    assert planned(parts, study="smoke") == Counter()
    edited = planned(parts, PARTS.replace("rank: 2", "rank: 3"))
    assert edited == Counter({"derive late": 1, **follows("late")})
    edited = planned(parts, PARTS.replace("remove: sft", "remove: dpo"))
    assert edited == Counter({"derive rest": 1, "derive rest_and_dpo": 1, **follows("rest", "rest_and_dpo")})
    assert planned(parts, PARTS.replace("keep: sft, project: module", "project: module, keep: sft")) == Counter()


def test_a_parent_that_changes_takes_its_children_along(parts: Path) -> None:
    again = planned(parts, PARTS.replace("whole: null", "whole: null, dpo: {learning_rate: 1.0e-3}"))
    assert again == Counter({"train dpo": 1, "derive rest_and_dpo": 1, **follows("dpo", "rest_and_dpo")})


def test_a_new_one_and_none_any_more(parts: Path) -> None:
    more = planned(parts, PARTS + "  zero: {of: sft, remove: sft}\n")
    of_one = dict.fromkeys(("derive zero", "evaluate", "grade", "hidden_states"), 1)
    assert more == Counter({**of_one, "connectivity": 7, "cka": 7, **LAST})
    none = planned(parts, PARTS.partition("derived:")[0])
    assert {job.partition(" ")[0] for job in none} == {"connectivity", "cka", *LAST}


def test_a_mistake_stops_before_any_job(parts: Path) -> None:
    (parts / "studies" / "wrong.yaml").write_text("extends: parts\nderived: {late: {of: gone}}\n")
    done = snakemake(parts, "--config", "study=wrong")
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert "studies/wrong.yaml: derived.late.of 'gone' is none of the runs: sft, " in output
    assert "Traceback" not in output
    assert not (parts / "results" / "wrong").exists()
