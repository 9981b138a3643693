"""train(): what it writes, when it writes nothing, and that it does the same twice."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from deltageom.errors import UserError
from deltageom.study.schema import Base
from deltageom.study.settings import TrainSettings
from deltageom.training import session
from deltageom.training.output.saving import CHECKPOINT_FILES
from deltageom.training.session import Execution
from deltageom.training.train import train
from tests.training.tiny_runs import paths, rollouts, settings

FILES = ["adapter_config.json", "adapter_model.safetensors", "metrics.parquet", "selection.json"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def trained(run: TrainSettings, table: pd.DataFrame, base: Path, folder: Path, **others: Any) -> Path:
    given = paths(run, table, base, folder, **others)
    train(run, given, Execution())
    return given.output


def metrics(output: Path) -> pd.DataFrame:
    """One row a step, a column a metric."""
    return pd.read_parquet(output / "metrics.parquet").pivot(index="step", columns="metric", values="value")


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
    said = json.loads((output / "selection.json").read_text())
    norm = said.pop("delta_norm")
    assert said == {
        "rows": 16,
        "correct": 7,
        "wrong": 9,
        "problems": 4,
        "mixed_problems": 2,
        "unit": "rows",
        "selected": 7,
        "duplicates": 0,
        "dropped_over_length": 0,
        "epochs": 4 * 8 / 7,
        "steps_done": 4,
        "stopped": "steps",
        "matched_norm": None,
        "scale": 1.0,
        "kl_to_base": None,
    }
    rows = metrics(output)
    assert list(rows.index) == [1, 2, 3, 4]
    assert rows["epoch"].tolist() == pytest.approx([8 / 7 * n for n in (1, 2, 3, 4)])
    assert {"loss", "learning_rate", "grad_norm", "tokens", "delta_norm", "loss_correct"} <= set(rows.columns)
    assert rows.notna().all(axis=None)
    assert rows["loss_wrong"].tolist() == [0, 0, 0, 0]
    right = table[table["reward"] == 1]
    tokens = right["prompt_token_ids"].map(len).sum() + right["token_ids"].map(len).sum()
    assert tokens < rows["tokens"][1] < 2 * tokens  # 8 of 7 rows: all of them and one more
    # the norm as logged, as said, and of the dense product of what was written
    tensors = load_file(output / FILES[1])
    names = {name.rsplit(".lora_", 1)[0] for name in tensors}
    dense = [2.0 * tensors[f"{n}.lora_B.weight"].double() @ tensors[f"{n}.lora_A.weight"].double() for n in names]
    assert norm == pytest.approx(math.sqrt(sum((d**2).sum().item() for d in dense)))
    assert rows["delta_norm"][4] == norm
    assert rows["delta_norm"].is_monotonic_increasing


def test_report_step_stops_within_the_whole_schedule(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    def of(name: str, **training: Any) -> pd.DataFrame:
        run = settings(base_settings, "sft", warmup=0.25, **training)
        return metrics(trained(run, rollouts(), tiny_model, tmp_path / name))

    whole = of("whole", steps=6)
    pd.testing.assert_frame_equal(of("part", steps=6, report_step=5), whole[:5], check_exact=True)
    assert not of("short", steps=5).equals(whole[:5])
    # two steps of warm-up, then half a cosine over the other four
    expected = [0, 0.005, *(0.005 * (1 + math.cos(math.pi * k / 4)) for k in range(4))]
    assert whole["learning_rate"].tolist() == pytest.approx(expected)


def test_equal_rows_are_seen_in_equal_order(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    def tokens(method: str, seed: int) -> list[float]:
        run = settings(base_settings, method, batch_size=1, micro_batch_size=1, steps=9, seed=seed)
        return metrics(trained(run, rollouts(), tiny_model, tmp_path))["tokens"].tolist()

    assert tokens("sft", 42) == tokens("offline_grpo", 42)
    assert tokens("sft", 42) != tokens("sft", 43)


def test_rows_of_weight_zero_are_those_of_a_loss_that_is_zero_there(
    tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    """RFT with `shared_zero` is RIFT without its negative term, batch by batch; skipping them is another training."""
    rift = settings(base_settings, "rift", {"reward_wrong": 0.0}, order="own")
    expected = load_file(trained(rift, rollouts(), tiny_model, tmp_path / "rift") / "adapter_model.safetensors")

    def rft(order: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        output = trained(settings(base_settings, "rft", order=order), rollouts(), tiny_model, tmp_path / order)
        selection = json.loads((output / "selection.json").read_text())
        return load_file(output / "adapter_model.safetensors"), selection

    zero, counts = rft("shared_zero")
    torch.testing.assert_close(zero, expected, rtol=1e-6, atol=1e-7)
    assert (counts["selected"], counts["epochs"]) == (7, 2.0)  # 4 steps of 8 rows, of which there are 16
    skipped, counts = rft("shared")
    assert counts["epochs"] == pytest.approx(32 / 7)
    assert not all(torch.allclose(skipped[name], expected[name]) for name in expected)


@pytest.mark.parametrize("method", ["dpo", "simpo", "kto", "offline_grpo_clipped", "sft_solutions"])
def test_every_family_trains_in_a_shared_order(
    method: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    table = pd.concat([rollouts(), rollouts("1 1 1 1", "reference")], ignore_index=True)
    reference = table[["problem_id", "sample"]].assign(base_log_prob=-20.0).drop_duplicates(["problem_id", "sample"])
    reference.to_parquet(tmp_path / "reference.parquet")
    for order in ("shared", "shared_zero"):
        run = settings(base_settings, method, order=order, micro_batch_size=4)
        output = trained(run, table, tiny_model, tmp_path / order, reference=tmp_path / "reference.parquet")
        assert math.isfinite(metrics(output)["loss"].iloc[-1])


@pytest.mark.parametrize("schedule", ["linear", "constant_with_warmup"])
def test_schedules(schedule: str, tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    run = settings(base_settings, "sft", schedule=schedule, warmup=0.0)
    rates = metrics(trained(run, rollouts(), tiny_model, tmp_path))["learning_rate"].tolist()
    falling = [1, 0.75, 0.5, 0.25] if schedule == "linear" else [1, 1, 1, 1]
    assert rates == pytest.approx([0.01 * f for f in falling])


@pytest.mark.parametrize("how", ["stop", "scale"])
def test_norms_are_matched(how: str, tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    other = trained(settings(base_settings, "sft"), rollouts(), tiny_model, tmp_path / "other")
    target = json.loads((other / "selection.json").read_text())["delta_norm"]
    match = {"run": "other", "how": how}
    run = settings(base_settings, "dft", match_norm=match, steps=40, learning_rate=0.003)
    output = trained(run, rollouts(), tiny_model, tmp_path / how, match=other / "selection.json")
    said, rows = json.loads((output / "selection.json").read_text()), metrics(output)
    assert said["matched_norm"] == pytest.approx(target)
    if how == "stop":
        assert said["stopped"] == "norm"
        assert 4 < said["steps_done"] == len(rows) < 40
        assert rows["delta_norm"].iloc[-2] < target <= rows["delta_norm"].iloc[-1] == said["delta_norm"]
        assert said["scale"] == 1.0
    else:
        assert (said["stopped"], said["steps_done"]) == ("steps", 40)
        assert said["delta_norm"] == pytest.approx(target)
        assert said["scale"] == pytest.approx(target / rows["delta_norm"].iloc[-1])
        plain = run.model_copy(update={"training": run.training.model_copy(update={"match_norm": None})})
        unscaled = load_file(trained(plain, rollouts(), tiny_model, tmp_path / "plain") / FILES[1])
        for name, weight in load_file(output / FILES[1]).items():
            torch.testing.assert_close(weight, unscaled[name] * (said["scale"] if "lora_B" in name else 1.0))


def test_a_norm_that_is_not_reached_is_an_error(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    other = trained(settings(base_settings, "sft"), rollouts(), tiny_model, tmp_path / "other")
    run = settings(base_settings, "sft", match_norm={"run": "other", "how": "stop"}, steps=2)
    with pytest.raises(UserError, match=r"run 'tried': after 2 steps its delta's norm is .* of run 'other': raise its"):
        trained(run, rollouts(), tiny_model, tmp_path / "short", match=other / "selection.json")
    assert not (tmp_path / "short" / "run").exists()


@pytest.mark.parametrize("method", ["sft", "dpo", "simpo", "kto"])
def test_without_an_adapter_every_weight_is_trained(
    method: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    run = settings(base_settings, method, adapter="none", learning_rate=1e-3)
    output = trained(run, rollouts(), tiny_model, tmp_path)
    assert sorted(path.name for path in output.iterdir()) == sorted([*CHECKPOINT_FILES, *FILES[2:]])
    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (tiny_model, output))
    assert before.keys() == after.keys()
    assert all((after[name] != weight).any() for name, weight in before.items())
    assert json.loads((output / "selection.json").read_text())["delta_norm"] is None


def test_a_regular_expression_chooses_layers_and_modules(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    run = settings(base_settings, "sft", lora={"target_modules": r"layers\.1\.(mlp\.up|self_attn\.[qv])_proj"})
    names = load_file(trained(run, rollouts(), tiny_model, tmp_path) / FILES[1]).keys()
    modules = {re.search(r"layers.*(?=\.lora)", name)[0] for name in names}
    assert modules == set(run.training.lora.targets(base_settings))
    assert modules == {"layers.1.mlp.up_proj", "layers.1.self_attn.q_proj", "layers.1.self_attn.v_proj"}


def test_modules_that_the_model_lacks_are_an_error(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    run = settings(base_settings, "sft", lora={"target_modules": ["self_attn.q_proj", "self_attn.w_proj"]})
    with pytest.raises(UserError, match=r"lacks layers.0.self_attn.w_proj, layers.1.self_attn.w_proj"):
        trained(run, rollouts(), tiny_model, tmp_path)


def test_a_reporter_that_is_not_installed_is_an_error(
    tiny_model: Path, base_settings: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(session.AVAILABLE, "wandb", lambda: False)
    run = settings(base_settings, "sft")
    with pytest.raises(UserError, match=r"execution.report_to: wandb is not installed"):
        train(run, paths(run, rollouts(), tiny_model, tmp_path), Execution(report_to=("wandb",)))


def test_metrics_are_passed_on(
    tiny_model: Path, base_settings: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard's file stays beside the runs when the scratch folder goes."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")
    run = settings(base_settings, "sft")
    given = replace(paths(run, rollouts(), tiny_model, tmp_path), output=tmp_path / "results" / "runs" / "tried")
    train(run, given, Execution(report_to=("tensorboard",)))
    (events,) = (tmp_path / "results" / "tensorboard" / "tried").iterdir()
    for name in (b"train/loss", b"train/delta_norm", b"train/weight_share_correct"):
        assert name in events.read_bytes()


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
    run = settings(base_settings, method)
    given = replace(paths(run, rollouts(), tiny_model, tmp_path), base=str(tmp_path / "base"))
    with pytest.raises(UserError, match="run 'tried': loss is nan at step 1"):
        train(run, given, Execution())
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
