"""A method and a measure of one's own, as docs/extending.md writes them: a file and a block, a file and a rule."""

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest
import yaml

from deltageom.study.layers import merge
from tests.conftest import BIN, ROOT, SMOKE, environment, planned, snakemake


def blocks(title: str) -> list[str]:
    """The code of a section of the page."""
    page = (ROOT / "docs" / "extending.md").read_text()
    section = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"```(?:python|yaml)\n(.*?)```", section, flags=re.DOTALL)


@pytest.fixture(scope="module")
def extended(smoke_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished smoke study with both, run again, without the run that this measure does not take."""
    project = tmp_path_factory.mktemp("own") / "project"
    shutil.copytree(smoke_study, project, symlinks=True)
    method, runs = blocks("A method")
    measure, rule = blocks("A measure")
    (project / "src/deltageom/methods/half_sft.py").write_text(method)
    (project / "src/deltageom/measures/where.py").write_text(measure)
    (project / "workflow/rules/where.smk").write_text(rule)
    study = merge(yaml.safe_load(SMOKE), yaml.safe_load(runs))
    study["runs"]["whole"] = None
    # those that config.yaml leaves out, and the pooling that reads answers
    on_easy = {"benchmark": "easy", "problems": 8, "batch_size": 8}
    study["measures"]["held_out_paths"] = on_easy | {"points": 3, "from_base": True, "accuracy": [0, 1]}
    study["measures"]["attribution"] = study["measures"]["logit_lens"] = on_easy
    study["measures"]["loss_plane"] = on_easy | {"models": ["base", "sft", "half"], "points": 3, "margin": 0.1}
    study["measures"]["cka"]["pooling"] = "completion"
    (project / "studies/smoke.yaml").write_text(yaml.safe_dump(study))
    done = snakemake(project, "--config", "study=smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def test_the_method_is_trained_scored_and_compared(extended: Path) -> None:
    results = extended / "results" / "smoke"
    training = pd.read_csv(results / "tables" / "training.csv").set_index("run")
    assert training.loc["half", "method"] == "half_sft"
    assert training.loc["half", "options"] == "share=0.25"
    curves = pd.read_csv(results / "tables" / "training_curves.csv")
    first = curves[(curves["step"] == 1) & (curves["metric"] == "loss")].set_index("run")["value"]
    assert first["half"] == pytest.approx(first["sft"] / 4, rel=1e-6)
    assert "half" in pd.read_csv(results / "tables" / "cosine_matrix.csv").columns
    assert "Half SFT: the negative log-likelihood of every rollout, scaled" in (results / "details.md").read_text()


def test_a_measure_that_a_study_turns_on_is_in_it(extended: Path) -> None:
    results = extended / "results" / "smoke"
    table = pd.read_csv(results / "tables" / "held_out_paths.csv")
    answers = {path.parent.name: path for path in results.glob("graded/*/easy.jsonl")}
    solved = {
        model: {row["problem_id"] for row in map(json.loads, path.open()) if row["correct"]}
        for model, path in answers.items()
    }
    problems = [row["problem_id"] for row in map(json.loads, answers["base"].open())][:8]
    for (a, b), rows in table.groupby(["a", "b"]):
        assert rows["n"].tolist() == 3 * [len((solved[a] | solved[b]) & set(problems))]
    pairs = set(zip(table["a"], table["b"], strict=True))
    assert pairs == {
        (a, b) for a, b in combinations(sorted(set(solved) - {"base"}), 2) if (solved[a] | solved[b]) & set(problems)
    }
    assert "## Mode connectivity on held-out answers" in (results / "details.md").read_text()
    assert (results / "figures" / "held_out_paths.svg").is_file()


def test_the_options_of_a_measure_are_in_it(extended: Path) -> None:
    """The ends of every path are as accurate as the evaluation found them, which is greedy."""
    results = extended / "results" / "smoke"
    solved = {
        path.parent.name: [row["correct"] for row in map(json.loads, path.open())][:8]
        for path in results.glob("graded/*/easy.jsonl")
    }
    runs = sorted(pd.read_csv(results / "tables" / "training.csv")["run"])
    table = pd.read_csv(results / "tables" / "held_out_accuracy.csv").set_index(["a", "b", "alpha"])["accuracy"]
    pairs = [*combinations(runs, 2), *((run, "base") for run in runs)]
    assert table.to_dict() == {
        (a, b, alpha): sum(solved[end]) / 8 for a, b in pairs for alpha, end in ((1.0, a), (0.0, b))
    }
    from_base = pd.read_csv(results / "tables" / "held_out_from_base.csv")
    assert set(from_base["b"]) <= {"base"}
    assert set(from_base["a"]) == {run for run in runs if any(solved[run] + solved["base"])}
    details = (results / "details.md").read_text()
    for name, title in (
        ("held_out_from_base", "Mode connectivity from the base"),
        ("held_out_accuracy", "Accuracy between updates"),
    ):
        assert f"## {title}" in details
        assert (results / "figures" / f"{name}.svg").is_file()
        records = json.loads((results / "provenance.json").read_text())["jobs"]
        assert {f"{name}/{run}" for run in runs} <= records.keys()


def test_further_measures_that_a_study_turns_on_are_in_it(extended: Path) -> None:
    results = extended / "results" / "smoke"
    details = (results / "details.md").read_text()
    for name, title in (
        ("attribution", "Where an update acts"),
        ("logit_lens", "Prediction depth"),
        ("loss_plane", "Loss on a plane"),
    ):
        assert f"## {title}" in details
        assert (results / "tables" / f"{name}.csv").is_file()
        assert (results / "figures" / f"{name}.svg").is_file()
        assert name in (results / "report.html").read_text()
    depths = pd.read_csv(results / "tables" / "logit_lens.csv")
    assert set(depths["run"]) >= {"sft", "half", "dpo"}
    assert (depths["n"] == 8).all()
    assert "pooling: completion" in details


def test_the_measure_has_its_table_figure_words_and_provenance(extended: Path) -> None:
    results = extended / "results" / "smoke"
    table = pd.read_csv(results / "tables" / "where.csv")
    runs = set(pd.read_csv(results / "tables" / "training.csv")["run"])
    assert table.groupby("run")["share"].sum().to_dict() == pytest.approx(dict.fromkeys(runs, 1.0))
    assert (results / "figures" / "where.svg").is_file()
    details = (results / "details.md").read_text()
    assert "## Where the updates lie" in details
    assert "](figures/where.png)" in details
    assert {f"where/{run}" for run in runs} <= json.loads((results / "provenance.json").read_text())["jobs"].keys()


def test_both_are_typed(extended: Path) -> None:
    files = ["methods/half_sft.py", "measures/where.py"]
    done = subprocess.run(
        [BIN / "mypy", "--config-file", ROOT / "pyproject.toml", *(f"src/deltageom/{file}" for file in files)],
        cwd=extended, env=environment(extended), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_nothing_is_left_to_do(extended: Path) -> None:
    assert "Nothing to be done" in snakemake(extended, "-n", "--config", "study=smoke").stdout


def test_an_option_of_a_measure_reruns_its_own_jobs_alone(extended: Path) -> None:
    last = dict.fromkeys(("tables", "figures", "summary", "provenance", "page"), 1)
    off = planned(extended, "measures={held_out_paths: {from_base: false, accuracy: null}}")
    assert off == last
    assert planned(extended, "measures={held_out_paths: {accuracy: [0, 0.5]}}") == last | {"held_out_accuracy": 7}
    assert planned(extended, "runs={rift: {learning_rate: 1.0e-3}}")["held_out_from_base"] == 1
