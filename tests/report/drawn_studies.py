"""Made-up tables of a study and of its replicates, as the workflow leaves them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deltageom.display.table_files import write_table
from deltageom.report.replicates import differences_table, replicates_table
from deltageom.study.running import Statistics

RUNS = {"sft": "sft", "rft": "rft", "dpo": "dpo"}
COSINES = {"rft": 0.9, "dpo": 0.1}
STATISTICS = Statistics(family="base", resamples=200, seed=0)
Frames = dict[str, pd.DataFrame]


def drawn(seed: int, moved: float = 0.0) -> Frames:
    """One draw: cosines with sft near COSINES + moved, accuracies near .5, of three runs."""
    rng = np.random.default_rng(seed)
    pairs = {("dpo", "sft"): COSINES["dpo"], ("rft", "sft"): COSINES["rft"], ("dpo", "rft"): 0.2}
    cosines = {pair: value + moved + rng.normal(0, 0.02) for pair, value in pairs.items()}
    geometry = [
        (a, b, measure, np.nan, value, 0.01)
        for (a, b), cosine in cosines.items()
        for measure, value in (("cosine", cosine), ("orthogonal_fraction_stacked", np.sqrt(1 - min(cosine, 1) ** 2)))
    ]
    geometry += [(run, None, "norm", np.nan, norm, np.nan) for run, norm in (("sft", 2.6), ("rft", 2.8), ("dpo", 0.2))]
    models = ["base", *RUNS]
    scores = [(model, "easy", 50, 0.5 + 0.1 * i + rng.normal(0, 0.02)) for i, model in enumerate(models)]
    layers = [(layer, a, b, "cosine", value) for layer in range(2) for (a, b), value in cosines.items()]
    return {
        "accuracy": pd.DataFrame(scores, columns=["model", "benchmark", "n", "accuracy"]).assign(low=0.4, high=0.8),
        "training": pd.DataFrame(
            [(run, method, 1.5, 90, 100, 10) for run, method in RUNS.items()],
            columns=["run", "method", "delta_norm", "correct", "rows", "mixed_problems"],
        ),
        "geometry_global": pd.DataFrame(geometry, columns=["a", "b", "measure", "k", "value", "chance_own_sd"]).assign(
            low=np.nan, high=np.nan
        ),
        "geometry_layer": pd.DataFrame(layers, columns=["layer", "a", "b", "measure", "value"]),
        "barriers": pd.DataFrame([("dpo", "sft", 0.1, 0.2)], columns=["a", "b", "chord", "mean_of_ends"]),
        "cka": pd.DataFrame([("dpo", "sft", 0, "biased", 0.9)], columns=["a", "b", "layer", "estimator", "similarity"]),
    }


def replicated(count: int, moved: float = 0.0, seed: int = 0) -> tuple[list[Frames], Frames]:
    """The tables of each replicate, and those of the study: of replicate 1, with those over the replicates."""
    draws = [drawn(seed + number, moved) for number in range(count)]
    rng = np.random.default_rng(7)
    scores = {(model, "easy"): rng.integers(0, 2, (count, 50)).astype(float) for model in ("base", *RUNS)}
    over = {
        "replicates": replicates_table(draws, scores, STATISTICS),
        "replicate_differences": differences_table(draws, "sft"),
    }
    return draws, draws[0] | over


def settings(count: int, temperature: float = 1.0) -> dict[str, Any]:
    return {
        "study": "made-up",
        "measures": {"compare_with": "sft"},
        "replicates": {"count": count, "vary": ["rollouts", "order"]},
        "rollouts": {"temperature": temperature},
        "execution": {"processes": count},
    }


def write_study(folder: Path, frames: Frames, told: dict[str, Any], name: str) -> Path:
    for table, frame in frames.items():
        write_table(frame, folder / "tables", table)
    (folder / "provenance.json").write_text(json.dumps({"study": name, "settings": told | {"study": name}}))
    return folder
