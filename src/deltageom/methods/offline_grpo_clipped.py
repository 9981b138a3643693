"""Offline GRPO with PPO's clipped ratio to the sampling policy (1707.06347, eq. 7; GRPO: 2402.03300), all rollouts.

sum_i -sum_t min(r_it A_i, clip(r_it, 1 - e, 1 + e) A_i), r_it = pi(y_it) / mu(y_it), where mu is the policy that drew
the rollouts, temperature and nucleus included. A_i = r_i - mean of r over the problem's rollouts + bias. Not among the
losses of 2606.23740.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from deltageom.methods.interface import MethodOptions, Rows, Selection, all_rows

if TYPE_CHECKING:
    from torch import Tensor

FAMILY = "likelihood"
SOURCE = "rollout"
NEEDS = ("groups", "behaviour")


class Options(MethodOptions):
    bias: float
    clip: float = Field(gt=0, lt=1)


def select(rows: Rows, options: Options) -> Selection:
    from deltageom import selection

    assert rows.token_log_probs is not None, "the trainer sees to what is in NEEDS"
    chosen = all_rows(rows, advantages=selection.advantages(rows.rewards, rows.group_means, options.bias))
    return Selection(chosen.indices, chosen.columns, {"behaviour": rows.token_log_probs})


def loss(log_probs: Tensor, mask: Tensor, columns: dict[str, Tensor], options: Options) -> Tensor:
    from deltageom import losses

    return losses.offline_grpo_clipped(log_probs, mask, columns["behaviour"], columns["advantages"], options.clip)
