"""The trainers' own parts: optimiser, padding, prompts, order of the rows, collators, initial A."""

from pathlib import Path
from typing import Any

import pytest
import torch

from deltageom.models.load import load_tokenizer
from deltageom.study.schema import Base
from deltageom.training.batches import IGNORED, Cycle, PairCollator, RowCollator
from tests.training.test_steps import Gradients
from tests.training.tiny_runs import built, rollouts, settings


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


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
        batch = RowCollator(pad, columns=("reward",))(examples)
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
    tokenizer = load_tokenizer(str(tiny_model), base_settings)
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


def test_cycle_goes_through_shared_places_in_one_order() -> None:
    """Rows that another run leaves out are skipped; rows of one place stand together, as they come."""
    every = list(Cycle([7] * 9, 1, 18, 3))
    kept = [1, 4, 5, 8]
    some = list(Cycle([7] * 4, 1, 8, 3, kept, 9))
    assert [kept[row] for row in some] == [row for row in every if row in kept]
    twice = list(Cycle([7] * 5, 1, 5, 3, [1, 1, 4, 5, 8], 9))
    assert [[0, 0, 1, 2, 3][row] for row in twice] == [x for row in some[:4] for x in ([0, 0] if row == 0 else [row])]
    assert [row for row in twice if row < 2] == [0, 1]
    assert list(Cycle([7] * 9, 1, 18, 3, range(9), 9)) == every


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


def test_collator_puts_token_columns_on_the_completion() -> None:
    """Aligned with the labels, and so, shifted alike, with the log-probs."""
    examples = [
        {"input_ids": [5, 6, 7, 8], "labels": [IGNORED, IGNORED, 7, 8], "weight": 0.5, "behaviour": [-1.0, -2.0]},
        {"input_ids": [5, 9], "labels": [IGNORED, 9], "weight": 2.0, "behaviour": [-3.0]},
    ]
    batch = RowCollator(0, columns=("weight",), token_columns=("behaviour",))(examples)
    assert batch["weight"].tolist() == [0.5, 2.0]
    assert batch["behaviour"].tolist() == [[0, 0, -1, -2], [0, -3, 0, 0]]
    assert ((batch["behaviour"] != 0) == (batch["labels"] != IGNORED)).all()


def test_pairs_are_the_chosen_rows_then_the_rejected() -> None:
    pairs = [
        {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]},
        {"prompt_ids": [6], "chosen_ids": [7, 8], "rejected_ids": [9]},
    ]
    batch = PairCollator(0)(pairs)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 0], [6, 7, 8, 0], [1, 2, 4, 5], [6, 9, 0, 0]]
    assert batch["attention_mask"].sum(1).tolist() == [3, 3, 4, 2]
    assert [[t for t in row if t != IGNORED] for row in batch["labels"].tolist()] == [[3], [7, 8], [4, 5], [9]]


@pytest.mark.parametrize("method", ["sft", "dpo", "simpo", "kto"])
def test_prompts_get_exactly_no_gradient(method: str, tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    """Nothing that is predicted on a prompt moves the model: the last hidden states there have gradient 0."""
    run = settings(base_settings, method, micro_batch_size=8)
    trainer = built(run, rollouts("1100 1010"), tiny_model, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    if method == "kto":
        trainer.kl = torch.zeros(())
    hidden = []

    def keep(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
            hidden.append(output)

    trainer.model.get_base_model().model.norm.register_forward_hook(keep)
    trainer.model.train()
    trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(8)).backward()
    completion = batch["labels"] != IGNORED if "labels" in batch else batch["completion_mask"] == 1
    predicts = torch.zeros_like(completion)
    predicts[:, :-1] = completion[:, 1:]
    (state,) = hidden
    gradient = state.grad
    assert (gradient[~predicts] == 0).all()
    assert (gradient[predicts].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("method", ["sft", "rift", "dpo", "simpo", "kto"])
def test_no_logits_of_the_whole_batch_are_kept(
    method: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    """Nothing that the backward pass keeps has a number for every token of the vocabulary at every position."""
    trainer = built(settings(base_settings, method, micro_batch_size=8), rollouts("1100 1010"), tiny_model, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.kl = torch.zeros(())
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(8))
    logits = batch["input_ids"][:, 1:].numel() * trainer.model.config.vocab_size
    assert max(p.numel() for p in trainer.model.parameters()) < logits
    assert 0 < max(kept) < logits
