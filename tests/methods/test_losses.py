"""Closed forms, gradients and laws of the losses, in float64."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl.experimental.cpo import CPOTrainer

from deltageom.methods import interface
from deltageom.training.reduction import reduce


def loss_of(
    name: str, log_probs: torch.Tensor, mask: torch.Tensor, columns: Any = None, **options: Any
) -> torch.Tensor:
    """A method's loss; options that it does not have here are those of no influence on it."""
    method = interface.load(name)
    return method.loss(log_probs, mask, columns or {}, method.options.model_construct(**options))


# the formulas, with what they read as arguments
losses = SimpleNamespace(
    sft=lambda p, m: loss_of("sft", p, m),
    dft=lambda p, m: loss_of("dft", p, m),
    rift=lambda p, m, rewards, right, wrong, kind: loss_of(
        "rift", p, m, {"rewards": rewards}, reward_correct=right, reward_wrong=wrong, probability=kind
    ),
    rift_linear=lambda p, m, rewards, weight: loss_of("rift_linear", p, m, {"rewards": rewards}, lambda_=weight),
    offline_grpo=lambda p, m, a: loss_of("offline_grpo", p, m, {"advantages": a}),
    offline_grpo_weighted=lambda p, m, a: loss_of("offline_grpo_weighted", p, m, {"advantages": a}),
    offline_grpo_clipped=lambda p, m, mu, a, clip: loss_of(
        "offline_grpo_clipped", p, m, {"behaviour": mu, "advantages": a}, clip=clip
    ),
    simpo=lambda p, m, beta, gamma: loss_of("simpo", p, m, beta=beta, gamma=gamma),
    cpo=lambda p, m, beta, weight: loss_of("cpo", p, m, beta=beta, nll_weight=weight),
    reduce=reduce,
)

LOG_PROBS = torch.tensor([[-0.5, -1.25, -2.0], [-0.25, -3.0, -0.75]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])
REWARDS = torch.tensor([1.0, 0.0], dtype=torch.float64)
BEHAVIOUR = torch.tensor([[-0.75, -1.25, -1.5], [-0.5, -2.5, math.nan]], dtype=torch.float64)  # nan is masked

ALL = {
    "sft": lambda p, m: losses.sft(p, m),
    "dft": lambda p, m: losses.dft(p, m),
    "rift": lambda p, m: losses.rift(p, m, REWARDS, 1.0, -0.2, "sequence"),
    "rift_length_normalised": lambda p, m: losses.rift(p, m, 1 - REWARDS, 1.0, -0.2, "length_normalised"),
    "rift_token": lambda p, m: losses.rift(p, m, 1 - REWARDS, 1.0, -0.2, "token"),
    "rift_linear": lambda p, m: losses.rift_linear(p, m, REWARDS, 0.5),
    "offline_grpo": lambda p, m: losses.offline_grpo(p, m, REWARDS - 0.4),
    "offline_grpo_weighted": lambda p, m: losses.offline_grpo_weighted(p, m, REWARDS - 0.4),
    "offline_grpo_clipped": lambda p, m: losses.offline_grpo_clipped(p, m, widened(BEHAVIOUR, p), REWARDS - 0.4, 0.5),
}
PAIRWISE = {
    "simpo": lambda p, m: losses.simpo(p, m, 2.0, 0.5),
    "cpo": lambda p, m: losses.cpo(p, m, 0.3, 0.7),
}


def widened(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(values, (0, like.shape[1] - values.shape[1]), value=math.nan)


def random_rows(rows: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and masks of completions of several lengths, each after a masked prompt token."""
    generator = torch.Generator().manual_seed(1)
    log_probs = -3 * torch.rand(rows, tokens, generator=generator, dtype=torch.float64)
    lengths = torch.arange(rows) % (tokens - 2) + 1
    place = torch.arange(tokens)
    return log_probs, ((place > 0) & (place <= lengths[:, None])).long()


def tokens_of(log_probs: torch.Tensor, mask: torch.Tensor) -> list[list[float]]:
    return [[p for p, m in zip(*row, strict=True) if m] for row in zip(log_probs.tolist(), mask.tolist(), strict=True)]


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
    rows = losses.rift(LOG_PROBS, MASK, REWARDS, 1.5, -0.2, "sequence")
    assert rows.tolist() == pytest.approx([1.5 * 3.75, 0.2 * math.exp(-3.25)])


@pytest.mark.parametrize("kind", ["sequence", "length_normalised", "token"])
@pytest.mark.parametrize("probability", [0.9, 0.1, 1e-6])
def test_rift_negative_term_has_constant_gradient_in_the_probability(probability: float, kind: str) -> None:
    pi = torch.tensor([[probability]], dtype=torch.float64, requires_grad=True)
    losses.rift(pi.log(), torch.ones(1, 1), torch.zeros(1), 1.0, -0.2, kind).sum().backward()
    assert pi.grad.item() == pytest.approx(0.2)


@pytest.mark.parametrize("kind", ["sequence", "length_normalised", "token"])
def test_rift_by_each_probability_is_the_formula_written_out(kind: str) -> None:
    log_probs, mask = random_rows(5, 6)
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    expected = []
    for reward, tokens in zip(rewards, tokens_of(log_probs, mask), strict=True):
        probabilities = [math.exp(token) for token in tokens]
        pi = {
            "sequence": math.prod(probabilities),
            "length_normalised": math.prod(probabilities) ** (1 / len(tokens)),
            "token": sum(probabilities),
        }[kind]
        expected.append(-1.5 * math.log(math.prod(probabilities)) if reward else 0.25 * pi)
    assert losses.rift(log_probs, mask, rewards, 1.5, -0.25, kind).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["length_normalised", "token"])
def test_rift_by_the_other_probabilities_has_a_gradient_on_a_long_completion(kind: str) -> None:
    log_probs = torch.full((1, 2000), -1.0, requires_grad=True)
    losses.rift(log_probs, torch.ones(1, 2000), torch.zeros(1), 1.0, -0.2, kind).sum().backward()
    each = 0.2 * math.exp(-1) / (2000 if kind == "length_normalised" else 1)
    torch.testing.assert_close(log_probs.grad, torch.full((1, 2000), each))


def test_rift_negative_term_of_a_long_completion_vanishes_without_a_nan() -> None:
    log_probs = torch.full((1, 2000), -1.0, requires_grad=True)
    row = losses.rift(log_probs, torch.ones(1, 2000), torch.zeros(1), 1.0, -0.2, "sequence")
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


def test_offline_grpo_weighted_is_the_sum_of_probabilities_with_their_gradient() -> None:
    advantages = torch.tensor([0.6, -0.4], dtype=torch.float64)
    log_probs = LOG_PROBS.clone().requires_grad_()
    rows = losses.offline_grpo_weighted(log_probs, MASK, advantages)
    assert rows.tolist() == pytest.approx(
        [-0.6 * (math.exp(-0.5) + math.exp(-1.25) + math.exp(-2)), 0.4 * (math.exp(-0.25) + math.exp(-3))]
    )
    rows.sum().backward()
    torch.testing.assert_close(log_probs.grad, -advantages[:, None] * LOG_PROBS.exp() * MASK)


def test_offline_grpo_clipped_is_the_surrogate_written_out() -> None:
    log_probs, mask = random_rows(8, 6)
    behaviour = log_probs.roll(1, 0) - 0.1
    advantages = torch.tensor([0.5, -0.5, 1.0, -1.0, 0.0, 0.25, -0.75, 0.1], dtype=torch.float64)
    expected = []
    for advantage, own, theirs in zip(
        advantages.tolist(), tokens_of(log_probs, mask), tokens_of(behaviour, mask), strict=True
    ):
        ratios = [math.exp(p - q) for p, q in zip(own, theirs, strict=True)]
        expected.append(-sum(min(r * advantage, min(max(r, 0.7), 1.3) * advantage) for r in ratios))
    rows = losses.offline_grpo_clipped(log_probs, mask, behaviour, advantages, 0.3)
    assert rows.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("advantage", "still"), [(0.5, [True, True, False]), (-0.5, [False, True, True])])
def test_offline_grpo_clipped_stops_where_the_advantage_is_already_taken(advantage: float, still: list[bool]) -> None:
    ratios = torch.tensor([[0.5, 1.1, 2.0]], dtype=torch.float64)
    behaviour = torch.full((1, 3), -3.0, dtype=torch.float64)
    log_probs = (ratios.log() + behaviour).requires_grad_()
    gain = torch.tensor([advantage], dtype=torch.float64)
    losses.offline_grpo_clipped(log_probs, torch.ones(1, 3), behaviour, gain, 0.2).sum().backward()
    torch.testing.assert_close(log_probs.grad, -advantage * ratios * torch.tensor([still]))


def test_offline_grpo_clipped_on_the_behaviour_itself_has_the_gradient_of_offline_grpo() -> None:
    gradients = []
    for loss in (losses.offline_grpo, lambda p, m, a: losses.offline_grpo_clipped(p, m, LOG_PROBS, a, 0.2)):
        log_probs = LOG_PROBS.clone().requires_grad_()
        loss(log_probs, MASK, REWARDS - 0.4).sum().backward()
        gradients.append(log_probs.grad)
    torch.testing.assert_close(*gradients)


def test_offline_grpo_clipped_bounds_a_ratio_that_overflows_in_float32() -> None:
    log_probs, behaviour = torch.tensor([[-1.0]], requires_grad=True), torch.tensor([[-200.0]])
    row = losses.offline_grpo_clipped(log_probs, torch.ones(1, 1), behaviour, torch.ones(1), 0.2)
    row.sum().backward()
    assert row.item() == pytest.approx(-1.2)
    assert log_probs.grad.item() == 0


def log_sigmoid(value: float) -> float:
    return -math.log1p(math.exp(-value))


def test_pairwise_closed_forms() -> None:
    # the chosen: -3.75 over 3 tokens; the rejected: -3.25 over 2
    assert losses.simpo(LOG_PROBS, MASK, 2.0, 0.5).tolist() == pytest.approx([-log_sigmoid(2 * (-1.25 + 1.625) - 0.5)])
    assert losses.cpo(LOG_PROBS, MASK, 0.3, 0.7).tolist() == pytest.approx([0.7 * 1.25 - log_sigmoid(0.3 * -0.5)])


@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.0), (2.5, 0.3)])
def test_pairwise_losses_written_out_with_the_chosen_first(beta: float, gamma: float) -> None:
    log_probs, mask = random_rows(6, 7)
    rows = tokens_of(log_probs, mask)
    pairs = list(zip(rows[:3], rows[3:], strict=True))
    simpo = [-log_sigmoid(beta * (sum(c) / len(c) - sum(w) / len(w)) - gamma) for c, w in pairs]
    cpo = [-log_sigmoid(beta * (sum(c) - sum(w))) - gamma * sum(c) / len(c) for c, w in pairs]
    assert losses.simpo(log_probs, mask, beta, gamma).tolist() == pytest.approx(simpo, rel=1e-12)
    assert losses.cpo(log_probs, mask, beta, gamma).tolist() == pytest.approx(cpo, rel=1e-12)


@pytest.mark.parametrize("loss_type", ["simpo", "sigmoid"])
def test_pairwise_losses_are_those_of_trl(loss_type: str) -> None:
    log_probs, mask = random_rows(6, 7)
    own = SimpleNamespace(
        alpha=0.0,
        beta=2.0,
        simpo_gamma=0.5,
        label_smoothing=0.0,
        loss_type=loss_type,
        accelerator=SimpleNamespace(device="cpu"),
    )
    sums = (log_probs * mask).sum(1)
    read = sums / mask.sum(1) if loss_type == "simpo" else sums
    theirs, _, _ = CPOTrainer.cpo_loss(own, read[:3], read[3:])
    ours = losses.simpo(log_probs, mask, 2.0, 0.5) if loss_type == "simpo" else losses.cpo(log_probs, mask, 2.0, 0.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_cpo_likelihood_term_has_the_gradient_of_the_mean_over_the_chosen_completion_alone() -> None:
    gradients = []
    for weight in (1.0, 0.0):
        log_probs = LOG_PROBS.clone().requires_grad_()
        losses.cpo(log_probs, MASK, 0.1, weight).sum().backward()
        gradients.append(log_probs.grad)
    expected = torch.tensor([[-1 / 3] * 3, [0.0] * 3], dtype=torch.float64)
    torch.testing.assert_close(gradients[0] - gradients[1], expected)


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_pair_does_not_see_the_others(name: str) -> None:
    log_probs, mask = random_rows(6, 7)
    order = torch.tensor([2, 0, 1, 5, 3, 4])
    rows = PAIRWISE[name](log_probs, mask)
    torch.testing.assert_close(PAIRWISE[name](log_probs[order], mask[order]), rows[[2, 0, 1]], rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", [*ALL, *PAIRWISE])
def test_what_is_masked_has_no_effect_on_value_or_gradient(name: str) -> None:
    loss = (ALL | PAIRWISE)[name]
    padded = torch.cat([LOG_PROBS, torch.tensor([[math.nan], [-math.inf]], dtype=torch.float64)], 1)
    log_probs = padded.clone().requires_grad_()
    rows = loss(log_probs, torch.cat([MASK, torch.zeros(2, 1, dtype=MASK.dtype)], 1))
    assert torch.equal(rows, loss(LOG_PROBS, MASK))
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
    tokens = torch.tensor([2, 4, 8, 18])
    for reduction, expected in (("token", 16 / 32), ("sequence", 16 / 4), ("length", 4 * 0.5 / 4)):
        whole = losses.reduce(rows, tokens, 32, 4, reduction)
        parts = [losses.reduce(rows[part], tokens[part], 32, 4, reduction) for part in (slice(3), slice(3, None))]
        assert whole.item() == sum(parts).item() == expected


def test_what_each_reduction_weighs_a_token_of_a_long_row_with() -> None:
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    expected = {"token": [0.2, 0.2], "sequence": [0.5, 0.5], "length": [0.125, 0.5]}
    for reduction, (of_long, of_short) in expected.items():
        log_probs = torch.full((2, 4), -1.0, dtype=torch.float64, requires_grad=True)
        losses.reduce(losses.sft(log_probs, mask), mask.sum(1), 5, 2, reduction).backward()
        assert log_probs.grad[:, 0].tolist() == pytest.approx([-of_long, -of_short])
