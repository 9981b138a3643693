"""Offline GRPO with PPO's clipped ratio to the sampling policy (1707.06347, eq. 7; GRPO: 2402.03300), all rollouts.

sum_i -sum_t min(r_it A_i, clip(r_it, 1 - e, 1 + e) A_i), r_it = pi(y_it) / mu(y_it), where mu is the policy that drew
the rollouts, temperature and nucleus included. A_i = r_i - mean of r over the problem's rollouts + bias. Not among the
losses of 2606.23740.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from deltageom.methods.interface import Likelihood, MethodOptions, Rows, Selection, all_rows

if TYPE_CHECKING:
    from torch import Tensor


class Options(MethodOptions):
    bias: float
    clip: float = Field(gt=0, lt=1)


def select(rows: Rows, options: Options) -> Selection:
    from deltageom.methods.shared import selection

    assert rows.token_log_probs is not None, "the trainer sees to what is in NEEDS"
    chosen = all_rows(rows, advantages=selection.advantages(rows.rewards, rows.group_means, options.bias))
    return Selection(chosen.indices, chosen.columns, {"behaviour": rows.token_log_probs})


def loss(log_probs: Tensor, mask: Tensor, columns: dict[str, Tensor], options: Options) -> Tensor:
    """(B,): -sum_t min(r_t A, clip(r_t, 1 - e, 1 + e) A); columns: advantages A (B,), behaviour (B, T), log mu.

    r_t = pi(y_t) / mu(y_t), and e is `clip` (1707.06347, eq. 7). A token has no gradient once r_t is above 1 + e where
    A > 0, or below 1 - e where A < 0.
    """
    import math

    import torch

    from deltageom.methods.shared.log_probs import completion

    log_ratio = completion(log_probs - columns["behaviour"], mask)
    # the minimum is A min(r, 1 + e) or A max(r, 1 - e); bounded before the exponential, r overflows for no A >= 0
    above, below = log_ratio.clamp(max=math.log1p(options.clip)), log_ratio.clamp(min=math.log1p(-options.clip))
    gains = columns["advantages"][:, None]
    ratio = torch.where(gains >= 0, above, below).exp()
    return -completion(gains * ratio, mask).sum(-1)


METHOD = Likelihood(options=Options, needs=("groups", "behaviour"), select=select, loss=loss)
