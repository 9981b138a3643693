"""One step of every method through TRL's trainers against the same step by hand (dense.py), and its laws."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import TrainerCallback

from deltageom.methods import interface
from deltageom.study.schema import Base
from deltageom.study.settings import TrainSettings
from tests.training.dense import Dense, Factors, loss_of, pairs, row_loss, selected
from tests.training.tiny_runs import built, rollouts, settings

LIKELIHOOD = [
    "sft",
    "rft",
    "dft",
    "rift",
    "rift_linear",
    "offline_grpo",
    "offline_grpo_weighted",
    "offline_grpo_clipped",
]
PREFERENCE = [
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "apo_zero", "apo_down"),
    *("discopop", "sigmoid_norm"),
]
SMOOTHING = {"exo_pair": 0.1, "robust": 0.1}
# so that every term of a loss is large enough to be seen
OPTIONS: dict[str, dict[str, Any]] = {
    "rift": {"reward_correct": 1.5, "reward_wrong": -500.0},
    "offline_grpo_clipped": {"clip": 0.7, "bias": 0.05},
    "simpo": {"max_pairs": None, "gamma": 0.7},
    "cpo": {"max_pairs": None, "nll_weight": 0.4, "beta": 0.3},
    "kto": {"desirable_weight": 1.3, "undesirable_weight": 0.7, "beta": 0.3},
    "dpo": {"max_pairs": None, "beta": 0.3},
}
CASES = [
    *((method, {}, reduction) for method in LIKELIHOOD for reduction in ("token", "sequence", "length")),
    *(("rift", {"probability": kind}, "token") for kind in ("length_normalised", "token")),
    *(("dpo", {"loss_type": kind, "label_smoothing": SMOOTHING.get(kind, 0.0)}, "token") for kind in PREFERENCE),
    *((method, {}, "token") for method in ("simpo", "cpo", "kto")),
    ("kto", {"loss_type": "apo_zero_unpaired"}, "token"),
]
PAIRED = "10 01 1000 1100"  # 9 pairs
UNPAIRED = "1010 1111 0001 0000"  # 16 rows


class Gradients(TrainerCallback):
    """Keeps each step's gradients, after clipping, which the trainer clears."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
        self.steps.append({name: grad.detach().double().clone() for name, grad in named})


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def step(
    run: TrainSettings, table: pd.DataFrame, base: Path, folder: Path
) -> tuple[dict[str, float], dict[str, torch.Tensor], Factors]:
    """What is logged of the first step from a random B (at B = 0 the gradient of A is 0), its gradients, and the
    factors there."""
    trainer = built(run, table, base, folder)
    generator = torch.Generator().manual_seed(3)
    factors: Factors = {}
    for name, module in trainer.model.get_base_model().named_modules():
        if hasattr(module, "lora_B"):
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            b.data.copy_(torch.randn(b.shape, generator=generator) * 0.2)
            factors[name] = (a.detach().double().clone(), b.detach().double().clone())
    gradients = Gradients()
    trainer.add_callback(gradients)
    trainer.train()
    return trainer.state.log_history[0], gradients.steps[0], factors


def of(method: str, base: Base, options: dict[str, Any] | None = None, **training: Any) -> TrainSettings:
    return settings(base, method, OPTIONS.get(method, {}) | (options or {}), steps=1, **training)


def table_for(method: str) -> pd.DataFrame:
    return rollouts(PAIRED if interface.in_pairs(interface.load(method)) else UNPAIRED)


def size(run: TrainSettings, table: pd.DataFrame) -> int:
    """Rows or pairs in all: the batch is each of them, once."""
    paired = interface.in_pairs(interface.load(run.method))
    return len(list(pairs(table))) if paired else len(selected(run, table))


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize(("method", "options", "reduction"), CASES)
def test_a_step_is_the_dense_formula(
    method: str, options: dict[str, Any], reduction: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    table = table_for(method)
    n = size(of(method, base_settings, options), table)
    run = of(method, base_settings, options, reduction=reduction, batch_size=n, micro_batch_size=1)
    logged, found, factors = step(run, table, tiny_model, tmp_path)
    dense = Dense(tiny_model, run, factors)
    expected = loss_of(run, dense, table)
    assert logged["loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert_same(found, dense.gradients(expected))


@pytest.mark.parametrize(("method", "options", "reduction"), CASES)
def test_accumulation_and_padding_change_nothing(
    method: str, options: dict[str, Any], reduction: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    """1 x 8 = 8 x 1 = 2 x 4, though a micro batch of 8 pads and one of 1 does not."""
    table = table_for(method)
    steps = [
        step(
            of(method, base_settings, options, reduction=reduction, micro_batch_size=micro), table, tiny_model, tmp_path
        )
        for micro in (1, 8, 4)
    ]
    for logged, gradients, _ in steps[1:]:
        assert logged["loss"] == pytest.approx(steps[0][0]["loss"], rel=1e-5)
        assert_same(gradients, steps[0][1])


@pytest.mark.parametrize(("kl_seed", "positive"), [(40, True), (23, False)])
def test_ktos_reference_point(
    kl_seed: int, positive: bool, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    """The mean log-ratio of the global batch's mismatched completions, each another problem's, not below 0."""
    table = rollouts(UNPAIRED)
    for micro in (2, 16):
        run = of("kto", base_settings, {"kl_seed": kl_seed}, batch_size=16, micro_batch_size=micro)
        logged, _, factors = step(run, table, tiny_model, tmp_path)
        dense = Dense(tiny_model, run, factors)
        by_name = {(row.problem_id, row.sample): row for row in table.itertuples()}
        ratios = []
        for pair in pd.read_parquet(tmp_path / "mismatched.parquet").itertuples():
            assert pair.other_problem_id != pair.problem_id
            other = by_name[pair.other_problem_id, pair.other_sample]
            ratios.append(dense.log_ratio(by_name[pair.problem_id, pair.sample], other.token_ids).item())
        mean = sum(ratios) / 16
        assert (mean > 0.01) == positive
        assert logged["kl"] == pytest.approx(max(mean, 0.0), rel=1e-4)


def test_every_method_is_in_the_cases() -> None:
    of_sft = {"sft_solutions"}  # its loss is sft's, on other rows
    assert {method for method, *_ in CASES} == set(interface.offline_names()) - of_sft


def test_rslora_scales_by_the_root_of_the_rank(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    table = rollouts()
    run = of("sft", base_settings, batch_size=16, lora={"rslora": True})
    logged, found, factors = step(run, table, tiny_model, tmp_path)
    dense = Dense(tiny_model, run, factors)
    assert dense.scale == 8.0 / 2
    expected = loss_of(run, dense, table)
    assert logged["loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert_same(found, dense.gradients(expected))


@pytest.mark.parametrize("method", ["sft", "offline_grpo", "rift"])
def test_parts_of_the_loss(method: str, tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    """The losses of correct and of wrong rows, each as the dense formula has them with the others' left out."""
    table = rollouts()
    run = of(method, base_settings, batch_size=16, micro_batch_size=2)
    logged, _, factors = step(run, table, tiny_model, tmp_path)
    dense = Dense(tiny_model, run, factors)
    tokens = table["token_ids"].map(len)
    parts = {0.0: 0.0, 1.0: 0.0}
    for row in table.itertuples():
        parts[row.reward] += row_loss(run, dense, table, row).item() / tokens.sum()
    assert logged["loss_correct"] == pytest.approx(parts[1.0], rel=1e-4)
    assert logged["loss_wrong"] == pytest.approx(parts[0.0], rel=1e-4)
    assert logged["loss_correct"] + logged["loss_wrong"] == pytest.approx(logged["loss"], rel=1e-4)
    assert logged["token_share_correct"] == pytest.approx(tokens[table["reward"] == 1].sum() / tokens.sum())


def test_log_probs_of_chosen_and_rejected(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    """The means over a batch's pairs of the whole completions' log-probs."""
    table = rollouts(PAIRED)
    run = of("simpo", base_settings, batch_size=9, micro_batch_size=3)
    logged, _, factors = step(run, table, tiny_model, tmp_path)
    dense = Dense(tiny_model, run, factors)
    for side, name in enumerate(("log_prob_chosen", "log_prob_rejected")):
        rows = [pair[side] for pair in pairs(table)]
        totals = [dense.log_probs(row.prompt_token_ids, row.token_ids).sum().item() for row in rows]
        assert logged[name] == pytest.approx(sum(totals) / 9, rel=1e-4)


def test_weight_share_is_of_the_losss_derivative(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    """Of SFT every token weighs alike; of the linear RIFT with lambda 0.75 the correct ones weigh a quarter."""
    table = rollouts()
    correct = table["token_ids"].map(len)[table["reward"] == 1].sum()
    wrong = table["token_ids"].map(len).sum() - correct
    for method, weight in (("sft", 1.0), ("rift_linear", 0.25)):
        run = of(method, base_settings, {"lambda": 0.75} if method == "rift_linear" else {}, batch_size=16)
        logged, _, _ = step(run, table, tiny_model, tmp_path)
        assert logged["weight_share_correct"] == pytest.approx(weight * correct / (weight * correct + wrong))
