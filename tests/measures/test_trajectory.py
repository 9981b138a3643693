"""The trajectory of runs: numbers against dense float64, tables, words and figure."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from deltageom.display import drawing
from deltageom.files import write_csv
from deltageom.measures import trajectory
from deltageom.measures.shared.settings import TrajectorySettings

STEPS = [1, 2, 8]
MODULES = ["layers.0.self_attn.q_proj", "layers.0.mlp.up_proj", "layers.2.self_attn.q_proj"]
RANKS = {"dpo": 2, "rft": 4, "sft": 3}  # the order of the names, and the scale is 8 / rank
STUDY = {"measures": {"compare_with": "rft"}}
Dense = dict[str, np.ndarray]


def write(path: Path, rank: int, rng: np.random.Generator, zero: bool = False) -> Dense:
    """Random factors, float32 as a training has them; the dense update by module."""
    tensors, dense = {}, {}
    for module in MODULES:
        shape = (12, 6) if "mlp" in module else (8, 6)
        b, a = rng.normal(size=(shape[0], rank)) * (not zero), rng.normal(size=(rank, shape[1]))
        b, a = b.astype(np.float32), a.astype(np.float32)
        tensors[f"base_model.model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.model.{module}.lora_B.weight"] = b
        dense[module] = 8.0 / rank * b.astype(np.float64) @ a.astype(np.float64)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return dense


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, dict[int | None, Dense]]:
    """Of each run the dense update by step, None for its end, which is another than after the last step."""
    rng, found = np.random.default_rng(0), {}
    for run, rank in RANKS.items():
        folder = tmp_path / "runs" / run
        steps = {s: write(folder / "snapshots" / f"{s}.safetensors", rank, rng, zero=s == 1) for s in STEPS}
        found[run] = {**steps, None: write(folder / "adapter_model.safetensors", rank, rng)}
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8.0, "target_modules": ["q_proj", "up_proj"]}
        (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "none"}))
    return found


@pytest.fixture
def tables(runs: dict[str, dict[int | None, Dense]], tmp_path: Path) -> dict[str, pd.DataFrame]:
    """As the jobs and the rule `tables` make them."""
    names = sorted(runs)
    for run in names:
        others = {name: tmp_path / "runs" / name for name in names if name > run}
        settings = TrajectorySettings(snapshots=STEPS)
        rows = trajectory.rows(settings, {"a": tmp_path / "runs" / run}, others)
        write_csv(tmp_path / "trajectory" / f"{run}.csv", rows)
    return trajectory.build(tmp_path, ["sft", "dpo", "rft"])


def stacked(update: Dense, layer: float) -> np.ndarray:
    """All modules' values as one vector, or those of a layer."""
    return np.concatenate([w.ravel() for name, w in update.items() if np.isnan(layer) or f".{layer:.0f}." in name])


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    both = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / both) if both else np.nan


def test_numbers_are_those_of_the_dense_updates(
    runs: dict[str, dict[int | None, Dense]], tables: dict[str, pd.DataFrame]
) -> None:
    of_run, of_pair = tables["trajectory"], tables["trajectory_pairs"]
    assert len(of_run) == 3 * 3 * 3  # all modules and layers 0 and 2
    assert list(of_run["run"].unique()) == ["sft", "dpo", "rft"]
    for row in of_run.astype({"layer": float}).itertuples():
        now, end = (stacked(runs[row.run][step], row.layer) for step in (row.step, None))
        assert row.norm == pytest.approx(np.linalg.norm(now), rel=1e-12)
        assert row.cosine_to_end == pytest.approx(cosine(now, end), abs=1e-12, nan_ok=True)
    assert list(of_pair.groupby(["a", "b"]).groups) == [("dpo", "rft"), ("dpo", "sft"), ("rft", "sft")]
    assert len(of_pair) == 3 * 3 * 3
    for row in of_pair.astype({"layer": float}).itertuples():
        a, b = (stacked(runs[run][row.step], row.layer) for run in (row.a, row.b))
        assert row.cosine == pytest.approx(cosine(a, b), abs=1e-12, nan_ok=True)
        assert (row.norm_a, row.norm_b) == pytest.approx((np.linalg.norm(a), np.linalg.norm(b)), rel=1e-12)
    assert of_pair.loc[of_pair["step"] == 1, "cosine"].isna().all()  # of updates that are 0


def test_words_and_figure_are_of_all_modules(
    runs: dict[str, dict[int | None, Dense]], tables: dict[str, pd.DataFrame]
) -> None:
    tables["training"] = pd.DataFrame({"run": ["sft", "dpo", "rft"], "method": ["sft", "dpo", "rft"]})
    said = trajectory.text(STUDY, tables)
    last = cosine(stacked(runs["sft"][8], np.nan), stacked(runs["rft"][8], np.nan))
    (row,) = [line for line in said.splitlines() if line.startswith("| sft")]
    assert f"{last:.4g}" in row
    assert "after steps 1 and 8" in said
    assert "An update of norm 0" in said
    assert "snapshots after steps 1, 2, 8" in trajectory.details(STUDY, tables)
    figure = drawing.styled(trajectory.draw)(tables, "rft")
    left, right = figure.axes
    assert left.get_lines()[0].get_ydata()[2] == pytest.approx(last)
    assert (len(left.get_lines()), len(right.get_lines())) == (2, 3)
    assert [label.get_text() for label in left.get_xticklabels()] == ["1", "2", "8"]
    figure.canvas.draw()


def test_a_single_missing_snapshot_is_named(tmp_path: Path, runs: dict[str, dict[int | None, Dense]]) -> None:
    assert runs
    with pytest.raises(Exception, match=r"snapshots/4.safetensors: no such file"):
        trajectory.rows(TrajectorySettings(snapshots=[4]), {"a": tmp_path / "runs" / "sft"}, {})
