"""A short study from the shipped base, and the numbers of it that every machine must find.

`python -m tests.toy.fresh_study > tests/toy/reference.json` writes what the tests hold other machines against.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from tests.conftest import copy_project, snakemake

STUDY = """
extends: toy
replicates: {count: 1}
teacher: {documents: 1600}
problems: {limit: 64}
training: {steps: 16, kl_every: null}
runs: {sft_seed7: null, rift: null, rift_linear: null, offline_grpo: null}
reference: {benchmark: null}
"""
RUNS = ("sft", "rft", "dft", "dpo")


def numbers(folder: Path, cores: int = 2) -> dict[str, Any]:
    """Runs the study in a copy of the project under `folder`. Raises AssertionError with Snakemake's words."""
    project = copy_project(folder / "project")
    (project / "studies" / "fresh.yaml").write_text(STUDY)
    done = snakemake(project, "--config", "study=fresh", "--until", "train", "--cores", str(cores))
    assert done.returncode == 0, done.stdout + done.stderr
    results = project / "results" / "fresh"
    rows = pd.read_parquet(results / "rollouts" / "rollouts.parquet").query("sample >= 0")
    deltas = {run: _delta(results / "runs" / run) for run in RUNS}
    teacher = load_file(results / "teacher" / "model.safetensors")
    return {
        "rollouts": [hashlib.sha256(text.encode()).hexdigest()[:8] for text in rows["text"]],
        "right": int(rows["reward"].sum()),
        "teacher_norm": float(np.sqrt(sum(np.square(part.astype(float)).sum() for part in teacher.values()))),
        "delta_norm": {run: float(np.linalg.norm(delta)) for run, delta in deltas.items()},
        "cosine_with_sft": {run: _cosine(deltas["sft"], delta) for run, delta in deltas.items() if run != "sft"},
    }


def _delta(run: Path) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """All modules' B A, flat: dense, and by nothing of the package."""
    factors = {name: array.astype(float) for name, array in load_file(run / "adapter_model.safetensors").items()}
    names = sorted(name for name in factors if "lora_A" in name)
    return np.concatenate([(factors[name.replace("lora_A", "lora_B")] @ factors[name]).ravel() for name in names])


def _cosine(a: Any, b: Any) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        json.dump(numbers(Path(made)), sys.stdout, indent=1)
