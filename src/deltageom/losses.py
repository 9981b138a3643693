"""The offline losses: tensors in, tensor out.

Shapes: `log_probs` (B, T), log pi(y_t | x, y_<t) of each completion token; `mask` (B, T), 1 on completion
tokens and 0 elsewhere, where `log_probs` is never read; what belongs to a row, (B,). Each loss gives (B,), a
row's sum over its tokens, in nats; `reduce` makes one number of the rows of a global batch.

Below, l = -sum_t log pi(y_t) is a row's negative log-likelihood, pi(y) = exp(-l) its probability, r its
reward in {0, 1} and sg stops the gradient.
"""

from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["token", "sequence"]


def sft(log_probs: Tensor, mask: Tensor) -> Tensor:
    """Supervised fine-tuning, and RFT (2308.01825) where the rows are the correct ones: l."""
    return -_completion(log_probs, mask).sum(-1)


def dft(log_probs: Tensor, mask: Tensor) -> Tensor:
    """Dynamic fine-tuning (2508.05629): sum_t sg(pi(y_t)) * -log pi(y_t)."""
    completion = _completion(log_probs, mask)
    return -(completion.detach().exp() * completion).sum(-1)


def rift(log_probs: Tensor, mask: Tensor, rewards: Tensor, reward_correct: float, reward_wrong: float) -> Tensor:
    """Reward-informed fine-tuning (2601.09253): -R log pi(y) where R > 0, -R pi(y) where R < 0.

    R is `reward_correct` where r > 0, else `reward_wrong`. A negative term is bounded and has the constant
    gradient -R with respect to pi(y); pi(y) is the whole completion's, as the source has it, so of a long one
    it underflows to 0 and so does its gradient.
    """
    log_prob = _completion(log_probs, mask).sum(-1)
    signed = torch.where(rewards > 0, reward_correct, reward_wrong).to(log_prob)
    return -signed * torch.where(signed > 0, log_prob, log_prob.exp())


def rift_linear(log_probs: Tensor, mask: Tensor, rewards: Tensor, lambda_: float) -> Tensor:
    """RIFT as 2606.23740 states it: (1 - r lambda) l, which weighs the correct rows down where lambda > 0."""
    return (1 - lambda_ * rewards) * sft(log_probs, mask)


def offline_grpo(log_probs: Tensor, mask: Tensor, advantages: Tensor) -> Tensor:
    """Offline GRPO as 2606.23740 states it: A l, with A from `selection.group_advantages`; no std, KL or
    clip."""
    return advantages * sft(log_probs, mask)


def reduce(row_losses: Tensor, n_tokens: int | Tensor, n_rows: int, reduction: Reduction) -> Tensor:
    """What is minimised, a scalar: the sum of rows over the completion tokens, or the rows, of the GLOBAL
    batch.

    `row_losses` (B,) may be one micro batch of it: with the global counts the micro batches' values and
    gradients add up to those of the whole batch.
    """
    return row_losses.sum() / (n_tokens if reduction == "token" else n_rows)


def _completion(log_probs: Tensor, mask: Tensor) -> Tensor:
    return log_probs.masked_fill(mask == 0, 0.0)
