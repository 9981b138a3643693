"""A small study through the real Snakemake, its jobs on the device."""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks import project, tables
from benchmarks.gpu.record import Line, Record, cells
from tests.conftest import copy_project, environment

WHOLE = "whole study"
# The toy at its smallest: every kind of job runs once, and two methods are trained.
STUDY = """
extends: toy
replicates: {{count: 1}}
device: {device}
toy: {{documents: 640}}
teacher: {{documents: 320}}
problems: {{limit: 48}}
benchmarks: {{easy: {{limit: 8}}, hard: null, hard_sampled: null}}
rollouts: {{samples: 8, max_tokens: 32, temperature: 1.0}}
reference: {{prompts: 4, max_tokens: 16}}
training: {{steps: 3, batch_size: 8, micro_batch_size: 4, kl_every: 2}}
runs: {{sft_seed7: null, rft: null, dft: null, rift: null, rift_linear: null, offline_grpo: null}}
decoding: {{max_tokens: 32}}
measures:
  geometry: {{base_rank: null}}
  connectivity: {{problems: 4, points: 3}}
  cka: {{prompts: 4}}
"""


def run(given: argparse.Namespace, record: Record) -> None:
    with tempfile.TemporaryDirectory() as name:
        copy = copy_project(Path(name) / "project")
        (copy / "studies" / "gpu.yaml").write_text(STUDY.format(device=given.device))
        # four at least: jobs of this size are imports for the most part, which take one core of a job's two
        words = ["--cores", str(max(os.cpu_count() or 1, 4)), "--config", "study=gpu"]
        words += ["--resources", f"gpu={_gpus()}"] if given.device == "cuda" else []
        started = time.time()
        process = subprocess.Popen(project.command(*words), cwd=copy, env=environment(copy))
        seen: set[Path] = set()
        while process.poll() is None:
            time.sleep(1)
            _jobs(copy / "results" / "gpu" / "provenance", seen, record)
        _jobs(copy / "results" / "gpu" / "provenance", seen, record)
        if process.returncode:
            record.write(cell=WHOLE, reason=f"failed: Snakemake ended with status {process.returncode}: see dag.log")
        else:
            record.write(cell=WHOLE, wall_seconds=time.time() - started)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _jobs(folder: Path, seen: set[Path], record: Record) -> None:
    """A line for each job that has left its provenance since the last look."""
    for path in sorted(set(folder.rglob("[!.]*.json")) - seen):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue  # being written
        seen.add(path)
        kept = {key: said.get(key) for key in ("wall_seconds", "peak_memory_mib", "peak_gpu_memory_mib")}
        record.write(cell=str(path.relative_to(folder).with_suffix("")), device=said["machine"]["device"], **kept)


def table(lines: list[Line], _given: argparse.Namespace) -> str:
    out = [["job", "wall, s", "peak memory MiB", "peak GPU memory MiB", "device"]]
    for cell, (line, *_) in cells(lines).items():
        if "reason" in line:
            out.append([cell, line["reason"], "", "", ""])
            continue
        memory = [line.get(key) for key in ("peak_memory_mib", "peak_gpu_memory_mib")]
        shown = ["–" if value is None else f"{value:,.0f}" for value in memory]
        out.append([cell, f"{line['wall_seconds']:.1f}", *shown, line.get("device", "")])
    return tables.markdown(out)
