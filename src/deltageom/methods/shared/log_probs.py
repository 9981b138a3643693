"""Terms of the losses, from log-probs (B, T) of each completion token and mask (B, T), 1 on completion tokens.

Nothing of shape (B, T) is ever read where the mask is 0. Every row has a completion token.
"""

import math

from torch import Tensor


def completion(values: Tensor, mask: Tensor) -> Tensor:
    """The values (B, T) of completion tokens, and 0 elsewhere."""
    return values.masked_fill(mask == 0, 0.0)


def mean(log_probs: Tensor, mask: Tensor) -> Tensor:
    """log pi(y) / |y|, (B,)."""
    return completion(log_probs, mask).sum(-1) / (mask != 0).sum(-1)


def token_probabilities(log_probs: Tensor, mask: Tensor) -> Tensor:
    """pi(y_t), (B, T), and 0 where `mask` is."""
    return log_probs.masked_fill(mask == 0, -math.inf).exp()
