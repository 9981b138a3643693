"""The gradients of online losses against REINFORCE and divergences by hand, dense and in float64; their samples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from deltageom.models.load import load_model
from deltageom.study.schema import Base
from deltageom.training.online.samples import FILE
from tests.conftest import save_tiny_model
from tests.training.dense import Dense
from tests.training.online.tiny_online import Gradients, built, by_tokens, move, online, paths

__all__ = ["by_tokens"]
SIZE = {"batch_size": 8, "micro_batch_size": 4, "steps": 1}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def logits(dense: Dense, row: Any) -> Tensor:
    """(T, V) at the completion's tokens."""
    weights = dict(dense.model.named_parameters())
    for name, (a, b) in dense.leaves.items():
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + dense.scale * b @ a
    return plain_logits(lambda ids: torch.func.functional_call(dense.model, weights, (ids,)).logits, row)


def plain_logits(model: Callable[[Tensor], Tensor], row: Any) -> Tensor:
    ids = torch.tensor([[*row.prompt_token_ids, *row.token_ids]])
    return model(ids)[0, len(row.prompt_token_ids) - 1 : -1]


def log_probs(dense: Dense, row: Any, temperature: float) -> Tensor:
    return (logits(dense, row) / temperature).log_softmax(-1)[torch.arange(len(row.token_ids)), list(row.token_ids)]


def one_step(run: Any, base: Path, folder: Path, **others: Any) -> tuple[Dense, pd.DataFrame, dict[str, Tensor], Any]:
    """The adapter before the step, its samples, and the gradients that the trainer has found."""
    trainer = built(run, paths(base, folder, **others))
    dense = Dense(base, run, move(trainer.model))
    gradients = Gradients(trainer)
    trainer.add_callback(gradients)
    trainer.train()
    trainer.samples.publish(folder)
    return dense, pd.read_parquet(folder / FILE), gradients.found[0], trainer


def check_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert {n.replace(".default", "") for n in expected} == {n.replace(".default", "") for n in found}
    by_name = {name.replace(".default", ""): gradient for name, gradient in found.items()}
    for name, gradient in expected.items():
        rounding = 1e-5 * float(gradient.abs().max())  # the trainer's is float32
        torch.testing.assert_close(by_name[name.replace(".default", "")], gradient, rtol=2e-4, atol=rounding)


def advantages(table: pd.DataFrame, scale: str) -> np.ndarray:
    """Group by group, in a loop."""
    found = np.zeros(len(table))
    for start in range(0, len(table), 4):
        rewards = table["reward"].to_numpy()[start : start + 4]
        spread = {"group": rewards.std(ddof=1) + 1e-4, "none": 1.0, "batch": table["reward"].std(ddof=1) + 1e-4}
        found[start : start + 4] = (rewards - rewards.mean()) / spread[scale]
    return found


@pytest.mark.parametrize("scale", ["group", "none", "batch"])
@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
@pytest.mark.usefixtures("by_tokens")
def test_the_gradient_is_reinforce_with_the_groups_mean_as_baseline(
    loss_type: str, scale: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    """One inner step: the policy is the one that drew, so the ratio is 1 and nothing clipped (2402.03300, eq. 20)."""
    options = {"loss_type": loss_type, "scale_rewards": scale}
    run = online(base_settings, "online_grpo", options, **SIZE)
    dense, table, found, _ = one_step(run, tiny_model, tmp_path)
    assert 0 < table["reward"].mean() < 1
    assert table["token_ids"].map(len).nunique() > 1
    terms = []
    tokens = table["token_ids"].map(len)
    for row, advantage in zip(table.itertuples(), advantages(table, scale), strict=True):
        per_token = -advantage * log_probs(dense, row, 1.0)
        divisor = {"grpo": len(table) * len(row.token_ids), "dapo": tokens.sum(), "dr_grpo": len(table) * 6}
        terms.append(per_token.sum() / divisor[loss_type])
    check_equal(found, dense.gradients(sum(terms)))


@pytest.mark.usefixtures("by_tokens")
def test_another_temperature_is_that_of_the_policy_in_the_loss_too(
    tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    run = online(base_settings, "online_grpo", {"temperature": 0.7}, **SIZE)
    dense, table, found, _ = one_step(run, tiny_model, tmp_path)
    for row in table.itertuples():
        np.testing.assert_allclose(row.token_log_probs, log_probs(dense, row, 0.7).detach().numpy(), atol=2e-5)
    terms = [
        -advantage * log_probs(dense, row, 0.7).mean() / len(table)
        for row, advantage in zip(table.itertuples(), advantages(table, "group"), strict=True)
    ]
    check_equal(found, dense.gradients(sum(terms)))


@pytest.mark.usefixtures("by_tokens")
def test_what_was_cut_off_has_no_loss_where_the_study_says_so(
    tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    run = online(base_settings, "online_dapo", **SIZE)
    dense, table, found, trainer = one_step(run, tiny_model, tmp_path)
    ended = [row.token_ids[-1] in trainer.ends for row in table.itertuples()]
    assert 0 < sum(ended) < len(ended)
    tokens = sum(len(row.token_ids) for row, whole in zip(table.itertuples(), ended, strict=True) if whole)
    terms = [
        -advantage * log_probs(dense, row, 1.0).sum() / tokens
        for row, advantage, whole in zip(table.itertuples(), advantages(table, "group"), ended, strict=True)
        if whole
    ]
    check_equal(found, dense.gradients(sum(terms)))


@pytest.mark.usefixtures("by_tokens")
def test_the_kl_penalty_is_k3_to_the_base(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    """Times the ratio, which is 1 here, but whose gradient makes that of the penalty the KL's (2512.02556)."""
    run = online(base_settings, "online_grpo", {"beta": 0.3}, **SIZE)
    dense, table, found, trainer = one_step(run, tiny_model, tmp_path)
    terms, penalties = [], []
    for row, advantage in zip(table.itertuples(), advantages(table, "group"), strict=True):
        own = dense.log_probs(list(row.prompt_token_ids), list(row.token_ids))
        base = dense.log_probs(list(row.prompt_token_ids), list(row.token_ids), adapted=False).detach()
        k3 = (base - own).exp() - (base - own) - 1
        ratio = (own - own.detach()).exp()
        terms.append((-advantage * own + 0.3 * k3 * ratio).mean() / len(table))
        penalties.append(k3.detach())
    check_equal(found, dense.gradients(sum(terms)))
    logged = trainer.state.log_history[0]["kl_penalty"]
    # TRL's mean is over micro batches
    each = [float(torch.cat(penalties[i : i + 4]).mean()) for i in (0, 4)]
    assert min(each) * 0.5 < logged < max(each) * 2


def rewarded(value: float) -> Callable[..., Any]:
    from tests.training.online.tiny_online import graded_by_tokens

    def graded(*asked: Any) -> Any:
        drawn = graded_by_tokens(*asked)
        return type(drawn)(drawn.asked, drawn.completions, drawn.texts, [value] * len(drawn.rewards), drawn.extracted)

    return graded


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_a_constant_reward_moves_nothing(
    reward: float, tiny_model: Path, base_settings: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deltageom.training.online.trainers.grade", rewarded(reward))
    run = online(base_settings, "online_grpo", batch_size=8, micro_batch_size=4, steps=2)
    _, _, found, trainer = one_step(run, tiny_model, tmp_path)
    assert all(not gradient.any() for gradient in found.values())
    assert [logs["mixed_groups"] for logs in trainer.state.log_history[:2]] == [0.0, 0.0]


def test_a_group_of_equal_rewards_gives_no_gradient_and_the_other_does(
    tiny_model: Path, base_settings: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.training.online.tiny_online import graded_by_tokens

    def graded(*asked: Any) -> Any:
        drawn = graded_by_tokens(*asked)
        rewards = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
        return type(drawn)(drawn.asked, drawn.completions, drawn.texts, rewards, drawn.extracted)

    monkeypatch.setattr("deltageom.training.online.trainers.grade", graded)
    run = online(base_settings, "online_grpo", **SIZE)
    dense, table, found, trainer = one_step(run, tiny_model, tmp_path)
    # by hand: mean 1/4, deviation 1/2
    expected = [0.75 / 0.5001, *[-0.25 / 0.5001] * 3, 0.0, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(advantages(table, "group"), expected, atol=1e-12)
    terms = [
        -a * log_probs(dense, row, 1.0).mean() / 8 for row, a in zip(table.itertuples(), expected, strict=True) if a
    ]
    check_equal(found, dense.gradients(sum(terms)))
    logs = trainer.state.log_history[0]
    assert (logs["reward"], logs["mixed_groups"]) == (5 / 8, 0.5)
    assert logs["reward_deviation"] == pytest.approx((3**0.5 / 4 + 0) / 2)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with other weights."""
    folder = save_tiny_model(tmp_path_factory.mktemp("teacher"), head_dim=16)
    base = Base.model_validate(
        {"model": str(folder), "revision": None, "layers": 2, "modules": ["self_attn.q_proj"], "dtype": "float32"}
        | {"attention": "sdpa", "trust_remote_code": False}
    )
    model = load_model(str(folder), base, "cpu")
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.usefixtures("by_tokens")
def test_distillation_is_the_divergence_to_the_teacher_on_the_runs_own_tokens(
    beta: float, teacher: Path, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    run = online(base_settings, "on_policy_distillation", {"beta": beta}, **SIZE)
    dense, table, found, _ = one_step(run, tiny_model, tmp_path, teacher=str(teacher))
    theirs = load_model(str(teacher), run.base, "cpu").double()
    terms = []
    for row in table.itertuples():
        own = logits(dense, row).log_softmax(-1)
        with torch.no_grad():
            other = plain_logits(lambda ids: theirs(ids).logits, row).log_softmax(-1)
        terms.append(divergence(own, other, beta).sum())
    loss = sum(terms) / table["token_ids"].map(len).sum()
    check_equal(found, dense.gradients(loss))


def divergence(own: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """(T,): KL(teacher || own) at 0, KL(own || teacher) at 1, and between them (2306.13649, eq. 1)."""
    p, q = teacher.exp(), own.exp()
    if beta == 0:
        return (p * (teacher - own)).sum(-1)
    if beta == 1:
        return (q * (own - teacher)).sum(-1)
    middle = (beta * p + (1 - beta) * q).log()
    return beta * (p * (teacher - middle)).sum(-1) + (1 - beta) * (q * (own - middle)).sum(-1)


@pytest.mark.usefixtures("by_tokens")
def test_kept_log_probs_are_those_of_a_plain_forward_pass(
    tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    run = online(base_settings, "online_grpo", **SIZE)
    dense, table, _, _ = one_step(run, tiny_model, tmp_path)
    for row in table.itertuples():
        expected = dense.log_probs(list(row.prompt_token_ids), list(row.token_ids)).detach().numpy()
        np.testing.assert_allclose(row.token_log_probs, expected, atol=2e-5)
        assert row.log_prob == pytest.approx(expected.sum(), abs=1e-4)


@pytest.mark.usefixtures("by_tokens")
def test_a_completion_does_not_depend_on_its_batch(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    def drawn(seed: int, at_once: int, **sizes: int) -> list[tuple[int, ...]]:
        section = {"batch_size": at_once, "seed": seed}
        run = online(base_settings, "online_grpo", None, section, **SIZE | sizes)
        folder = tmp_path / f"{seed}-{at_once}-{len(sizes)}"
        return [tuple(ids) for ids in one_step(run, tiny_model, folder)[1]["token_ids"]]

    whole = drawn(1, 64)
    assert drawn(1, 3) == drawn(1, 64, micro_batch_size=8) == whole
    # nor are those of one group, or of another seed, copies
    assert len(set(whole)) > 4
    assert not set(drawn(2, 64)) & set(whole)


@pytest.mark.usefixtures("by_tokens")
def test_a_problem_that_comes_again_is_answered_anew(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    """Not by the same random numbers: here the run hardly changes."""
    run = online(base_settings, "online_grpo", **SIZE | {"steps": 4, "learning_rate": 1e-12})
    table = one_step(run, tiny_model, tmp_path)[1].set_index(["problem_id", "sample"])["token_ids"].map(tuple)
    first, again = table[:16], table[16:]  # four problems, two in a step
    assert set(first.index) == set(again.index)
    assert sum(first[key] == again[key] for key in first.index) < 4


class Engine:
    """In place of vLLM, which needs a GPU: the same calls, tokens of its own, and log-probs that are off by .01."""

    def __init__(self, **told: Any) -> None:
        self.told, self.synced = told, 0

    def sync_weights(self) -> None:
        self.synced += 1

    def generate(self, prompts: list[list[int]], **_: Any) -> tuple[Any, ...]:
        random = np.random.default_rng(self.synced)
        ids = [random.integers(10, 100, 5).tolist() for _ in prompts]
        model = self.told["model"]
        with torch.no_grad():
            scores = [
                model(torch.tensor([[*prompt, *own]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
                for prompt, own in zip(prompts, ids, strict=True)
            ]
        log_probs = [
            [[float(score[t, token]) + 0.01] for t, token in enumerate(own)]
            for score, own in zip(scores, ids, strict=True)
        ]
        return prompts, ids, log_probs, None


@pytest.mark.parametrize("method", ["online_grpo", "on_policy_distillation"])
@pytest.mark.usefixtures("by_tokens")
def test_vllm_is_told_what_the_study_says_and_its_samples_are_kept(
    method: str, tiny_model: Path, base_settings: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("grpo_trainer", "distillation_trainer"):
        monkeypatch.setattr(f"trl.trainer.{module}.VLLMGeneration", Engine, raising=False)
        monkeypatch.setattr(f"trl.trainer.{module}.is_vllm_available", lambda: True, raising=False)
    run = online(base_settings, method, {"temperature": 0.9}, {"engine": "vllm", "sleep": False}, **SIZE | {"steps": 2})
    given = paths(tiny_model, tmp_path, **({"teacher": str(tiny_model)} if run.teacher else {}))
    trainer = built(run, given)
    trainer.train()
    engine = trainer.vllm_generation
    told = {"mode": "colocate", "enable_sleep_mode": False, "gpu_memory_utilization": 0.9, "temperature": 0.9}
    assert {name: engine.told[name] for name in told} == told
    assert engine.told["max_completion_length"] == 6
    assert engine.synced == 2
    trainer.samples.publish(tmp_path)
    table = pd.read_parquet(tmp_path / FILE)
    assert table["token_ids"].map(len).tolist() == [5] * 16
    if method == "online_grpo":
        # which TRL corrects for: the ratio of the run's own probabilities to vLLM's
        gap = trainer.state.log_history[0]["sampling/sampling_logp_difference/mean"]
        assert gap > 0
        assert table["token_log_probs"].map(len).tolist() == [5] * 16
