"""The doctor: what it asks a machine, with programs that hang, fail or lie, what a study needs, and the command."""

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deltageom import doctor, doctor_probes
from deltageom.doctor_facts import Needs
from deltageom.doctor_probes import Answer
from tests.conftest import BIN, ROOT, copy_project

CPU = Needs(study="s", device="cpu")
HUB = Needs(study="s", hub=[("model", "o/m", None)], hub_cached=2)


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run(*arguments: str, path: Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """`deltageom doctor` with `path` alone on PATH, and no network."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "CUDA_", "TRANSFORMERS_"))}
    programs = {"PATH": str(path), "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    return subprocess.run(
        [BIN / "deltageom", "doctor", *arguments],
        cwd=cwd,
        env=kept | programs | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def line(shown: str, what: str) -> str:
    """The line of a thing, with what follows it, in one."""
    rows = shown.splitlines()
    start = next(i for i, row in enumerate(rows) if re.match(rf"\w+ +{what}\b", row))
    end = next((i for i in range(start + 1, len(rows)) if rows[i][:1].strip()), len(rows))
    return " ".join(" ".join(rows[start:end]).split())


# --- probes


def test_a_program_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    """The sleeping child has the pipe too: who waits for its end waits for the child."""
    program(tmp_path, "hangs", f"echo begun\nsleep 60 &\necho $! > {tmp_path}/pid\nsleep 60")
    started = time.monotonic()
    assert doctor_probes.ask([str(tmp_path / "hangs")], 0.5) == Answer(None, "begun\n")
    assert time.monotonic() - started < 5
    child = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    for _ in range(50):  # dead at once; whether it is reaped is another's to do
        if not child.exists() or child.read_text().split(")")[-1].split()[0] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("what the program started goes on")


def test_programs_that_fail_or_are_none(tmp_path: Path) -> None:
    program(tmp_path, "fails", "echo bad driver >&2; exit 9")
    assert doctor_probes.ask([str(tmp_path / "fails")], 5) == Answer(9, "bad driver\n")
    (tmp_path / "no").write_text("text")
    assert doctor_probes.ask([str(tmp_path / "no")], 5).status is None
    assert doctor_probes.ask([str(tmp_path / "gone")], 5).status is None
    program(tmp_path, "bytes", r"printf '\377\376'")
    assert doctor_probes.ask([str(tmp_path / "bytes")], 5) == Answer(0, "\ufffd\ufffd")


def test_pins_of_the_locks() -> None:
    found = doctor_probes.pins(ROOT / "envs" / "cpu.txt")
    names = [text.partition("==")[0] for text in (ROOT / "envs" / "cpu.txt").read_text().splitlines()]
    assert list(found) == [name for name in names if name and not name.startswith("#")]
    assert found["pydantic"].count(".") == 2
    assert doctor_probes.pins(ROOT / "envs" / "none.txt") == {}


@pytest.mark.parametrize("name", ["gpu.txt", "vllm-cpu.txt"])
def test_locks_with_vllm_are_the_cpu_lock_with_what_vllm_wants(name: str) -> None:
    cpu, other = (doctor_probes.pins(ROOT / "envs" / lock) for lock in ("cpu.txt", name))
    shared = {package: version for package, version in cpu.items() if other.get(package, version) != version}
    assert shared.keys() == {"numpy", *["setuptools"] * (name == "vllm-cpu.txt")}
    assert all("slurm" in package for package in cpu.keys() - other.keys() - {"setuptools"})
    assert other["vllm" if name == "gpu.txt" else "vllm-cpu"] == "0.31.0"


def test_torchs_build_is_read_without_importing_it() -> None:
    import torch

    assert doctor_probes.torch_cuda() == torch.version.cuda


@pytest.mark.parametrize(
    ("text", "cuda"), [("cuda: Optional[str] = '13.0'\n", "13.0"), ('cuda = "12.8"\n', "12.8"), ("cuda = None\n", None)]
)
def test_torchs_build(text: str, cuda: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit")
    (tmp_path / "torch" / "version.py").write_text(f"__version__ = '2'\n{text}hip = '1.0'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert doctor_probes.torch_cuda() == cuda


# --- what a study needs


def test_needs_of_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = doctor.needs_of("toy", ROOT)
    assert (toy.device, toy.gpus, toy.vllm, toy.hub, toy.files) == ("cpu", 0, False, [], [])
    assert 1e6 < toy.disk < 1e9
    assert toy.download == 0
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    paper = doctor.needs_of("qwen3-4b", ROOT)
    assert (paper.device, paper.gpus, paper.vllm) == ("cuda", 1, True)
    ids = {name for _, name, _ in paper.hub}
    assert {"Qwen/Qwen3-4B-Instruct-2507", "openai/gsm8k", "math-ai/aime26"} < ids
    assert paper.download > 60e9
    (tmp_path / "datasets--openai--gsm8k" / "snapshots" / "abc").mkdir(parents=True)
    less = doctor.needs_of("qwen3-4b", ROOT)
    assert {name for _, name, _ in less.hub} == ids - {"openai/gsm8k"}
    assert less.hub_cached == 1
    wrong = doctor.needs_of("toi", ROOT)
    assert "unknown study 'toi'" in wrong.error
    assert doctor.needs_of(None) == Needs()


def test_needs_of_local_files(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    (project / "studies" / "own.yaml").write_text(
        "extends: toy\nrollouts: {file: rows.jsonl}\nexecution: {report_to: [wandb], processes: 1}\n"
        "benchmarks: {easy: {source: file, path: easy.jsonl}}\n"
    )
    found = doctor.needs_of("own", project)
    assert list(found.files) == [("benchmarks.easy.path", Path("easy.jsonl")), ("rollouts.file", Path("rows.jsonl"))]
    assert found.reporters == ["wandb"]
    assert math.isnan(found.disk)  # easy.jsonl cannot be counted


@pytest.mark.parametrize(
    ("offline", "needs", "asks"),
    [("1", Needs(), False), ("0", Needs(), True), ("0", CPU, False), ("0", HUB, True), ("1", HUB, False)],
)
def test_the_hub_is_asked_only_where_it_matters(
    offline: str, needs: Needs, asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in doctor.OFFLINE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    commands: list[list[str]] = []

    def ask(command: list[str], _seconds: float) -> Answer:
        commands.append(command)
        return Answer(0, 'a warning\n{"id": "o/m", "answer": "there"}\n{"id": ')

    monkeypatch.setattr(doctor, "ask", ask)
    found = doctor.find(needs, ROOT)
    asked = [command for command in commands if "deltageom.doctor_hub" in command]
    assert bool(asked) == asks
    assert found.hub == ({"o/m": {"answer": "there"}} if asks else None)
    if asks:
        assert json.loads(asked[0][-1]) == [list(one) for one in needs.hub]


# --- the command


def test_the_toy_can_run_here(tmp_path: Path) -> None:
    done = run("toy", path=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) <= 25
    assert "8 runs, 3 benchmarks" in line(done.stdout, "study")
    assert "as pinned in envs/" in line(done.stdout, "packages")
    assert line(done.stdout, "GPUs").startswith("ok GPUs none")
    assert "not here" in line(done.stdout, "SLURM")


def test_broken_and_hanging_programs_are_warnings(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    program(programs, "nvidia-smi", "echo NVIDIA-SMI has failed because it could not talk to the driver; exit 9")
    program(programs, "sinfo", "/bin/sleep 60 & /bin/sleep 60")
    for name in ("sbatch", "squeue"):
        program(programs, name, "exit 0")
    program(programs, "sacct", "echo accounting storage is disabled >&2; exit 1")
    started = time.monotonic()
    done = run("toy", path=programs)
    assert time.monotonic() - started < 5 + 10
    assert done.returncode == 0, done.stdout + done.stderr
    assert line(done.stdout, "GPUs").startswith("warning GPUs nvidia-smi failed (9): NVIDIA-SMI has failed")
    assert line(done.stdout, "SLURM").startswith("warning SLURM")
    assert "sinfo gave no answer in time" in line(done.stdout, "SLURM")
    assert "no accounting database, which profiles/slurm does without" in line(done.stdout, "SLURM")
    assert "Traceback" not in done.stdout + done.stderr


def test_what_a_study_lacks_fails(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    (project / "studies" / "own.yaml").write_text(
        "extends: toy\nbase: {model: ./gone}\nrollouts: {file: rows.jsonl, generator: base}\n"
        "problems: {source: file, path: train.jsonl}\nbenchmarks: {easy: {source: file, path: e.jsonl}, hard: null, "
        "hard_sampled: null}\nexecution: {report_to: [wandb]}\n"
    )
    done = run("own", path=tmp_path, cwd=project)
    assert done.returncode == 1
    shown = line(done.stdout, "files")
    for text in ("problems.path: train.jsonl", "benchmarks.easy.path: e.jsonl", "base.model: gone/config.json"):
        assert text in shown
    assert "wandb" in line(done.stdout, "reporters")
    assert "study 'own' cannot run here: files, reporters" in done.stderr
    for name in ("train.jsonl", "e.jsonl"):
        (project / name).write_text(json.dumps({"question": "q", "answer": "1"}) + "\n")
    (project / "rows.jsonl").write_text("")
    (project / "gone").mkdir()
    (project / "gone" / "config.json").write_text("{}")
    (project / "studies" / "own.yaml").write_text(
        (project / "studies" / "own.yaml").read_text().replace("execution: {report_to: [wandb]}\n", "")
    )
    assert run("own", path=tmp_path, cwd=project).returncode == 0


MIG = """case "$*" in
*name,memory*) echo "NVIDIA A100, 40960, 40000, 580.65";;
*mig.mode*) echo "0, GPU-aaaa1111, Enabled";;
-L) echo "GPU 0: A100 (UUID: GPU-aaaa1111)"; echo "  MIG 3g.20gb Device 0: (UUID: MIG-bbbb)";;
esac"""


def test_a_study_that_needs_a_gpu_fails_without_a_usable_one(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    (project / "studies" / "own.yaml").write_text("extends: toy\ndevice: cuda\n")
    done = run("own", path=tmp_path / "bin", cwd=project)
    assert done.returncode == 1
    assert line(done.stdout, "GPUs").startswith("missing GPUs none: nvidia-smi is not on PATH")
    assert "study 'own' cannot run here: " in done.stderr
    assert "GPUs" in done.stderr
    program(tmp_path / "bin", "nvidia-smi", MIG)
    shown = line(run("own", path=tmp_path / "bin", cwd=project).stdout, "GPUs")
    assert shown.startswith("missing GPUs 1: NVIDIA A100")
    assert "split by MIG: set CUDA_VISIBLE_DEVICES to one of its instances: MIG-bbbb" in shown


def test_a_study_that_needs_the_hub_fails_where_it_is_off(tmp_path: Path) -> None:
    done = run("qwen3-4b", path=tmp_path, HF_HOME=str(tmp_path / "hf"))
    assert done.returncode == 1
    shown = line(done.stdout, "hub")
    assert shown.startswith("missing hub")
    assert "Qwen/Qwen3-4B-Instruct-2507" in shown
    assert "unset HF_HUB_OFFLINE" in shown
    assert "unknown study" in run("qwen", path=tmp_path).stdout


def test_a_token_is_named_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_sleeping_dogs")
    shown = run(path=tmp_path, HF_HOME=str(tmp_path)).stdout
    assert f"token file {tmp_path}/token" in " ".join(shown.split())
    assert "sleeping" not in shown
    shown = run(path=tmp_path, HF_HOME=str(tmp_path), HF_TOKEN="hf_sleeping_dogs").stdout
    assert "token in HF_TOKEN" in " ".join(shown.split())
    assert "sleeping" not in shown


def test_the_hub_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    """An endpoint that takes the connection and says nothing."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"{'http'}://127.0.0.1:{server.getsockname()[1]}"
        started = time.monotonic()
        done = run(path=tmp_path, HF_HUB_OFFLINE="0", HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path))
        assert time.monotonic() - started < 5 + 10
    assert done.returncode == 0
    assert line(done.stdout, "hub").startswith("warning hub no answer")


def test_starts_without_what_takes_seconds() -> None:
    script = (
        "import sys; from deltageom import doctor; doctor.show(doctor.run('toy'));"
        "heavy = {'torch', 'pandas', 'transformers', 'pyarrow'}; print(heavy & {*sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip() == "set()", done.stderr


def test_no_address_in_it() -> None:
    for path in [*(ROOT / "src" / "deltageom").glob("doctor*.py"), ROOT / "src" / "deltageom" / "cli" / "doctor.py"]:
        text = path.read_text()
        assert not re.search(r"http|://|\w\.(co|com|org|net|io|ai)\b", text), path
