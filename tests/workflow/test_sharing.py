"""A study that extends a finished one computes what differs and nothing else. The real Snakemake."""

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import BIN, FULL, SMOKE, environment, snakemake

LAST = {"tables": 1, "figures": 1, "summary": 1, "provenance": 1, "page": 1}
# a measure of pairs is the study's own as a whole: seven files of the eight runs
ONE_RUN = {
    "train": 1,
    "evaluate": 1,
    "grade": 1,
    "hidden_states": 1,
    "connectivity": 7,
    "cka": 7,
    "geometry": 4,
    **LAST,
}
MINE = "runs: {mine: {method: sft, seed: 11}}"


def write(project: Path, name: str, text: str, extends: str = "smoke") -> None:
    (project / "studies" / f"{name}.yaml").write_text(f"extends: {extends}\n{text}\n")


def planned(project: Path, study: str = "child") -> Counter[str]:
    """The jobs of a dry run, by rule; of those that would write to another study's results, by `rule in study`."""
    done = snakemake(project, "--dry-run", FULL, "--config", f"study={study}")
    assert done.returncode == 0, done.stdout + done.stderr
    output = done.stdout + done.stderr
    jobs = re.findall(r"^(?:local)?rule (\w+):\n(?: +input: .*\n)? +output: results/([^/]+)/", output, re.MULTILINE)
    return Counter(rule if owner == study else f"{rule} in {owner}" for rule, owner in jobs)


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project(finished: Path) -> Iterator[Path]:
    """The finished smoke study, whose own file and results are put back."""
    yield finished
    (finished / "studies" / "smoke.yaml").write_text(SMOKE)


Edit = Callable[[Path], None]


def in_parent(**changed: object) -> Edit:
    def edit(project: Path) -> None:
        (project / "studies" / "smoke.yaml").write_text(yaml.safe_dump(yaml.safe_load(SMOKE) | changed))

    return edit


def follows(runs: int, last: int, where: str = "") -> dict[str, int]:
    counts = {"train": runs, "evaluate": runs, "grade": runs, "hidden_states": runs}
    return {rule + where: n for rule, n in counts.items()} | {"connectivity": last, "cka": last, "geometry": 4, **LAST}


ROWS: dict[str, tuple[str, Edit | None, dict[str, int]]] = {
    "one more run": (MINE, None, ONE_RUN),
    "a run with KTO's KL term": ("runs: {mine: {method: kto}}", None, ONE_RUN | {"mismatched": 1}),
    "nothing at all": ("", None, LAST),
    "another family of comparisons": ("statistics: {family: all}", None, LAST),
    "a run's learning rate": ("runs: {rift: {learning_rate: 1.0e-3}}", None, follows(1, 6)),
    "a benchmark": (
        "benchmarks: {more: {source: toy, split: easy, limit: 4}}",
        None,
        {"problems": 1, "decontaminate": 1, "evaluate": 8, "grade": 8, "connectivity": 6, "cka": 6, **LAST},
    ),
    "the parent's training, which is inherited": (
        "",
        in_parent(runs=yaml.safe_load(SMOKE)["runs"] | {"rift": {"learning_rate": 1e-3}}),
        {f"{rule} in smoke": 1 for rule in ("train", "evaluate", "grade", "hidden_states")}
        | {"connectivity in smoke": 5, "cka in smoke": 5, "geometry in smoke": 4, **LAST},
    ),
    "the parent's training, which the child has as it was": (
        "runs: {rift: {learning_rate: 2.0e-3}}",
        in_parent(runs=yaml.safe_load(SMOKE)["runs"] | {"rift": {"learning_rate": 1e-3}}),
        follows(1, 6),
    ),
    "a parent that is broken": (
        "reference: {benchmark: easy}",
        in_parent(reference={"prompts": 4, "max_tokens": 16, "benchmark": "gone"}),
        # smoke's own ancestor has none of its stages
        {"pretrain": 1, "problems": 4, "decontaminate": 1, "teacher": 1, "rollouts": 1, "reward": 1, "reference": 1}
        | {"train": 6, "train_whole": 1, "evaluate": 8, "grade": 8, "base_spectrum": 4}
        | {"hidden_states": 7, "connectivity": 6, "cka": 6, "geometry": 4, **LAST},
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_child_plans_what_differs(project: Path, name: str) -> None:
    text, edit, expected = ROWS[name]
    write(project, "child", text)
    if edit:
        edit(project)
    assert planned(project) == Counter(expected)


def test_what_is_missing_of_the_parent_is_made_where_the_parent_has_it(project: Path) -> None:
    """By the child's Snakemake, with the settings of the parent's own: it has no result to make afterwards."""
    write(project, "child", MINE)
    graded, kept = project / "results" / "smoke" / "graded" / "rft", stamps(project / "results" / "smoke")
    shutil.rmtree(graded)
    assert planned(project) == Counter({**ONE_RUN, "grade in smoke": 1})
    target = graded.relative_to(project) / "easy.jsonl"
    done = snakemake(project, "--config", "study=child", "--", str(target))
    assert done.returncode == 0, done.stdout + done.stderr
    assert planned(project) == Counter(ONE_RUN)
    changed = {path for path, stamp in stamps(project / "results" / "smoke").items() if kept.get(path) != stamp}
    assert {path.relative_to(project / "results" / "smoke").parts[0] for path in changed} == {
        *("graded", "provenance", "logs", "benchmarks")
    }
    # the parent's provenance.json lists the job that has run again: its time, its machine
    assert planned(project, "smoke") == Counter({"provenance": 1, "page": 1})
    assert snakemake(project, "--config", "study=smoke").returncode == 0


def test_a_name_that_another_study_owns_is_no_target(project: Path) -> None:
    """results/smoke/runs/rift is made by the child's settings only where these are smoke's."""
    write(project, "child", "runs: {rift: {learning_rate: 1.0e-3}}")
    target = "results/smoke/runs/rift/selection.json"
    done = snakemake(project, "--dry-run", FULL, "--forceall", "--config", "study=child", "--", target)
    assert "rule train" not in done.stdout + done.stderr


def test_answers_to_the_benchmarks_that_the_parent_has_are_taken_over(project: Path) -> None:
    write(project, "wider", "benchmarks: {more: {source: toy, split: easy, limit: 4}}")
    done = snakemake(project, "--config", "study=wider", "--", "results/wider/evaluation/sft/more.jsonl")
    assert done.returncode == 0, done.stdout + done.stderr
    log = (project / "results" / "wider" / "logs" / "evaluate" / "sft.log").read_text()
    assert "answered: more; kept from before: easy, hard, hard_sampled" in log
    smoke, wider = (project / "results" / study / "evaluation" / "sft" for study in ("smoke", "wider"))
    for name in ("easy", "hard", "hard_sampled"):
        assert (wider / f"{name}.jsonl").read_bytes() == (smoke / f"{name}.jsonl").read_bytes()


def test_two_children_at_once(project: Path) -> None:
    """Both read the parent's results, and neither locks the other out."""
    studies = {"all": "statistics: {family: all}", "few": "statistics: {resamples: 100}"}
    for name, text in studies.items():
        write(project, name, text)
    started = [
        subprocess.Popen(
            [BIN / "snakemake", "--cores", "1", "--config", f"study={name}"],
            cwd=project,
            env=environment(project),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in studies
    ]
    for process in started:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
    assert [planned(project, name) for name in (*studies, "smoke")] == [Counter()] * 3


@pytest.fixture(scope="module")
def child(finished: Path) -> Path:
    """The child of one more run, run."""
    write(finished, "child", MINE)
    before = stamps(finished / "results" / "smoke")
    done = snakemake(finished, "--config", "study=child")
    assert done.returncode == 0, done.stdout + done.stderr
    assert stamps(finished / "results" / "smoke") == before
    return finished


def test_a_child_that_has_run_has_nothing_to_do_nor_has_its_parent(child: Path) -> None:
    assert planned(child) == Counter()
    assert planned(child, "smoke") == Counter()


def test_nothing_is_copied_and_pairs_are_taken_over(child: Path) -> None:
    results = child / "results" / "child"
    assert not (results / "base").exists()
    assert not (results / "rollouts").exists()
    assert [path.name for path in (results / "runs").iterdir()] == ["mine"]
    log = (results / "logs" / "geometry" / "0.log").read_text()
    assert re.findall(r"(\d+) pairs measured, (\d+) kept", log) == [("7", "21")] * 4


def test_the_tables_are_of_all_runs(child: Path) -> None:
    for study, runs in (("smoke", 7), ("child", 8)):
        rows = (child / "results" / study / "tables" / "training.csv").read_text().splitlines()
        assert len(rows) == 1 + runs


def test_provenance_says_whose_each_record_and_result_is(child: Path) -> None:
    path = child / "results" / "child" / "provenance.json"
    found = json.loads(path.read_text())
    assert {found["jobs"][job]["study"] for job in ("pretrain", "train/sft", "grade/base", "base_spectrum/0")} == {
        "smoke"
    }
    assert {found["jobs"][job]["study"] for job in ("train/mine", "geometry/0", "cka/sft", "tables")} == {"child"}
    assert {"../smoke/runs/sft/adapter_model.safetensors", "runs/mine/adapter_model.safetensors"} <= set(
        found["results"]
    )
    command = [BIN / "deltageom", "provenance", "--verify", path]
    done = subprocess.run(command, env=environment(child), capture_output=True, text=True, check=False)
    assert "results are as they were recorded" in done.stdout, done.stderr


def test_a_packed_child_has_nothing_to_do_elsewhere(child: Path, tmp_path: Path) -> None:
    (child / "results" / "smoke" / "runs" / "sft" / "notes.txt").write_text("not of the child")
    done = subprocess.run(
        [BIN / "deltageom", "pack", "child", "--output", tmp_path / "child.tar"],
        cwd=child,
        env=os.environ | {"PYTHONPATH": str(child / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "not packed" not in done.stdout
    subprocess.run(["tar", "xf", tmp_path / "child.tar", "-C", tmp_path], check=True)
    unpacked = tmp_path / "deltageom-child"
    assert planned(unpacked) == Counter()
    smoke = unpacked / "results" / "smoke"
    assert (smoke / "runs" / "sft" / "adapter_model.safetensors").is_file()
    assert (smoke / "logs" / "train" / "sft.log").is_file()
    assert not (smoke / "tables").exists()
    assert not (smoke / "runs" / "sft" / "notes.txt").exists()
