"""Closed forms, gradients and laws of the losses, in float64."""

import math

import pytest
import torch

from deltageom import losses

LOG_PROBS = torch.tensor([[-0.5, -1.25, -2.0], [-0.25, -3.0, -0.75]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])
REWARDS = torch.tensor([1.0, 0.0], dtype=torch.float64)

ALL = {
    "sft": lambda p, m: losses.sft(p, m),
    "dft": lambda p, m: losses.dft(p, m),
    "rift": lambda p, m: losses.rift(p, m, REWARDS, 1.0, -0.2),
    "rift_linear": lambda p, m: losses.rift_linear(p, m, REWARDS, 0.5),
    "offline_grpo": lambda p, m: losses.offline_grpo(p, m, REWARDS - 0.4),
}


def test_sft_is_the_summed_negative_log_likelihood_of_the_completion() -> None:
    assert losses.sft(LOG_PROBS, MASK).tolist() == [3.75, 3.25]


def test_dft_is_half_the_cross_entropy_on_uniform_two_token_logits() -> None:
    uniform = torch.full((2, 3), math.log(0.5), dtype=torch.float64)
    torch.testing.assert_close(losses.dft(uniform, MASK), 0.5 * losses.sft(uniform, MASK))


def test_dft_weighs_each_token_by_its_own_probability_without_its_gradient() -> None:
    log_probs = LOG_PROBS.clone().requires_grad_()
    rows = losses.dft(log_probs, MASK)
    assert rows[1].item() == pytest.approx(0.25 * math.exp(-0.25) + 3 * math.exp(-3))
    rows.sum().backward()
    # With its gradient the weight would make it -p (1 + log p).
    torch.testing.assert_close(log_probs.grad, -LOG_PROBS.exp() * MASK)


def test_rift_is_log_likelihood_where_positive_and_probability_where_negative() -> None:
    rows = losses.rift(LOG_PROBS, MASK, REWARDS, 1.5, -0.2)
    assert rows.tolist() == pytest.approx([1.5 * 3.75, 0.2 * math.exp(-3.25)])


@pytest.mark.parametrize("probability", [0.9, 0.1, 1e-6])
def test_rift_negative_term_has_constant_gradient_in_the_probability(probability: float) -> None:
    pi = torch.tensor([[probability]], dtype=torch.float64, requires_grad=True)
    losses.rift(pi.log(), torch.ones(1, 1), torch.zeros(1), 1.0, -0.2).sum().backward()
    assert pi.grad.item() == pytest.approx(0.2)


def test_rift_negative_term_of_a_long_completion_vanishes_without_a_nan() -> None:
    log_probs = torch.full((1, 2000), -1.0, requires_grad=True)
    row = losses.rift(log_probs, torch.ones(1, 2000), torch.zeros(1), 1.0, -0.2)
    row.sum().backward()
    assert row.item() == 0
    assert log_probs.grad.abs().max() == 0


def test_rift_linear_weighs_the_correct_rows_down() -> None:
    assert losses.rift_linear(LOG_PROBS, MASK, REWARDS, 0.25).tolist() == [0.75 * 3.75, 3.25]


def test_rift_linear_without_lambda_is_sft() -> None:
    assert torch.equal(losses.rift_linear(LOG_PROBS, MASK, REWARDS, 0.0), losses.sft(LOG_PROBS, MASK))


def test_offline_grpo_is_the_likelihood_times_the_advantage() -> None:
    advantages = torch.tensor([0.6, -0.4], dtype=torch.float64)
    assert losses.offline_grpo(LOG_PROBS, MASK, advantages).tolist() == pytest.approx([2.25, -1.3])


@pytest.mark.parametrize("name", ALL)
def test_what_is_masked_has_no_effect_on_value_or_gradient(name: str) -> None:
    padded = torch.cat([LOG_PROBS, torch.tensor([[math.nan], [-math.inf]], dtype=torch.float64)], 1)
    log_probs = padded.clone().requires_grad_()
    rows = ALL[name](log_probs, torch.cat([MASK, torch.zeros(2, 1, dtype=MASK.dtype)], 1))
    assert torch.equal(rows, ALL[name](LOG_PROBS, MASK))
    rows.sum().backward()
    assert torch.equal(log_probs.grad[:, 3], torch.zeros(2, dtype=torch.float64))
    assert log_probs.grad[1, 2] == 0


@pytest.mark.parametrize("name", ALL)
def test_a_row_does_not_see_the_others(name: str) -> None:
    changed = LOG_PROBS.clone()
    changed[1] -= 1
    assert ALL[name](changed, MASK)[0] == ALL[name](LOG_PROBS, MASK)[0]
    assert ALL[name](changed, MASK)[1] != ALL[name](LOG_PROBS, MASK)[1]


def test_reductions_divide_by_the_global_batch_and_add_up_over_micro_batches() -> None:
    rows = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    for reduction, expected in (("token", 16 / 32), ("sequence", 16 / 4)):
        whole = losses.reduce(rows, 32, 4, reduction)
        parts = losses.reduce(rows[:3], 32, 4, reduction) + losses.reduce(rows[3:], 32, 4, reduction)
        assert whole.item() == parts.item() == expected
