"""Offline GRPO in the form of 2606.23740, all rollouts, by problem. sum_i A_i l_i, l_i = -log pi(y_i | x_i).

A_i = r_i - mean of r over the problem's rollouts + bias: no standard deviation, no KL, no probability weight, no clip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltageom.methods.interface import MethodOptions, Rows, Selection, all_rows

if TYPE_CHECKING:
    from torch import Tensor

FAMILY = "likelihood"
SOURCE = "rollout"
NEEDS = ("groups",)


class Options(MethodOptions):
    bias: float


def select(rows: Rows, options: Options) -> Selection:
    from deltageom import selection

    return all_rows(rows, advantages=selection.advantages(rows.rewards, rows.group_means, options.bias))


def loss(log_probs: Tensor, mask: Tensor, columns: dict[str, Tensor], _options: Options) -> Tensor:
    from deltageom import losses

    return losses.offline_grpo(log_probs, mask, columns["advantages"])
