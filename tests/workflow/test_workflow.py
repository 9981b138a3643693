"""The workflow through the real Snakemake: a whole small study, what an edit reruns, and what stops before a job."""

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from deltageom.files import read_jsonl
from tests.conftest import BIN, FULL, ROOT, SMOKE, environment, planned, snakemake

RUNS = ["dpo", "dpo_as_long", "offline_grpo", "rft", "rift", "sft", "whole"]


def smoke(**runs: dict[str, Any]) -> str:
    """The smoke study with other runs, or other settings of its own."""
    tree = yaml.safe_load(SMOKE)
    return yaml.safe_dump(tree | {"runs": tree["runs"] | runs})


def test_results_are_complete(finished: Path) -> None:
    results = finished / "results" / "smoke"
    accuracy = pd.read_csv(results / "tables" / "accuracy.csv")
    assert sorted(accuracy["model"].unique()) == sorted(["base", *RUNS])
    assert len(accuracy) == 8 * 3
    assert set(zip(accuracy["benchmark"], accuracy["n"], accuracy["samples"], strict=True)) == {
        ("easy", 16, 1),
        ("hard", 16, 1),
        ("hard_sampled", 6, 4),
    }
    pairs = pd.read_csv(results / "tables" / "geometry_global.csv").query("measure == 'cosine'")
    assert len(pairs) == 21
    assert set(pairs["n_modules"]) == {16}
    for table in ("barriers", "connectivity", "cka"):
        assert len(pd.read_csv(results / "tables" / f"{table}.csv").groupby(["a", "b"])) == 21, table
    comparisons = pd.read_csv(results / "tables" / "comparisons.csv")
    assert len(comparisons) == 28 * 3
    assert comparisons["family"].sum() == 7 * 3  # each run with the base
    assert set(comparisons[comparisons["benchmark"] == "hard_sampled"]["test"]) == {"sign-flip permutation"}
    assert set(pd.read_csv(results / "tables" / "pass_at_k.csv")["k"]) == {1, 2, 4}
    assert pd.read_csv(results / "tables" / "graders.csv")["completions"].sum() == 8 * (16 + 16 + 24)
    figures = {path.name for path in (results / "figures").iterdir()}
    assert len({Path(name).stem for name in figures}) == 8
    for name in figures:
        assert Path(name).with_suffix(".svg").name in figures
        assert Path(name).with_suffix(".png").name in figures
        assert Path(name).with_suffix(".pdf").name in figures
    summary, details = ((results / name).read_text() for name in ("summary.md", "details.md"))
    shown = re.findall(r"\]\((figures/[^)]+)\)", details)
    assert len(shown) == 8
    for file in (*shown, *re.findall(r"\]\(([^)]+)\)", summary)):
        assert (results / file).exists()
    assert "sft" in summary
    assert {path.stem for path in (results / "tables").glob("*.tex")} == {"accuracy", "comparisons", "geometry"}


def test_runs_start_from_the_same_a_and_read_the_same_rollouts(finished: Path) -> None:
    """After three small steps A has hardly moved from where all runs began, and B = 0 has."""
    from safetensors.numpy import load_file

    runs = finished / "results" / "smoke" / "runs"
    first, *others = [load_file(runs / run / "adapter_model.safetensors") for run in RUNS if run != "whole"]
    for other in others:
        for name, weight in first.items():
            if "lora_A" in name:
                assert abs(weight - other[name]).max() < 0.05 * abs(weight).max()


def test_every_artefact_has_its_provenance(finished: Path) -> None:
    results = finished / "results" / "smoke"
    jobs = {str(p.relative_to(results / "provenance")) for p in (results / "provenance").rglob("*.json")}
    assert {f"train/{run}.json" for run in RUNS} <= jobs
    assert {job for job in jobs if job.startswith("cka/")} == {f"cka/{run}.json" for run in sorted(RUNS)[:-1]}
    assert {"pretrain.json", "teacher.json", "rollouts.json", "reward.json", "decontaminate.json"} <= jobs
    assert {"tables.json", "figures.json", "grade/sft.json"} <= jobs


def test_finished_study_has_nothing_to_do(finished: Path) -> None:
    assert planned(finished) == Counter()


def status(project: Path) -> str:
    command = [BIN / "deltageom", "status", "smoke"]
    done = subprocess.run(command, cwd=project, env=environment(project), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_status_says_what_is_done_and_what_would_run_and_why(finished: Path, study: Path) -> None:
    jobs = len(list((finished / "results" / "smoke" / "provenance").rglob("*.json")))
    said = status(finished)
    assert f"study smoke: {jobs} of {jobs} jobs are done" in said
    assert "Snakemake would run nothing." in said
    assert "to do" not in said
    study.write_text(smoke(rift={"method": "rift", "learning_rate": 1e-3}, new={"method": "sft", "seed": 7}))
    said = status(finished)
    rows = {cells[1]: cells[2:] for line in said.splitlines() if len(cells := re.split(r" *[│┃] *", line)) > 3}
    state = {model: dict(zip(rows["model"], cells, strict=True)) for model, cells in rows.items()}
    assert (state["sft"]["train"], state["rift"]["train"], state["new"]["train"]) == ("done", "to do", "to do")
    assert state["base"]["train"] == ""
    assert (state["base"]["grade"], state["rift"]["grade"]) == ("done", "to do")
    assert (state["rft"]["cka"], state["sft"]["cka"]) == ("to do", "done")  # rft's file has its pair with rift
    assert re.search(r"^1 +train +rift +training\.learning_rate: .* -> 0\.001", said, re.MULTILINE)
    planned_jobs = planned(finished).total()
    assert f"{planned_jobs} would run:" in said
    assert f"{jobs + 6 - planned_jobs} of {jobs + 6} jobs are done" in said


def test_norms_are_equal_where_they_are_matched(finished: Path) -> None:
    table = pd.read_csv(finished / "results" / "smoke" / "tables" / "geometry_global.csv")
    norms = table.query("measure == 'norm'").set_index("a")["value"]
    assert norms["dpo_as_long"] == pytest.approx(norms["sft"], rel=1e-5)
    assert norms["dpo"] < 0.9 * norms["sft"]


def test_metrics_of_every_run(finished: Path) -> None:
    curves = pd.read_csv(finished / "results" / "smoke" / "tables" / "training_curves.csv")
    assert set(curves["run"]) == set(RUNS)
    kl = curves[curves["metric"] == "kl_to_base"]
    assert sorted(kl["step"].unique()) == [2, 3]
    assert set(kl["run"]) == set(RUNS)
    for scratch in ("scratch", "shards"):
        assert not list((finished / "results" / "smoke" / scratch).rglob("*")), scratch


def test_a_new_run_leaves_the_finished_pairs_alone(finished: Path, tmp_path: Path) -> None:
    """The log counts what was measured; what was not is there to the last digit, a doctored number too."""
    project = tmp_path / "project"
    shutil.copytree(finished, project, symlinks=True)
    module, results = "layers.1.self_attn.q_proj", project / "results" / "smoke"
    path = results / "geometry" / f"{module}.json"
    before = json.loads(path.read_text())
    before["pairs"][0]["u1_overlap"] = 0.125
    stamp = path.stat()
    path.write_text(json.dumps(before))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    (project / "studies" / "smoke.yaml").write_text(smoke(sft_again={"method": "sft", "seed": 7}))
    spectrum = (results / "base_spectrum" / f"{module}.safetensors").stat().st_mtime_ns
    done = snakemake(project, "--config", "study=smoke", "--", f"results/smoke/geometry/{module}.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{module}: 7 pairs measured, 21 kept" in (results / "logs" / "geometry" / "1.log").read_text()
    after = json.loads(path.read_text())
    assert [pair for pair in after["pairs"] if "sft_again" not in (pair["a"], pair["b"])] == before["pairs"]
    assert [run for run in after["runs"] if run["run"] != "sft_again"] == before["runs"]
    assert len(after["pairs"]) == 28
    assert (results / "base_spectrum" / f"{module}.safetensors").stat().st_mtime_ns == spectrum


def test_overlaps_are_dropped_before_anything_is_sampled(finished: Path, study: Path) -> None:
    """A benchmark of the training problems themselves: the first twelve are gone, and the rollouts are of the rest."""
    tree = yaml.safe_load(SMOKE) | {"decontamination": {"words": 200, "overlap": "drop"}}
    tree["benchmarks"]["seen"] = {"source": "toy", "split": "train", "limit": 12}
    study.write_text(yaml.safe_dump(tree))
    kept = "results/smoke/decontamination/train.jsonl"
    stamps = {path: path.stat() for path in (finished / "results" / "smoke" / "decontamination").iterdir()}
    done = snakemake(finished, "--config", "study=smoke", "--", kept)
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        trained_on = read_jsonl(finished / kept)
        questions = {row["question"] for row in read_jsonl(finished / "results" / "smoke" / "problems" / "seen.jsonl")}
        assert len(trained_on) == 96 - 12
        assert not questions & {row["question"] for row in trained_on}
        report = json.loads((finished / kept).with_name("report.json").read_text())
        assert (report["training_problems"], report["kept"]) == (96, 84)
        assert planned(finished)["rollouts"] == 1
    finally:
        study.write_text(SMOKE)
        assert snakemake(finished, "--config", "study=smoke", "--", kept).returncode == 0
        for path, stamp in stamps.items():
            os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def test_finished_rollouts_are_imported(finished: Path) -> None:
    """The smoke study's own, as a file of theirs: the same table, but for what a file does not say."""
    columns = ["problem_id", "sample", "text", "finish_reason", "token_ids", "token_log_probs"]
    own = pd.read_parquet(finished / "results" / "smoke" / "rollouts" / "rollouts.parquet")
    sampled = own[own["source"] == "rollout"]
    sampled[columns].rename(columns={"text": "response"}).to_parquet(finished / "theirs.parquet")
    tree = yaml.safe_load(SMOKE)
    tree["rollouts"]["file"] = "theirs.parquet"
    (finished / "studies" / "imported.yaml").write_text(yaml.safe_dump(tree))
    results = finished / "results" / "imported"
    for part in ("base", "problems"):
        shutil.copytree(finished / "results" / "smoke" / part, results / part)
    done = snakemake(
        finished,
        FULL,
        *("--config", "study=imported", "--rerun-triggers", "mtime"),
        *("--", "results/imported/rollouts/rollouts.parquet"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rule teacher" not in done.stdout + done.stderr
    made = pd.read_parquet(results / "rollouts" / "rollouts.parquet")
    pd.testing.assert_frame_equal(made.drop(columns="log_prob"), own.drop(columns="log_prob"))
    assert made["log_prob"].to_numpy() == pytest.approx(own["log_prob"].to_numpy(), abs=1e-3, nan_ok=True)
    (finished / "theirs.parquet").unlink()
    done = snakemake(finished, "--config", "study=imported")
    assert "rollouts.file: theirs.parquet: no such file" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("extends: toy\nrunz: {}\n", "runz: unknown key (did you mean 'runs'?)"),
        ("extends: toy\ntraining: {learning_rate: 1e-5}\n", "write 1.0e-05"),
        ("extends: toy\nruns: {x: {method: ppo}}\n", "unknown method 'ppo'"),
        ("extends: toy\nruns: {'a/b': {method: sft}}\n", "'a/b'"),
        ("benchmarks: {easy: {source: toy, split: easy, limit: 3}}\n", "runs: is empty"),
        ("extends: toy\nbenchmarks: {easy: {source: file, path: gone.jsonl}}\n", "gone.jsonl: no such file"),
        ("extends: toy\nbenchmarks: {easy: {source: file, path: bad.jsonl}}\n", "bad.jsonl:2: not a JSON object"),
        ("extends: toy\nbenchmarks: {easy: {source: file, path: none.jsonl}}\n", "problem 1: there is no answer"),
    ],
)
def test_mistakes_stop_before_any_job(project: Path, text: str, says: str) -> None:
    (project / "studies" / "mine.yaml").write_text(text)
    (project / "bad.jsonl").write_text('{"question": "q", "answer": 1}\n{"question": \n')
    (project / "none.jsonl").write_text('{"question": "q", "answer": ""}\n')
    done = snakemake(project, "--config", "study=mine")
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert says in output
    assert "Traceback" not in output
    assert not (project / "results").exists()


def test_unknown_study(project: Path) -> None:
    done = snakemake(project, "--config", "study=toi")
    assert "unknown study 'toi'" in done.stdout + done.stderr
    assert "did you mean 'toy'?" in done.stdout + done.stderr


def test_reference_solutions_can_be_trained_on(finished: Path, study: Path) -> None:
    """The run that studies/toy-self.yaml adds: the problems' own solutions, all of them right."""
    study.write_text(smoke(sft_solutions={"method": "sft_solutions"}))
    selection = "results/smoke/runs/sft_solutions/selection.json"
    done = snakemake(finished, "--config", "study=smoke", "--", selection)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads((finished / selection).read_text())
    assert (counts["selected"], counts["correct"], counts["wrong"]) == (96, 96, 0)


def test_a_job_that_fails_says_why_in_one_line(finished: Path, study: Path) -> None:
    """An empty selection: every rollout is longer than the run allows, and the study says to drop such rows."""
    study.write_text(smoke(nothing={"method": "rft", "max_length": 2, "over_length": "drop"}))
    done = snakemake(finished, "--config", "study=smoke", "--", "results/smoke/runs/nothing/selection.json")
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "deltageom train: error: run 'nothing': method rft finds no rows to train on" in output
    assert "Traceback" not in output
    assert not (finished / "results" / "smoke" / "runs" / "nothing").exists()


DATA = ROOT.parent / "shared" / "data"


@pytest.mark.skipif(not DATA.is_dir(), reason="the real GSM8K and AIME files are not beside this checkout")
def test_real_data(finished: Path, tmp_path: Path) -> None:
    """studies/real-data.yaml at the smoke study's size, on real problems: the data path, not the accuracy."""
    project = tmp_path / "project"
    shutil.copytree(finished, project, ignore=shutil.ignore_patterns(".snakemake"))
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "data").symlink_to(DATA)
    small = yaml.safe_load(SMOKE)
    real = {
        "extends": "real-data",
        **{key: small[key] for key in ("toy", "teacher", "problems")},
        "rollouts": small["rollouts"],
        "training": small["training"],
        "decoding": {"max_tokens": 8},
        "reference": {"prompts": 4, "max_tokens": 8},
        "runs": dict.fromkeys(["dft", "rift", "rift_linear", "offline_grpo"]),
        "benchmarks": {"gsm8k": {"limit": 12}, "aime26": {"limit": 12}},
        "measures": {"connectivity": {"problems": 4, "points": 3}, "cka": {"prompts": 8}},
    }
    (project / "studies" / "real.yaml").write_text(yaml.safe_dump(real))
    # the base, the teacher and the rollouts are those of the smoke study: the same settings made them
    for part in ("base", "teacher", "rollouts", "problems"):
        shutil.copytree(project / "results" / "smoke" / part, project / "results" / "real" / part)
    done = snakemake(project, "--config", "study=real", "--rerun-triggers", "mtime")
    assert done.returncode == 0, done.stdout + done.stderr
    accuracy = pd.read_csv(project / "results" / "real" / "tables" / "accuracy.csv")
    assert set(accuracy["benchmark"]) == {"gsm8k", "aime26"}
    assert set(accuracy["n"]) == {12}


def gpus_here(project: Path, uuids: str) -> dict[str, str]:
    """An environment in which nvidia-smi names these GPUs, a line each; without a line there is no nvidia-smi."""
    programs = project.parent / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "nvidia-smi").unlink(missing_ok=True)
    if uuids:
        (programs / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '{uuids}'\n")
        (programs / "nvidia-smi").chmod(0o755)
    kept = {name: value for name, value in environment(project).items() if not name.startswith(("CUDA_", "SLURM_"))}
    return kept | {"PATH": f"{programs}:/usr/bin:/bin", "DELTAGEOM_GPU_LOCKS": str(project.parent / "locks")}


def snakemake_on(uuids: str, project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [BIN / "snakemake", "--config", "study=mine", *arguments]
    return subprocess.run(
        command, cwd=project, env=gpus_here(project, uuids), capture_output=True, text=True, timeout=300, check=False
    )


NO_GPU = "cannot run here: no GPU: nvidia-smi is not on PATH: set `device: cpu` or run on a machine with GPUs"
TWO = "execution: {processes: 2}\ntraining: {micro_batch_size: 4}\n"


@pytest.mark.parametrize(
    ("text", "uuids", "arguments", "says"),
    [
        ("", "", [], f"study 'mine' {NO_GPU}"),
        (TWO, "0, GPU-aaaa1111\\n", ["--resources", "gpu=2"], "a job takes 2 GPUs: only 1 here (0)"),
        (TWO, "0, GPU-aaaa1111\\n1, GPU-bbbb2222\\n", [], "--resources gpu=1: a job takes 2 GPUs"),
    ],
)
def test_a_machine_without_the_gpus_stops_before_any_job(
    project: Path, text: str, uuids: str, arguments: list[str], says: str
) -> None:
    (project / "studies" / "mine.yaml").write_text(f"extends: toy\ndevice: cuda\n{text}")
    done = snakemake_on(uuids, project, "--cores", "2", *arguments)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert says in output
    assert "Traceback" not in output
    assert not (project / "results" / "mine" / "problems").exists()


def test_a_study_for_a_gpu_can_be_planned_without_one(project: Path) -> None:
    """One line on standard error, from a dry run and from `deltageom study`; nothing for a cluster, nor on the CPU."""
    (project / "studies" / "mine.yaml").write_text("extends: toy\ndevice: cuda\n")
    warning = f"warning: the study {NO_GPU}"
    done = snakemake_on("", project, "--dry-run", FULL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.splitlines().count(warning) == 1
    assert "rule pretrain" in done.stdout
    command = [BIN / "deltageom", "study", "mine"]
    shown = subprocess.run(
        command, cwd=project, env=gpus_here(project, ""), capture_output=True, text=True, check=False
    )
    assert (shown.returncode, shown.stderr) == (0, f"{warning}\n")
    assert yaml.safe_load(shown.stdout)["device"] == "cuda"
    assert "warning" not in snakemake_on("", project, "--dry-run", "--profile", "profiles/slurm").stderr
    assert "warning" not in snakemake_on("0, GPU-aaaa1111\\n", project, "--dry-run").stderr
    (project / "studies" / "mine.yaml").write_text("extends: toy\n")
    assert "warning" not in snakemake_on("", project, "--dry-run").stderr


def test_what_needs_no_gpu_is_done_where_there_is_none(project: Path) -> None:
    (project / "studies" / "mine.yaml").write_text("extends: toy\ndevice: cuda\n")
    done = snakemake_on("", project, "--cores", "2", "--", "results/toy/problems/easy.jsonl")
    assert done.returncode == 0, done.stdout + done.stderr


def test_jobs_are_told_how_many_share_a_gpu(project: Path) -> None:
    """By the environment, for it is no reason to do a job again: the first job's own command says what it got."""
    (project / "studies" / "mine.yaml").write_text("extends: toy\ndevice: cuda\nexecution: {jobs_per_gpu: 3}\n")
    (project / "Snakefile").write_text(
        (project / "Snakefile").read_text()
        + "\nrule told:\n    output: 'told'\n    shell: 'echo $DELTAGEOM_JOBS_PER_GPU"
        " > {output}'\n"
    )
    done = snakemake_on("0, GPU-aaaa1111\\n", project, "--cores", "1", "--", "told")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "told").read_text() == "3\n"


def test_layers_that_the_base_does_not_have_stop_before_any_job(project: Path) -> None:
    (project / "studies" / "mine.yaml").write_text("extends: toy\nbase: {layers: 6}\n")
    done = snakemake(project, "--dry-run", "--config", "study=mine")
    assert done.returncode != 0
    assert "base.layers is 6, but toy.layers is 4: set base.layers: 4" in done.stdout + done.stderr
