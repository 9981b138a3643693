"""Snapshots: the adapter after chosen steps, and a training that they leave as it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from deltageom.study.schema import Base
from deltageom.training.session import Execution
from deltageom.training.train import train
from tests.training.tiny_runs import paths, rollouts, settings

WEIGHTS = "adapter_model.safetensors"
OTHERS = ("adapter_config.json", "metrics.parquet", "selection.json")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def trained(base: Base, model: Path, folder: Path, method: str = "sft", **training: Any) -> Path:
    match = training.pop("match", None)
    run = settings(base, method, lora={"dropout": 0.2}, **training)
    given = paths(run, rollouts(), model, folder, match=match)
    train(run, given, Execution())
    return given.output


def snapshots(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "snapshots").iterdir())


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_snapshots_are_the_ends_of_shorter_trainings_and_change_nothing(
    method: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    kept = trained(base_settings, tiny_model, tmp_path / "kept", method, snapshots=[4, 1, 3])
    plain = trained(base_settings, tiny_model, tmp_path / "plain", method)
    assert snapshots(kept) == ["1.safetensors", "3.safetensors", "4.safetensors"]
    assert not (plain / "snapshots").exists()
    for name in (WEIGHTS, *OTHERS):
        assert (kept / name).read_bytes() == (plain / name).read_bytes(), name
    assert (kept / "snapshots" / "4.safetensors").read_bytes() == (kept / WEIGHTS).read_bytes()
    shorter = trained(base_settings, tiny_model, tmp_path / "shorter", method, report_step=3)
    assert (kept / "snapshots" / "3.safetensors").read_bytes() == (shorter / WEIGHTS).read_bytes()
    assert (kept / "snapshots" / "1.safetensors").read_bytes() != (shorter / WEIGHTS).read_bytes()


def test_snapshots_are_of_the_update_before_it_is_scaled(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    other = trained(base_settings, tiny_model, tmp_path / "other") / "selection.json"
    match = {"run": "other", "how": "scale"}
    output = trained(
        base_settings, tiny_model, tmp_path / "scaled", "dft", match_norm=match, snapshots=[4], match=other
    )
    scale = json.loads((output / "selection.json").read_text())["scale"]
    assert scale != 1.0
    before = load_file(output / "snapshots" / "4.safetensors")
    for name, weight in load_file(output / WEIGHTS).items():
        torch.testing.assert_close(weight, before[name] * (scale if "lora_B" in name else 1.0))
