"""train(): what it writes, when it writes nothing, and that it does the same twice."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from deltageom.errors import UserError
from deltageom.jobs import TrainSettings
from deltageom.schema import Base
from deltageom.training import train
from tests.tiny_runs import rollouts, settings

FILES = ["adapter_config.json", "adapter_model.safetensors", "metrics.csv", "selection.json"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def trained(run: TrainSettings, table: pd.DataFrame, base: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    table.to_parquet(folder / "rollouts.parquet")
    train(run, str(base), folder / "rollouts.parquet", folder / "run", folder / "scratch")
    return folder / "run"


def lines(output: Path) -> list[dict[str, float]]:
    with (output / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_same_settings_same_bytes(method: str, tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    run = settings(base_settings, method)
    first, second = (trained(run, rollouts(), tiny_model, tmp_path / name) for name in "ab")
    assert sorted(path.name for path in first.iterdir()) == FILES
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    tensors = load_file(first / FILES[1])
    assert len(tensors) == 2 * 2 * 4
    assert all(b.abs().max() > 0 for name, b in tensors.items() if "lora_B" in name)


def test_files_say_what_was_done(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    table = rollouts()
    output = trained(settings(base_settings, "rft"), table, tiny_model, tmp_path)
    config = json.loads((output / FILES[0]).read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8.0)
    assert config["base_model_name_or_path"] == str(tiny_model)
    assert config["target_modules"] == sorted(config["target_modules"])
    assert json.loads((output / "selection.json").read_text()) == {
        "rows": 16,
        "correct": 7,
        "wrong": 9,
        "problems": 4,
        "mixed_problems": 2,
        "unit": "rows",
        "selected": 7,
        "dropped_over_length": 0,
        "epochs": 4 * 8 / 7,
    }
    rows = lines(output)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["epoch"] for row in rows] == pytest.approx([8 / 7 * n for n in (1, 2, 3, 4)])
    assert all(math.isfinite(value) for row in rows for value in row.values())
    right = table[table["reward"] == 1]
    tokens = right["prompt_token_ids"].map(len).sum() + right["token_ids"].map(len).sum()
    assert tokens < rows[0]["tokens"] < 2 * tokens  # 8 of 7 rows: all of them and one more


def test_report_step_stops_within_the_whole_schedule(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    def metrics(name: str, **training: Any) -> list[dict[str, float]]:
        run = settings(base_settings, "sft", warmup=0.25, **training)
        return lines(trained(run, rollouts(), tiny_model, tmp_path / name))

    whole = metrics("whole", steps=6)
    assert metrics("part", steps=6, report_step=5) == whole[:5]
    assert metrics("short", steps=5) != whole[:5]
    # two steps of warm-up, then half a cosine over the other four
    expected = [0, 0.005, *(0.005 * (1 + math.cos(math.pi * k / 4)) for k in range(4))]
    assert [row["learning_rate"] for row in whole] == pytest.approx(expected)


def test_equal_rows_are_seen_in_equal_order(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    def tokens(method: str, seed: int) -> list[float]:
        run = settings(base_settings, method, batch_size=1, micro_batch_size=1, steps=9, seed=seed)
        return [row["tokens"] for row in lines(trained(run, rollouts(), tiny_model, tmp_path))]

    assert tokens("sft", 42) == tokens("offline_grpo", 42)
    assert tokens("sft", 42) != tokens("sft", 43)


@pytest.mark.parametrize("schedule", ["linear", "constant_with_warmup"])
def test_schedules(schedule: str, tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    run = settings(base_settings, "sft", schedule=schedule, warmup=0.0)
    rates = [row["learning_rate"] for row in lines(trained(run, rollouts(), tiny_model, tmp_path))]
    falling = [1, 0.75, 0.5, 0.25] if schedule == "linear" else [1, 1, 1, 1]
    assert rates == pytest.approx([0.01 * f for f in falling])


def test_reference_solutions_and_rollouts_do_not_mix(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    table = pd.concat([rollouts("1010"), rollouts("111", source="reference")], ignore_index=True)
    counted = {}
    for method in ("sft", "sft_reference"):
        output = trained(settings(base_settings, method, steps=1), table, tiny_model, tmp_path / method)
        counted[method] = json.loads((output / "selection.json").read_text())["selected"]
    assert counted == {"sft": 4, "sft_reference": 3}


@pytest.mark.parametrize(
    ("method", "rewards", "counts"),
    [
        ("rft", "0000 000", "7 rows, 0 correct, 7 wrong, 2 problems, 0 mixed problems"),
        ("dpo", "1111 000", "7 rows, 4 correct, 3 wrong, 2 problems, 0 mixed problems"),
        ("sft_reference", "10", "0 rows, 0 correct, 0 wrong, 0 problems, 0 mixed problems"),
    ],
)
def test_an_empty_selection_is_an_error_with_the_counts(
    method: str, rewards: str, counts: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"'tried': method {method} finds no .*{counts}"):
        trained(settings(base_settings, method), rollouts(rewards), tiny_model, tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_row_over_max_length_is_an_error_or_a_counted_drop(
    method: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    table = rollouts("10 10 11")
    table["token_ids"] = table["token_ids"].where(table.index != 1, pd.Series([[20] * 30] * len(table)))
    limit = 30 + len(table["prompt_token_ids"][0])
    exact = trained(settings(base_settings, method, max_length=limit, steps=1), table, tiny_model, tmp_path / "a")
    assert json.loads((exact / "selection.json").read_text())["dropped_over_length"] == 0
    with pytest.raises(UserError, match=f"1 of 6 .*max_length {limit - 1}.*longest {limit} .*'p0'"):
        trained(settings(base_settings, method, max_length=limit - 1), table, tiny_model, tmp_path / "b")
    run = settings(base_settings, method, max_length=limit - 1, over_length="drop", steps=1)
    counts = json.loads((trained(run, table, tiny_model, tmp_path / "c") / "selection.json").read_text())
    assert counts["dropped_over_length"] == 1
    assert (counts["rows"], counts["mixed_problems"]) == (5, 1)
    assert counts["selected"] == {"sft": 5, "dpo": 1}[method]


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_loss_that_is_not_finite_stops_the_run_without_an_adapter(
    method: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.model.norm.weight.data[0] = torch.nan
    model.save_pretrained(tmp_path / "base")
    for file in tiny_model.glob("token*"):
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    for file in tiny_model.glob("*.jinja"):
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="run 'tried': loss is nan at step 1"):
        trained(settings(base_settings, method), rollouts(), tmp_path / "base", tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_learning_rate_that_blows_up_names_its_step(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    run = settings(base_settings, "sft", learning_rate=1e30, warmup=0.0)
    with pytest.raises(UserError, match=r"run 'tried': (loss|grad_norm) is (nan|inf) at step [234]"):
        trained(run, rollouts(), tiny_model, tmp_path)
    assert not (tmp_path / "run").exists()


def test_gradient_checkpointing_and_bfloat16_train(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    plain = trained(settings(base_settings, "sft"), rollouts(), tiny_model, tmp_path / "plain")
    run = settings(base_settings, "sft", gradient_checkpointing=True)
    checkpointed = trained(run, rollouts(), tiny_model, tmp_path / "checkpointed")
    assert (plain / FILES[1]).read_bytes() == (checkpointed / FILES[1]).read_bytes()
    half = settings(base_settings.model_copy(update={"dtype": "bfloat16"}), "sft")
    rough = load_file(trained(half, rollouts(), tiny_model, tmp_path / "half") / FILES[1])
    for name, tensor in load_file(plain / FILES[1]).items():
        assert rough[name].dtype == torch.float32
        assert (rough[name] - tensor).norm() < 0.2 * tensor.norm()
