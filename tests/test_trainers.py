"""One step through TRL's trainers against a dense computation in float64: no fused head, padding, micro batch
or PEFT."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import TrainerCallback

from deltageom import models, training
from deltageom.jobs import TrainSettings
from deltageom.methods import interface
from deltageom.schema import Base
from deltageom.trainers import ColumnCollator, Cycle
from tests.tiny_runs import rollouts, settings

LIKELIHOOD = ["sft", "rft", "dft", "rift", "rift_linear", "offline_grpo"]
OPTIONS = {"rift": {"reward_correct": 1.5, "reward_wrong": -500.0}, "dpo": {"max_pairs": 2}}
Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]


class Gradients(TrainerCallback):
    """Keeps each step's gradients, after clipping, which the trainer clears."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
        self.steps.append({name: grad.detach().double().clone() for name, grad in named})


def built(run: TrainSettings, table: pd.DataFrame, folder: Path, scratch: Path) -> Any:
    method = interface.load(run.method)
    options = method.Options.model_validate(run.options)
    chosen, _ = training.select(table_of(table), method, options, run)
    dataset = training.dataset_of(table_of(table), chosen)
    model, tokenizer = (
        models.load_model(str(folder), run.base, "cpu"),
        models.load_tokenizer(str(folder), run.base),
    )
    return training.build_trainer(run, method, options, model, tokenizer, dataset, scratch)


def table_of(table: pd.DataFrame) -> pd.DataFrame:
    """Lists as parquet gives them back."""
    return table.assign(
        prompt_token_ids=table["prompt_token_ids"].map(np.array), token_ids=table["token_ids"].map(np.array)
    )


def step(
    run: TrainSettings, table: pd.DataFrame, folder: Path, scratch: Path
) -> tuple[float, dict[str, torch.Tensor], Factors]:
    """Loss and gradients of the first step from a random B (at B = 0 the gradient of A is 0), and the factors
    there."""
    trainer = built(run, table, folder, scratch)
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
    return trainer.state.log_history[0]["loss"], gradients.steps[0], factors


class Dense:
    """The tiny model in float64 with W + (alpha / r) B A for leaves A and B, one sequence at a time."""

    def __init__(self, folder: Path, base: Base, factors: Factors, scale: float) -> None:
        self.model = models.load_model(str(folder), base, "cpu").double().requires_grad_(False)
        self.leaves = {n: (a.requires_grad_(), b.requires_grad_()) for n, (a, b) in factors.items()}
        self.scale = scale

    def log_probs(self, prompt: list[int], completion: list[int], adapted: bool = True) -> torch.Tensor:
        weights = dict(self.model.named_parameters())
        if adapted:
            for name, (a, b) in self.leaves.items():
                weights[f"{name}.weight"] = weights[f"{name}.weight"] + self.scale * b @ a
        ids = torch.tensor([prompt + completion])
        logits = torch.func.functional_call(self.model, weights, (ids,), {"use_cache": False}).logits[0]
        first = len(prompt) - 1
        predicted = logits[first : first + len(completion)].log_softmax(-1)
        return predicted[torch.arange(len(completion)), torch.tensor(completion)]

    def gradients(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        loss.backward()
        return {
            f"base_model.model.{name}.lora_{which}.default.weight": leaf.grad
            for name, pair in self.leaves.items()
            for which, leaf in zip("AB", pair, strict=True)
        }


def dense_rows(method: str, dense: Dense, table: pd.DataFrame) -> list[tuple[torch.Tensor, int]]:
    """Each selected row's loss, written out afresh from paper and options, and its tokens."""
    means = table.groupby("problem_id")["reward"].mean()
    rows = []
    for row in table.itertuples():
        if method == "rft" and row.reward == 0:
            continue
        log_probs = dense.log_probs(row.prompt_token_ids, row.token_ids)
        negative = -log_probs.sum()
        loss = {
            "sft": lambda nll=negative: nll,
            "rft": lambda nll=negative: nll,
            "dft": lambda lp=log_probs: sum(p.exp().item() * -p for p in lp),
            "rift": lambda nll=negative, r=row.reward: 1.5 * nll if r == 1 else 500.0 * torch.exp(-nll),
            "rift_linear": lambda nll=negative, r=row.reward: nll * (0.5 if r == 1 else 1.0),
            "offline_grpo": lambda nll=negative, r=row.reward, p=row.problem_id: nll * (r - means[p] + 0.1),
        }[method]()
        rows.append((loss, len(row.token_ids)))
    return rows


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("reduction", ["token", "sequence"])
@pytest.mark.parametrize("method", LIKELIHOOD)
def test_likelihood_step_is_the_dense_formula(
    method: str, reduction: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    table = rollouts()
    n = int(table["reward"].sum()) if method == "rft" else len(table)  # the batch is every selected row, once
    run = settings(
        base_settings,
        method,
        OPTIONS.get(method),
        reduction=reduction,
        batch_size=n,
        micro_batch_size=1,
        steps=1,
    )
    loss, found, factors = step(run, table, tiny_model, tmp_path)
    dense = Dense(tiny_model, base_settings, factors, 8.0 / 4)
    rows = dense_rows(method, dense, table)
    assert len(rows) == n
    expected = sum(row for row, _ in rows) / (sum(t for _, t in rows) if reduction == "token" else n)
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    assert_same(found, dense.gradients(expected))


def test_dpo_step_is_the_dense_formula_with_the_base_as_reference(
    tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    table = rollouts("10 01 1000")
    run = settings(base_settings, "dpo", {"beta": 0.3, "max_pairs": 9}, batch_size=5, micro_batch_size=1, steps=1)
    loss, found, factors = step(run, table, tiny_model, tmp_path)
    dense = Dense(tiny_model, base_settings, factors, 8.0 / 4)
    rows = table.set_index(["problem_id", "sample"])

    def margin(problem: str, sample: int) -> torch.Tensor:
        ids = rows.loc[(problem, sample), ["prompt_token_ids", "token_ids"]]
        return dense.log_probs(*ids).sum() - dense.log_probs(*ids, adapted=False).sum()

    # p0 and p1 have one pair each; p2 three, of which all are taken
    pairs = [(("p0", 0), ("p0", 1)), (("p1", 1), ("p1", 0)), *((("p2", 0), ("p2", s)) for s in (1, 2, 3))]
    expected = sum(torch.log1p(torch.exp(-0.3 * (margin(*c) - margin(*r)))) for c, r in pairs) / len(pairs)
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    assert abs(expected.item() - np.log(2)) > 1e-3  # the reference is not the adapter itself
    assert_same(found, dense.gradients(expected))


@pytest.mark.parametrize(
    ("method", "reduction"),
    [("sft", "token"), ("sft", "sequence"), ("rift", "token"), ("dft", "sequence"), ("dpo", "token")],
)
def test_accumulation_and_padding_change_nothing(
    method: str, reduction: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    """1 x 8 = 8 x 1 = 2 x 4, though a micro batch of 8 pads and one of 1 does not."""
    steps = [
        step(
            settings(
                base_settings,
                method,
                OPTIONS.get(method),
                reduction=reduction,
                steps=1,
                micro_batch_size=micro,
            ),
            rollouts(),
            tiny_model,
            tmp_path,
        )
        for micro in (1, 8, 4)
    ]
    for loss, gradients, _ in steps[1:]:
        assert loss == pytest.approx(steps[0][0], rel=1e-5)
        assert_same(gradients, steps[0][1])


def test_steps_are_clipped_adamw_with_weight_decay(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    run = settings(base_settings, "sft", max_grad_norm=0.01, weight_decay=5.0, warmup=0.0, schedule="linear")
    trainer = built(run, rollouts(), tiny_model, tmp_path)
    gradients = Gradients()
    trainer.add_callback(gradients)
    trainable = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    replayed = {n: p.detach().double().clone().requires_grad_() for n, p in trainable.items()}
    optimiser = torch.optim.AdamW(replayed.values(), lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=5.0)
    trainer.train()
    for rate, found in zip((0.01, 0.0075, 0.005, 0.0025), gradients.steps, strict=True):
        assert torch.cat([g.flatten() for g in found.values()]).norm().item() == pytest.approx(0.01, rel=1e-3)
        for name, gradient in found.items():
            replayed[name].grad = gradient
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
    assert all(logs["grad_norm"] > 0.01 for logs in trainer.state.log_history if "loss" in logs)  # before clipping
    for name, parameter in trainable.items():
        torch.testing.assert_close(parameter.detach().double(), replayed[name].detach(), rtol=1e-4, atol=1e-6)


def test_ids_that_are_padding_have_no_effect_at_all(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    trainer = built(settings(base_settings, "sft"), rollouts(), tiny_model, tmp_path)
    examples = [trainer.train_dataset[i] for i in range(8)]
    losses = []
    for pad in (0, 77):
        batch = ColumnCollator(pad)(examples)
        losses.append(trainer.compute_loss(trainer.model, batch, num_items_in_batch=10).item())
        assert (batch["input_ids"] == pad).any()
    assert losses[0] == losses[1]


def test_prompt_tokens_carry_no_loss(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    """The loss reads the prompt as context alone: the log-probs that it is given there are exactly 0."""
    trainer = built(settings(base_settings, "sft"), rollouts("1"), tiny_model, tmp_path)
    seen = {}
    trainer.row_loss = lambda log_probs, mask, _: seen.update(p=log_probs, m=mask) or log_probs.sum(-1)
    table = rollouts("1")
    prompt, completion = table["prompt_token_ids"][0], table["token_ids"][0]
    batch = trainer.data_collator([trainer.train_dataset[0]])
    trainer.compute_loss(trainer.model, batch, num_items_in_batch=1)
    assert batch["input_ids"][0].tolist() == prompt + completion
    assert seen["m"].int().tolist() == [[0] * (len(prompt) - 1) + [1] * len(completion)]
    assert (seen["p"][~seen["m"]] == 0).all()
    assert (seen["p"][seen["m"]] < 0).all()


def test_an_end_of_sequence_token_is_trained_on_though_it_may_pad(
    tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    table = rollouts("11")
    tokenizer = models.load_tokenizer(str(tiny_model), base_settings)
    table["token_ids"] = [[*ids, tokenizer.eos_token_id] for ids in table["token_ids"]]
    trainer = built(settings(base_settings, "sft"), table, tiny_model, tmp_path)
    trainer.data_collator.pad_token_id = tokenizer.eos_token_id
    batch = trainer.data_collator(list(trainer.train_dataset))
    trained = (batch["labels"] == tokenizer.eos_token_id).sum(-1)
    assert trained.tolist() == [1, 1]
    assert (batch["attention_mask"] * (batch["labels"] == tokenizer.eos_token_id)).sum() == 2


def test_dpo_trains_on_the_sampled_ids(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    table = rollouts("10")
    trainer = built(settings(base_settings, "dpo"), table, tiny_model, tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    for row, ids in enumerate(table["token_ids"]):
        assert batch["input_ids"][row][batch["completion_mask"][row] == 1].tolist() == ids
        prompt = (batch["completion_mask"][row] == 0) & (batch["attention_mask"][row] == 1)
        assert batch["input_ids"][row][prompt].tolist() == table["prompt_token_ids"][0]


def test_cycle_is_one_permutation_after_another_by_seed() -> None:
    def order(batches: int = 13, seed: int = 1) -> list[int]:
        return list(Cycle([7] * 5, 1, batches, seed))

    rows = order()
    assert len(Cycle([7] * 5, 1, 13, 1)) == len(rows) == 13
    assert sorted(rows[:5]) == sorted(rows[5:10]) == list(range(5))
    assert rows[:5] != rows[5:10]
    assert len(set(rows[10:])) == 3
    assert rows == order()
    assert rows[:10] == order(batches=10)
    assert rows != order(seed=2)


def test_cycle_sorts_by_length_within_a_global_batch_alone() -> None:
    lengths = [3, 9, 4, 1, 5, 9, 2]
    plain = list(Cycle([0] * 7, 3, 5, 1))  # equal lengths keep the order that was drawn
    rows = list(Cycle(lengths, 3, 5, 1))
    assert rows != plain
    for start in range(0, 15, 3):
        assert sorted(rows[start : start + 3]) == sorted(plain[start : start + 3])
        found = [lengths[row] for row in rows[start : start + 3]]
        assert found == sorted(found, reverse=True)


def test_initial_a_is_equal_in_every_method_whatever_the_modules_order(
    tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    def initial(method: str, **lora: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(hash(method) % 100)  # the global generator has no say
        run = settings(base_settings, method, lora=lora, seed=len(method))
        model = built(run, rollouts(), tiny_model, tmp_path).model
        assert all((p == 0).all() for n, p in model.named_parameters() if "lora_B" in n)
        return {n: p.detach().clone() for n, p in model.named_parameters() if "lora_A" in n}

    sft, dpo = initial("sft"), initial("dpo")
    reordered = initial("rft", target_modules=["self_attn.o_proj", "self_attn.q_proj"])
    other = initial("sft", init_seed=7)
    assert len(sft) == 2 * 4
    assert len(reordered) == 2 * 2
    for name, a in sft.items():
        assert torch.equal(a, dpo[name])
        assert name not in reordered or torch.equal(a, reordered[name])
        assert not torch.equal(a, other[name])
        bound = 1 / a.shape[1] ** 0.5  # kaiming_uniform with a = sqrt 5
        assert 0.8 * bound < a.abs().max() <= bound
        assert a.std() == pytest.approx(bound / 3**0.5, rel=0.15)
    flat = [a.flatten()[:16] for a in sft.values()]
    assert not any(torch.equal(x, y) for i, x in enumerate(flat) for y in flat[:i])
