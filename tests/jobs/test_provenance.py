"""A study's provenance: which jobs it has, what is merged of them, and the report that shows it."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deltageom.errors import UserError
from deltageom.jobs import provenance, study_provenance
from deltageom.jobs.provenance import Stopwatch
from deltageom.planning.jobs import job_names
from deltageom.study.load import load_study
from deltageom.study.resolved import Study
from tests.conftest import BIN, ROOT, SMOKE, planned, snakemake

ONE_RUN = """
extends: toy
replicates: {count: 1}
training: {kl_every: null}
runs: {sft_seed7: null, rft: null, dft: null, rift: null, rift_linear: null, offline_grpo: null, dpo: null}
measures: {geometry: {base_rank: null}}
"""
# the base is needed for the KL alone
IMPORTED = "extends: toy\nreplicates: {count: 1}\nrollouts: {file: theirs.parquet}\nruns: {dpo: null}\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [("smoke", SMOKE), ("self", "extends: toy-self\n"), ("qwen3-4b", None), ("one", ONE_RUN), ("imported", IMPORTED)],
)
def test_jobs_are_those_of_the_workflow(project: Path, name: str, text: str | None) -> None:
    """Of the DAG that ends in the summary, which everything but the provenance itself leads to."""
    (project / "theirs.parquet").touch()
    if text:
        (project / "studies" / f"{name}.yaml").write_text(text)
    done = snakemake(project, "--summary", "--config", f"study={name}", "--", f"results/{name}/summary.md")
    assert done.returncode == 0, done.stderr
    recorded = re.findall(r"^results/[^/]+/provenance/(\S+)\.json\t", done.stdout, flags=re.MULTILINE)
    assert len(recorded) > 10
    assert job_names(load_study({"study": name}, project)) == sorted(recorded)


@pytest.fixture(scope="module")
def toy() -> Study:
    return load_study({"study": "toy"}, ROOT)


def job(command: str, seconds: float = 1.0, peak: float = 100.0, torch: str | None = "2.0", **machine: Any) -> Any:
    return {
        "command": command,
        "study": "toy",
        "settings": {"study": "of " + command},
        "code_sha256": "c" * 64,
        "versions": {"numpy": "2.4"} | ({"torch": torch} if torch else {}),
        "machine": {"platform": "Linux", "python": "3.11.7", "device": "cpu", "threads": 1} | machine,
        "started": "2026-01-01T00:00:00Z",
        "wall_seconds": seconds,
        "peak_memory_mib": peak,
        "peak_gpu_memory_mib": 10 * peak if machine.get("device", "cpu") != "cpu" else None,
    }


JOBS = {
    "train/sft": job("train", 2.5, 300.0, device="H100"),
    "train/dpo": job("train", 1.25, 500.0, device="A100", threads=2, cpu="EPYC", kernels="AVX512"),
    "tables": job("tables", 0.5, 200.0, torch=None),
    "pretrain": job("pretrain", torch="1.9", cpu="Xeon", kernels="AVX512"),
}


def test_totals_are_sums_and_highest_peaks(toy: Study) -> None:
    totals = study_provenance.merge(toy, JOBS, {}, None)["totals"]
    assert totals["train"] == {"jobs": 2, "wall_seconds": 3.75, "peak_memory_mib": 500.0, "peak_gpu_memory_mib": 5000.0}
    assert totals["all"] == {"jobs": 4, "wall_seconds": 5.25, "peak_memory_mib": 500.0, "peak_gpu_memory_mib": 5000.0}
    assert totals["tables"]["peak_gpu_memory_mib"] is None
    assert set(totals) == {"train", "tables", "pretrain", "all"}


def test_records_of_earlier_versions_say_nothing_of_a_gpus_memory(toy: Study) -> None:
    old = {name: value for name, value in job("train").items() if name != "peak_gpu_memory_mib"}
    merged = study_provenance.merge(toy, {"train/sft": old}, {}, None)
    assert merged["jobs"]["train/sft"]["peak_gpu_memory_mib"] is None
    assert merged["totals"]["train"]["peak_gpu_memory_mib"] is None


class FakeCuda:
    """Of three GPUs that torch sees, two were used."""

    peaks = (3 * 2**30, 0, 2**20)
    is_available = is_initialized = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 3)
    max_memory_reserved = staticmethod(lambda number: FakeCuda.peaks[number])
    get_device_name = staticmethod(lambda number: f"H{number}00")


class FakeBackends:
    cpu = SimpleNamespace(get_cpu_capability=lambda: "AVX2")


def test_a_record_names_the_gpus_that_were_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_gpus_of_others", [])
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=FakeCuda, backends=FakeBackends))
    record = Stopwatch().record("train", {}, ["cli.jobs.train"])
    assert record["machine"]["device"] == "H000, H200"
    assert record["peak_gpu_memory_mib"] == 3072.0
    assert record["machine"]["kernels"] == "AVX2"
    assert record["machine"]["cpu"] in Path("/proc/cpuinfo").read_text()
    monkeypatch.delitem(sys.modules, "torch")
    record = Stopwatch().record("tables", {}, ["cli.jobs.tables"])
    assert (record["machine"]["device"], record["peak_gpu_memory_mib"]) == ("cpu", None)
    assert record["machine"]["kernels"] is None  # no torch, no kernels of it


@pytest.mark.parametrize(
    ("says", "found"),
    [
        ("echo 'NVIDIA H100, PCIe, 71234'; echo 'NVIDIA H100, PCIe, 1'", [71234.0, 1.0]),
        ("echo 'No devices were found'", None),
        ("exit 9", None),
    ],
)
def test_gpus_of_an_engines_own_processes_are_nvidia_smis(
    says: str, found: list[float] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{says}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    used = provenance.gpus_in_use()
    assert used == [{"name": "NVIDIA H100, PCIe", "peak_memory_mib": mib} for mib in found or ()]


def test_what_differs_between_jobs_is_named(toy: Study) -> None:
    merged = study_provenance.merge(toy, JOBS, {}, None)
    assert merged["mixed"] == {
        "torch": {"2.0": ["train/dpo", "train/sft"], "1.9": ["pretrain"], "not installed": ["tables"]},
        "device of train": {"H100": ["train/sft"], "A100": ["train/dpo"]},
        "cpu": {"EPYC": ["train/dpo"], "Xeon": ["pretrain"]},
    }
    assert merged["versions"] == {"numpy": "2.4", "torch": "2.0"}
    deviations = {name: entry["versions"] for name, entry in merged["jobs"].items()}
    assert deviations == {"train/sft": {}, "train/dpo": {}, "tables": {"torch": None}, "pretrain": {"torch": "1.9"}}


def test_nothing_is_mixed_where_commands_differ_by_design(toy: Study) -> None:
    """A GPU for training and none for tables, and threads as each rule says: no deviation of a job from its like."""
    jobs = {"train/sft": job("train", device="H100", threads=8), "tables": job("tables")}
    assert study_provenance.merge(toy, jobs, {}, None)["mixed"] == {}
    other = {**jobs, "tables": job("tables", python="3.12.1")}
    assert study_provenance.merge(toy, other, {}, None)["mixed"] == {
        "python": {"3.11.7": ["train/sft"], "3.12.1": ["tables"]}
    }


def test_each_record_can_be_put_together_again(toy: Study) -> None:
    merged = study_provenance.merge(toy, JOBS, {}, None)
    assert len(merged["job_settings"]) == 3  # both trainings share theirs
    for name, entry in merged["jobs"].items():
        versions = {k: v for k, v in (merged["versions"] | entry["versions"]).items() if v is not None}
        settings, machine = merged["job_settings"][entry["settings"]], merged["machines"][entry["machine"]]
        assert {**entry, "settings": settings, "machine": machine, "versions": versions} == JOBS[name]


def test_the_order_of_jobs_changes_nothing(toy: Study) -> None:
    jobs = JOBS | {f"geometry/{n}": job("geometry", threads=n) for n in (5, 3, 8, 4, 7, 6, 9)}
    one, other = (study_provenance.merge(toy, jobs, {}, None) for jobs in (jobs, dict(reversed(jobs.items()))))
    assert [
        machine["threads"] for machine in one["machines"] if "cpu" not in machine and machine["device"] == "cpu"
    ] == [1, 3, 4, 5, 6, 7, 8, 9]
    assert json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def test_seeds_are_those_of_the_study(toy: Study) -> None:
    seeds = study_provenance.merge(toy, {}, {}, None)["seeds"]
    assert seeds["runs.sft_seed7.training.seed"] == 7
    assert seeds["runs.sft.training.lora.init_seed"] == toy.runs["sft"].training.lora.init_seed
    assert seeds["rollouts.seed"] == toy.rollouts.seed
    assert "execution" not in study_provenance.merge(toy, {}, {}, None)["settings"]


def test_a_jobs_own_record_is_read(tmp_path: Path) -> None:
    record = Stopwatch().record("tables", {"a": 1}, ["cli.jobs.tables"])
    (tmp_path / "mine" / "provenance").mkdir(parents=True)
    (tmp_path / "mine" / "provenance" / "tables.json").write_text(json.dumps(record))
    read = study_provenance.read(tmp_path / "mine" / "provenance", ["tables"])
    assert read == {"tables": record | {"study": "mine"}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no such file: the job has not run"),
        ("{", "not JSON"),
        ("[]", "is no job's provenance"),
        ('{"command": "tables"}', "has no 'settings'"),
    ],
)
def test_bad_records_are_named(tmp_path: Path, text: str | None, says: str) -> None:
    if text:
        (tmp_path / "tables.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "tables.json")) + ".*" + says):
        study_provenance.read(tmp_path, ["tables"])


# FIPS 180-2's own example
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_results_are_verified(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    first, second = tmp_path / "tables" / "a.csv", tmp_path / "summary.md"
    first.write_text("abc")
    second.write_text("")
    results = study_provenance.digests([first, second], tmp_path)
    assert results == {"tables/a.csv": ABC, "summary.md": hashlib.sha256().hexdigest()}
    listing = tmp_path / "provenance.json"
    listing.write_text(json.dumps({"results": results}))
    assert study_provenance.verify(listing) == 2
    first.write_text("abd")
    second.unlink()
    with pytest.raises(UserError) as error:
        study_provenance.verify(listing)
    assert "of 2 results 2 do not fit" in str(error.value)
    assert "tables/a.csv: not the file that was recorded" in str(error.value)
    assert "summary.md: missing" in str(error.value)


@pytest.mark.parametrize("text", ["{}", "[]", "not JSON", '{"results": []}'])
def test_only_a_studys_provenance_verifies(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="lists no results"):
        study_provenance.verify(tmp_path / "a.json")


def test_a_listing_reads_nothing_outside_its_folder(tmp_path: Path) -> None:
    """That of all studies' results: a study may share another one's."""
    study = tmp_path / "results" / "study"
    (tmp_path / "results" / "other").mkdir(parents=True)
    study.mkdir()
    (tmp_path / "secret").write_text("abc")
    (tmp_path / "results" / "other" / "shared").write_text("abc")
    for name in ("../../secret", "../other/../../secret", str(tmp_path / "secret")):
        (study / "a.json").write_text(json.dumps({"results": {name: ABC}}))
        with pytest.raises(UserError, match="not below the folder of the studies' results"):
            study_provenance.verify(study / "a.json")
    with pytest.raises(UserError, match="is not below"):
        study_provenance.digests([tmp_path / "secret"], study)
    (study / "a.json").write_text(json.dumps({"results": {"../other/shared": ABC}}))
    assert study_provenance.verify(study / "a.json") == 1


def git(folder: Path, *arguments: str) -> str:
    name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", *name, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "init", "--quiet")
    git(folder, "add", "Snakefile")
    git(folder, "commit", "--quiet", "--message", "first")
    return git(folder, "rev-parse", "HEAD")


def test_the_checkout_is_named_and_whether_it_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Snakefile").write_text("")
    assert study_provenance.checkout(tmp_path) is None
    first = commit(tmp_path)
    assert study_provenance.checkout(tmp_path) == {"commit": first, "dirty": False}
    (tmp_path / "Snakefile").write_text("rule all:")
    assert study_provenance.checkout(tmp_path) == {"commit": first, "dirty": True}
    # a copy of the project that lies in some other checkout is not of that
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "unpacked" / "Snakefile").write_text("")
    assert study_provenance.checkout(tmp_path / "unpacked") is None
    monkeypatch.setenv("PATH", "")
    assert study_provenance.checkout(tmp_path) is None


def provenance_of(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project / "results" / "smoke" / "provenance.json").read_text())
    return found


def test_a_finished_study_has_one_provenance(finished: Path) -> None:
    results, merged = finished / "results" / "smoke", provenance_of(finished)
    records = {str(p.relative_to(results / "provenance"))[:-5]: p for p in (results / "provenance").rglob("*.json")}
    own = records.pop("provenance")
    del records["page"]  # made from the merged record
    assert set(merged["jobs"]) == set(records)
    assert json.loads(own.read_text())["command"] == "provenance"
    seconds = [json.loads(path.read_text())["wall_seconds"] for path in records.values()]
    assert merged["totals"]["all"]["jobs"] == len(seconds)
    assert merged["totals"]["all"]["wall_seconds"] == pytest.approx(sum(seconds))
    assert merged["totals"]["train"]["jobs"] == 7
    assert merged["mixed"] == {}
    listed = merged["results"]
    for name in ("runs/sft/adapter_model.safetensors", "runs/whole/model.safetensors", "rollouts/rollouts.parquet"):
        assert listed[name] == hashlib.sha256((results / name).read_bytes()).hexdigest()
    assert {f"tables/{path.name}" for path in (results / "tables").iterdir()} <= set(listed)
    command = [BIN / "deltageom", "provenance", "--verify", results / "provenance.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"{len(listed)} results are as they were recorded" in done.stdout, done.stderr


def test_a_commit_reruns_nothing(finished: Path) -> None:
    try:
        commit(finished)
        assert planned(finished) == Counter()
    finally:
        shutil.rmtree(finished / ".git")


def test_one_jobs_other_version_is_merged_anew(finished: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(finished, project, symlinks=True)
    path = project / "results" / "smoke" / "provenance" / "train" / "sft.json"
    record = json.loads(path.read_text())
    usual, record["versions"]["torch"] = record["versions"]["torch"], "1.13.1"
    path.write_text(json.dumps(record))
    assert planned(project) == Counter({"provenance": 1, "page": 1})
    first = commit(project)
    done = snakemake(project, "--config", "study=smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    merged = provenance_of(project)
    assert set(merged["mixed"]) == {"torch"}
    assert merged["mixed"]["torch"]["1.13.1"] == ["train/sft"]
    assert len(merged["mixed"]["torch"][usual]) > 50
    assert merged["git"]["commit"] == first
    assert "torch: " in (project / "results" / "smoke" / "logs" / "provenance.log").read_text()


def reported(page: str) -> dict[str, Any]:
    """What the report shows, by path."""
    found: dict[str, Any] = json.loads(re.findall(r"var results = (\{.*\});?$", page, flags=re.MULTILINE)[-1])
    return found


def test_the_report_shows_every_table_and_figure(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With captions and labels, and without a network: Snakemake brings along what its page needs."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for kind in ("html", "zip"):
        done = snakemake(finished, "--report", f"report.{kind}", "--config", "study=smoke")
        assert done.returncode == 0, done.stdout + done.stderr
    shown = reported((finished / "report.html").read_text())
    results = Path("results", "smoke")
    expected = {str(path.relative_to(finished)) for path in (finished / results).glob("tables/*.csv")}
    expected |= {str(path.relative_to(finished)) for path in (finished / results).glob("figures/*.svg")}
    pages = {str(results / name) for name in ("summary.md", "details.md", "provenance.json")}
    assert set(shown) == expected | pages
    for path, entry in shown.items():
        assert len(re.sub(r"<[^>]*>|\s+", "", entry["caption"])) > 40, path
        assert "problematic" not in entry["caption"], path  # docutils' word for a mark-up error
        assert list(entry["labels"]) == ["result"]
    labels = [entry["labels"]["result"] for entry in shown.values()]
    assert len(set(labels)) == len(labels)
    assert "Every table and figure of the study" in shown[str(results / "details.md")]["caption"]
    assert "The study on one screen" in shown[str(results / "summary.md")]["caption"]
    with zipfile.ZipFile(finished / "report.zip") as packed:
        assert {Path(name).name for name in packed.namelist()} == {Path(p).name for p in shown} | {"report.html"}
        assert reported(packed.read("report/report.html").decode()).keys() == shown.keys()
    for kind in ("html", "zip"):
        (finished / f"report.{kind}").unlink()


def test_another_caption_writes_the_summary_again(finished: Path) -> None:
    path = finished / "src" / "deltageom" / "report" / "results.py"
    before = path.read_text()
    path.write_text(before.replace("Accuracy of the base", "Share of right answers of the base"))
    try:
        assert planned(finished) == Counter(summary=1, provenance=1, page=1)
    finally:
        path.write_text(before)
