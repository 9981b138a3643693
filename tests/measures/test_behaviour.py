"""KL between base and run against a naive sum in float64 of dense models, and its laws."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from deltageom.deltas.open import open_run
from deltageom.errors import UserError
from deltageom.evaluation.statistics import ratio_of_sums
from deltageom.generation.engine import Completion
from deltageom.measures import behaviour
from deltageom.measures.shared import policies
from deltageom.measures.shared.settings import BehaviourSettings
from deltageom.models.load import Model, load_model, load_run, load_tokenizer
from deltageom.models.prompts import prompt_ids
from deltageom.problems.problem import Problem
from deltageom.study.measured import Behaviour
from deltageom.study.running import Transformers
from deltageom.study.schema import Base, Prompt
from deltageom.training import monitoring

PROBLEMS = [Problem(f"p{i}", f"Tom has {i} apples{' and pens' * (i % 3)}.", "3", None) for i in range(6)]
Settings = Callable[..., BehaviourSettings]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def settings(base_settings: Base, prompt: Prompt) -> Settings:
    def told(**changes: Any) -> BehaviourSettings:
        wanted = {"benchmark": "easy", "prompts": 6, "max_tokens": 8, "batch_size": 4, "seed": 0} | changes
        return BehaviourSettings(
            behaviour=Behaviour(**wanted),
            prompt=prompt,
            base=base_settings,
            device="cpu",
            transformers=Transformers(batch_tokens=131072),
        )

    return told


def gentle(adapter: Path, folder: Path, factor: float) -> Path:
    """The adapter with `factor` times its B: a random one of full size is far from every base."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    weights = load_file(adapter / "adapter_model.safetensors")
    scaled = {name: value * (factor if "lora_B" in name else 1.0) for name, value in weights.items()}
    save_file(scaled, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def run(tiny_adapters: dict[str, Path], tmp_path: Path) -> Path:
    return gentle(tiny_adapters["first"], tmp_path / "gentle", 0.3)


def dense(base: Path, settings: Base, run: Path) -> dict[str, Model]:
    """Base and run in float64, the delta written into the weights."""
    models = {side: load_model(str(base), settings, "cpu").double() for side in policies.SIDES}
    for module in open_run(run).modules:
        delta = torch.from_numpy(open_run(run).read(module).dense())
        models["run"].get_submodule(f"model.{module}").weight.data += delta
    return models


def naive(models: dict[str, Model], side: str, prompt: list[int], tokens: list[int]) -> dict[str, float]:
    """One sequence at a time, one token at a time, one word of the vocabulary at a time."""
    other = "run" if side == "base" else "base"
    sums = dict.fromkeys(("kl", "k3", "agreed", "entropy"), 0.0)
    policy: dict[str, Tensor] = {}
    for position, token in enumerate(tokens):
        ids = torch.tensor([[*prompt, *tokens[:position]]])
        for name, model in models.items():
            with torch.no_grad():
                policy[name] = model(ids).logits[0, -1].softmax(-1)
        p, q = policy[side].tolist(), policy[other].tolist()
        sums["kl"] += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
        sums["entropy"] -= sum(x * math.log(x) for x in p)
        sums["k3"] += q[token] / p[token] - 1 - math.log(q[token] / p[token])
        sums["agreed"] += max(p) == p[max(range(len(q)), key=q.__getitem__)]
    return sums


def test_sums_are_those_of_a_naive_float64_computation(
    tiny_model: Path, base_settings: Base, prompt: Prompt, run: Path
) -> None:
    tokenizer = load_tokenizer(str(tiny_model), base_settings)
    prompts = [prompt_ids(tokenizer, prompt, problem.question) for problem in PROBLEMS]
    drawn = np.random.default_rng(0)
    samples = [Completion(drawn.integers(10, 100, n).tolist(), [0.0] * n, "length") for n in (1, 5, 3, 2, 4, 6)]
    models, sides = dense(tiny_model, base_settings, run), policies.Sides(base_settings, "cpu", str(tiny_model), run)
    for side in policies.SIDES:
        found = policies.compare(sides, side, prompts, samples, batch_size=4)
        for ids, sample, row in zip(prompts, samples, found, strict=True):
            expected = naive(models, side, ids, list(sample.token_ids))
            assert row["tokens"] == len(sample.token_ids)
            assert row["agreed"] == expected["agreed"]
            for name in ("kl", "k3", "entropy"):
                assert row[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-5), name
            assert row["kl"] > 0.01


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kl_is_never_negative_and_zero_for_a_zero_adapter_alone(
    dtype: str, tiny_model: Path, base_settings: Base, settings: Settings, run: Path, tmp_path: Path
) -> None:
    zero, told = gentle(run, tmp_path / "zero", 0.0), settings()
    told = told.model_copy(update={"base": base_settings.model_copy(update={"dtype": dtype})})
    table = pd.DataFrame(policies.distances(told, str(tiny_model), zero, PROBLEMS))
    assert (table[["kl", "k3"]] == 0).all(axis=None)
    assert (table["agreed"] == table["tokens"]).all()
    sides = {side: of.drop(columns="side").reset_index(drop=True) for side, of in table.groupby("side")}
    pd.testing.assert_frame_equal(sides["base"], sides["run"])  # the same random numbers, the same samples
    moved = pd.DataFrame(policies.distances(told, str(tiny_model), run, PROBLEMS))
    assert (moved[["kl", "k3", "entropy"]] > 0).all(axis=None)
    assert list(moved["problem_id"]) == 2 * [problem.id for problem in PROBLEMS]
    assert list(moved["side"]) == ["base"] * 6 + ["run"] * 6


def test_batches_change_nothing(tiny_model: Path, settings: Settings, run: Path) -> None:
    one, four = (
        pd.DataFrame(policies.distances(settings(batch_size=size), str(tiny_model), run, PROBLEMS)) for size in (1, 4)
    )
    pd.testing.assert_frame_equal(one, four, rtol=1e-3)


def test_k3_agrees_with_the_exact_sum_within_its_error(
    tiny_model: Path, settings: Settings, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    """On samples of its own side, whose mean it is; and not on those of another policy."""
    near = gentle(tiny_adapters["first"], tmp_path / "near", 0.1)
    many = [Problem(f"p{i}", f"Ana buys {i}.", "3", None) for i in range(200)]
    told = settings(prompts=200, max_tokens=12, batch_size=50)
    table = pd.DataFrame(policies.distances(told, str(tiny_model), near, many))
    for _, of in table.groupby("side"):
        difference, error = ratio_of_sums(of["k3"] - of["kl"], of["tokens"])
        exact, _ = ratio_of_sums(of["kl"], of["tokens"])
        assert error is not None
        assert abs(difference) < 3 * error
        assert error < 0.25 * exact


def test_a_run_without_an_adapter_is_measured_as_its_merged_adapter(
    tiny_model: Path, base_settings: Base, settings: Settings, run: Path, tmp_path: Path
) -> None:
    merged = load_run(str(tiny_model), base_settings, "cpu", run).merge_and_unload()
    merged.save_pretrained(tmp_path / "whole")
    with_adapter, whole = (
        pd.DataFrame(policies.distances(settings(), str(tiny_model), folder, PROBLEMS))
        for folder in (run, tmp_path / "whole")
    )
    pd.testing.assert_frame_equal(with_adapter, whole, rtol=1e-3)


def test_too_many_tokens_are_an_error_before_the_model_is_loaded(
    tiny_model: Path, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"measures\.behaviour: the longest prompt .* lower max_tokens"):
        policies.distances(settings(max_tokens=512), str(tiny_model), tmp_path / "none", PROBLEMS)


def test_means_and_errors_are_those_of_the_training_curves() -> None:
    drawn = np.random.default_rng(1)
    terms = [torch.from_numpy(drawn.random(n)) for n in (3, 5, 2, 7)]
    found = ratio_of_sums([float(t.sum()) for t in terms], [len(t) for t in terms])
    assert found == pytest.approx(monitoring.mean_over_samples(terms))
    assert ratio_of_sums([3.0], [2]) == (1.5, None)


def test_table_has_a_row_per_run() -> None:
    samples = pd.DataFrame(
        {
            "side": ["base", "base", "run", "run"],
            "problem_id": ["p", "q"] * 2,
            "kl": [1.0, 3.0, 4.0, 6.0],
            "k3": [2.0, 2.0, 5.0, 5.0],
            "agreed": [1, 2, 0, 0],
            "entropy": [4.0, 4.0, 1.0, 2.0],
            "tokens": [2, 2, 4, 6],
            "ended": [1, 0, 1, 1],
        }
    )
    table = behaviour.behaviour({"x": samples, "y": samples})
    assert list(table["run"]) == ["x", "y"]
    row = table.iloc[0]
    assert (row["forward_kl"], row["reverse_kl"]) == (1.0, 1.0)
    assert (row["forward_k3"], row["reverse_k3"]) == (1.0, 1.0)
    assert (row["agreement"], row["base_entropy"], row["run_entropy"]) == (0.75, 2.0, 0.3)
    assert (row["base_length"], row["run_length"], row["base_ended"], row["run_ended"]) == (2.0, 5.0, 0.5, 1.0)
    assert row["forward_kl_se"] == pytest.approx(0.5)
    assert set(behaviour.numbers(table)["measure"]) == set(behaviour.NUMBERS)
