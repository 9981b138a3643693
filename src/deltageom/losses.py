"""The offline losses: tensors in, tensor out.

Shapes: `log_probs` (B, T), log pi(y_t | x, y_<t) of each completion token; `mask` (B, T), 1 on completion tokens and 0
elsewhere, where nothing of shape (B, T) is ever read; what belongs to a row, (B,). Every row has a completion token.
Each loss gives (B,), a row's own, in nats where it is a log-likelihood; `reduce` makes one number of the rows of a
global batch. A pairwise loss takes 2 n rows, the n chosen completions first and then the n rejected, and gives (n,).

Below, l = -sum_t log pi(y_t) is a row's negative log-likelihood, pi(y) = exp(-l) its probability, |y| its number of
tokens, r its reward in {0, 1}, A its advantage, and sg stops the gradient.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Reduction = Literal["token", "sequence", "length"]
Probability = Literal["sequence", "length_normalised", "token"]


def sft(log_probs: Tensor, mask: Tensor) -> Tensor:
    """Supervised fine-tuning, and RFT (2308.01825) where the rows are the correct ones: l."""
    return -_completion(log_probs, mask).sum(-1)


def dft(log_probs: Tensor, mask: Tensor) -> Tensor:
    """Dynamic fine-tuning (2508.05629): sum_t sg(pi(y_t)) * -log pi(y_t)."""
    completion = _completion(log_probs, mask)
    return -(completion.detach().exp() * completion).sum(-1)


def rift(
    log_probs: Tensor,
    mask: Tensor,
    rewards: Tensor,
    reward_correct: float,
    reward_wrong: float,
    probability: Probability,
) -> Tensor:
    """Reward-informed fine-tuning (2601.09253): -R log pi(y) where R > 0, -R pi where R < 0.

    R is `reward_correct` where r > 0, else `reward_wrong`. A negative term is bounded and has the constant gradient -R
    with respect to pi, which by `probability` is
        sequence           pi(y), the source's formula: of a long completion it underflows to 0 and so does its gradient
        length_normalised  pi(y)^(1 / |y|), the geometric mean of the tokens' probabilities
        token              sum_t pi(y_t)
    The first two are one number a row, which the reductions `token` and `length` make small against a sum over tokens.
    """
    completion = _completion(log_probs, mask)
    log_prob = completion.sum(-1)
    if probability == "sequence":
        pi = log_prob.exp()
    elif probability == "length_normalised":
        pi = _mean(log_probs, mask).exp()
    else:
        pi = _token_probabilities(log_probs, mask).sum(-1)
    signed = torch.where(rewards > 0, reward_correct, reward_wrong).to(log_prob)
    return -signed * torch.where(signed > 0, log_prob, pi)


def rift_linear(log_probs: Tensor, mask: Tensor, rewards: Tensor, lambda_: float) -> Tensor:
    """RIFT as 2606.23740 states it: (1 - r lambda) l, which weighs the correct rows down where lambda > 0."""
    return (1 - lambda_ * rewards) * sft(log_probs, mask)


def offline_grpo(log_probs: Tensor, mask: Tensor, advantages: Tensor) -> Tensor:
    """Offline GRPO as 2606.23740 states it: A l, with A from `selection.advantages`; no std, KL or clip."""
    return advantages * sft(log_probs, mask)


def offline_grpo_weighted(log_probs: Tensor, mask: Tensor, advantages: Tensor) -> Tensor:
    """Offline GRPO of its primary source (KRAFTON 2025): -A sum_t pi(y_t), a ratio to a behaviour likelihood of 1.

    A is that of `selection.all_correct_advantages`. The gradient with respect to log pi(y_t) is -A pi(y_t): a token
    counts the less, the less likely it is.
    """
    return -advantages * _token_probabilities(log_probs, mask).sum(-1)


def offline_grpo_clipped(log_probs: Tensor, mask: Tensor, behaviour: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """The clipped surrogate of PPO (1707.06347, eq. 7) on every token: -sum_t min(r_t A, clip(r_t, 1 - e, 1 + e) A).

    r_t = pi(y_t) / mu(y_t) with log mu in `behaviour` (B, T), and e is `clip`, in (0, 1). A token has no gradient once
    r_t is above 1 + e where A > 0, or below 1 - e where A < 0.
    """
    log_ratio = _completion(log_probs - behaviour, mask)
    # the minimum is A min(r, 1 + e) or A max(r, 1 - e); bounded before the exponential, r overflows for no A >= 0
    above, below = log_ratio.clamp(max=math.log1p(clip)), log_ratio.clamp(min=math.log1p(-clip))
    gains = advantages[:, None]
    ratio = torch.where(gains >= 0, above, below).exp()
    return -_completion(gains * ratio, mask).sum(-1)


def simpo(log_probs: Tensor, mask: Tensor, beta: float, gamma: float) -> Tensor:
    """SimPO (2405.14734, eq. 6) of n pairs: -log sigmoid(beta [log pi(c) / |c| - log pi(w) / |w|] - gamma)."""
    chosen, rejected = _mean(log_probs, mask).chunk(2)
    return -logsigmoid(beta * (chosen - rejected) - gamma)


def cpo(log_probs: Tensor, mask: Tensor, beta: float, nll_weight: float) -> Tensor:
    """CPO (2401.08417) of n pairs: -log sigmoid(beta [log pi(c) - log pi(w)]) + nll_weight * -log pi(c) / |c|.

    The paper's likelihood term is a sum over the chosen completion's tokens; the authors' code takes a mean over
    tokens, and so does this, each pair over its own: the weight then means the same at every length, and micro batches
    add up.
    """
    chosen, rejected = _completion(log_probs, mask).sum(-1).chunk(2)
    nll = -_mean(log_probs, mask).chunk(2)[0]
    return nll_weight * nll - logsigmoid(beta * (chosen - rejected))


def reduce(row_losses: Tensor, row_tokens: Tensor, n_tokens: int | Tensor, n_rows: int, reduction: Reduction) -> Tensor:
    """What is minimised, a scalar, from rows (B,) and their completion tokens (B,).

        token     sum of the rows / n_tokens    every token alike: a row's share grows with its length, and a batch of
                                                long rows has no larger gradient than one of short rows
        sequence  sum of the rows / n_rows      every row by its own sum: long rows have the larger gradients
        length    mean of each row / its tokens every row alike, whatever its length: a token of a long row counts less

    `n_tokens` and `n_rows` are those of the GLOBAL batch, of which the rows may be one micro batch: the micro batches'
    values and gradients add up to the whole batch's. `sequence` is about the mean length times the other two, in value
    and in gradient, and so is the effective learning rate, where Adam does not undo it; `max_grad_norm` clips it more.
    """
    if reduction == "token":
        return row_losses.sum() / n_tokens
    if reduction == "sequence":
        return row_losses.sum() / n_rows
    return (row_losses / row_tokens).sum() / n_rows


def _completion(values: Tensor, mask: Tensor) -> Tensor:
    return values.masked_fill(mask == 0, 0.0)


def _mean(log_probs: Tensor, mask: Tensor) -> Tensor:
    """log pi(y) / |y|, (B,)."""
    return _completion(log_probs, mask).sum(-1) / (mask != 0).sum(-1)


def _token_probabilities(log_probs: Tensor, mask: Tensor) -> Tensor:
    """pi(y_t), (B, T), and 0 where `mask` is."""
    return log_probs.masked_fill(mask == 0, -math.inf).exp()
