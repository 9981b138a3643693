"""The base's own log-probs, and how far a run has gone from it."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from deltageom.errors import UserError
from deltageom.study.schema import Base, Prompt
from deltageom.training.monitoring import k3, mean_over_samples
from deltageom.training.session import Execution
from deltageom.training.train import train
from tests.training.tiny_runs import PROBLEMS, built, paths, rollouts, settings, write_reference, write_rollouts


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def log_probs(model: torch.nn.Module, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """(T,) by the plain forward, one sequence at a time, in float64."""
    logits = model(torch.tensor([[*prompt, *completion]]), use_cache=False).logits[0].log_softmax(-1)
    first = len(prompt) - 1
    return logits[first : first + len(completion)][torch.arange(len(completion)), torch.tensor(completion)].detach()


def test_log_probs_are_the_bases(tiny_model: Path, base_settings: Base, prompt: Prompt, tmp_path: Path) -> None:
    table = pd.concat([rollouts("1010 0111"), rollouts("11", source="reference")], ignore_index=True)
    write_rollouts(table, tmp_path / "rollouts.parquet", tiny_model, base_settings)
    write_reference(tiny_model, base_settings, prompt, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tiny_model).double()
    scored = pd.read_parquet(tmp_path / "log_probs.parquet")
    sampled = table[table["source"] == "rollout"]
    assert scored[["problem_id", "sample"]].values.tolist() == sampled[["problem_id", "sample"]].values.tolist()
    for row, found in zip(sampled.itertuples(), scored["base_log_prob"], strict=True):
        assert found == pytest.approx(log_probs(model, row.prompt_token_ids, row.token_ids).sum().item(), abs=1e-4)

    held_out = pd.read_parquet(tmp_path / "held_out.parquet")
    assert held_out["problem_id"].tolist() == [problem.id for problem in PROBLEMS]
    for row in held_out.itertuples():
        expected = log_probs(model, list(row.prompt_token_ids), list(row.token_ids))
        assert 0 < len(expected) <= 8
        np.testing.assert_allclose(row.token_log_probs, expected, atol=1e-4)


def test_a_base_that_is_not_finite_is_an_error(
    tiny_model: Path, base_settings: Base, prompt: Prompt, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.model.norm.weight.data[0] = torch.nan
    shutil.copytree(tiny_model, tmp_path / "base")
    model.save_pretrained(tmp_path / "base")
    write_rollouts(rollouts(), tmp_path / "rollouts.parquet", tiny_model, base_settings)
    with pytest.raises(UserError, match="base: gives log-probs that are not finite"):
        write_reference(tmp_path / "base", base_settings, prompt, tmp_path)
    assert not (tmp_path / "log_probs.parquet").exists()


def test_cached_log_probs_train_as_the_bases_own(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    """DPO with the cached reference against TRL's own way, the adapter switched off in every step."""
    run = settings(base_settings, "dpo", {"max_pairs": None}, steps=3)
    losses = []
    for cached in (True, False):
        trainer = built(run, rollouts("1100 10 01"), tiny_model, tmp_path)
        assert trainer.precompute_ref_logps
        trainer.precompute_ref_logps = cached
        trainer.train()
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][0] == pytest.approx(math.log(2), rel=1e-4)  # the run is the base yet
    assert abs(losses[0][2] - math.log(2)) > 1e-3


def test_a_row_without_the_bases_log_prob_is_an_error(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    run = settings(base_settings, "dpo")
    given = paths(run, rollouts(), tiny_model, tmp_path)
    scored = pd.read_parquet(given.reference)
    scored[scored["sample"] != 2].to_parquet(given.reference)
    with pytest.raises(UserError, match="has no log-prob of problem 'p0', sample 2"):
        train(run, given, Execution())


def test_k3_is_the_kl_in_expectation_and_never_negative() -> None:
    """Over a known distribution: the estimate of all tokens, weighted by how often the base draws each, is the KL."""
    base = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    run = torch.tensor([0.4, 0.15, 0.45], dtype=torch.float64)
    kl = (base * (base / run).log()).sum().item()
    drawn = base.repeat_interleave(torch.tensor([5, 3, 2]))
    of_run = run.repeat_interleave(torch.tensor([5, 3, 2]))
    assert float(k3(of_run.log(), drawn.log()).mean()) == pytest.approx(kl)
    assert (k3(drawn.log(), drawn.log()) == 0).all()
    for p, q in zip(of_run, drawn, strict=True):
        assert k3(p.log(), q.log()) >= 0


def k3_by_hand(adapter: Path, base: Path, held_out: Path) -> float:
    """Of the adapter as written, by the plain forward."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).double().eval()
    terms: list[float] = []
    for row in pd.read_parquet(held_out).itertuples():
        of_run = log_probs(model, list(row.prompt_token_ids), list(row.token_ids)).numpy()
        ratio = of_run - np.array(row.token_log_probs)
        terms.extend(np.exp(ratio) - 1 - ratio)
    return float(np.mean(terms))


def test_kl_is_followed_at_its_steps(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    """And is what the written adapter gives on the same samples, by the plain forward."""
    run = settings(base_settings, "sft", steps=5, kl_every=2)
    given = paths(run, rollouts(), tiny_model, tmp_path)
    train(run, given, Execution())
    metrics = pd.read_parquet(given.output / "metrics.parquet")
    kl = metrics[metrics["metric"] == "kl_to_base"].set_index("step")["value"]
    assert list(kl.index) == [2, 4, 5]
    assert kl[5] == pytest.approx(k3_by_hand(given.output, tiny_model, given.held_out), rel=1e-3)
    assert 0 < kl[2] < kl[5]
    ending = json.loads((given.output / "selection.json").read_text())
    assert ending["kl_to_base"] == pytest.approx(kl[5], rel=1e-12)
    exact = exact_by_hand(given.output, tiny_model, given.held_out)
    assert ending["kl_exact"] == pytest.approx(sum(map(sum, exact)) / sum(map(len, exact)), rel=1e-3)
    assert 0 < ending["kl_exact_se"] < ending["kl_exact"]


def exact_by_hand(adapter: Path, base: Path, held_out: Path) -> list[list[float]]:
    """KL(base || run) at each token of each sample, by torch's own divergence on float64 logits."""
    models = [AutoModelForCausalLM.from_pretrained(base).double().eval() for _ in range(2)]
    models[1] = PeftModel.from_pretrained(models[1], adapter).double().eval()
    found = []
    for row in pd.read_parquet(held_out).itertuples():
        prompt, completion = list(row.prompt_token_ids), list(row.token_ids)
        with torch.no_grad():
            logits = [model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1] for model in models]
        of_base, of_run = (one.log_softmax(-1) for one in logits)
        terms = torch.nn.functional.kl_div(of_run, of_base, reduction="none", log_target=True).sum(-1)
        found.append(terms.tolist())
    return found


def test_the_standard_error_is_over_samples() -> None:
    """Against many drawn sets of samples of unequal lengths, whose tokens depend on each other."""
    rng = np.random.default_rng(0)

    def draw() -> list[torch.Tensor]:
        lengths = rng.integers(1, 12, 40)
        return [torch.full((int(n),), float(rng.gamma(2))) for n in lengths]

    means, errors = zip(*(mean_over_samples(draw()) for _ in range(600)), strict=True)
    assert np.mean([error for error in errors if error]) == pytest.approx(np.std(means), rel=0.08)
    assert mean_over_samples([torch.ones(3)]) == (1.0, None)


def test_the_kl_of_a_scaled_delta_is_its_own(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    other = paths(settings(base_settings, "sft"), rollouts(), tiny_model, tmp_path / "other")
    train(settings(base_settings, "sft"), other, Execution())
    run = settings(base_settings, "dft", match_norm={"run": "other", "how": "scale"}, steps=2, kl_every=2)
    given = paths(run, rollouts(), tiny_model, tmp_path, match=other.output / "selection.json")
    train(run, given, Execution())
    metrics = pd.read_parquet(given.output / "metrics.parquet")
    before = metrics[metrics["metric"] == "kl_to_base"]["value"].iloc[-1]
    after = json.loads((given.output / "selection.json").read_text())["kl_to_base"]
    assert after == pytest.approx(k3_by_hand(given.output, tiny_model, given.held_out), rel=1e-3)
    assert after > 2 * before


def test_following_the_kl_loses_no_other_metric(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    """TRL keeps its numbers by whether the model trains: it must when they are logged."""
    run = settings(base_settings, "dpo", kl_every=1, steps=2)
    given = paths(run, rollouts(), tiny_model, tmp_path)
    train(run, given, Execution())
    metrics = pd.read_parquet(given.output / "metrics.parquet").pivot(index="step", columns="metric", values="value")
    assert {"kl_to_base", "reward_margin", "reward_accuracy", "log_prob_chosen", "delta_norm"} <= set(metrics.columns)
    assert metrics.notna().all(axis=None)


def test_following_the_kl_changes_nothing_that_is_trained(
    tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    adapters = []
    for every in (None, 1):
        run = settings(base_settings, "sft", kl_every=every, lora={"dropout": 0.3})
        given = paths(run, rollouts(), tiny_model, tmp_path / str(every))
        train(run, given, Execution())
        adapters.append((given.output / "adapter_model.safetensors").read_bytes())
    assert adapters[0] == adapters[1]
