"""Offline GRPO in the form of 2606.23740, all rollouts, by problem. sum_i A_i l_i, l_i = -log pi(y_i | x_i).

A_i = r_i - mean of r over the problem's rollouts + bias: no standard deviation, no KL, no probability weight, no clip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltageom.methods.interface import Likelihood, MethodOptions, Rows, Selection, all_rows

if TYPE_CHECKING:
    from torch import Tensor


class Options(MethodOptions):
    bias: float


def select(rows: Rows, options: Options) -> Selection:
    from deltageom.methods.shared import selection

    return all_rows(rows, advantages=selection.advantages(rows.rewards, rows.group_means, options.bias))


def loss(log_probs: Tensor, mask: Tensor, columns: dict[str, Tensor], _options: Options) -> Tensor:
    """(B,): A l, with no deviation, KL or clip; columns: advantages A (B,)."""
    from deltageom.methods.shared.log_probs import completion

    return -columns["advantages"] * completion(log_probs, mask).sum(-1)


METHOD = Likelihood(options=Options, needs=("groups",), select=select, loss=loss)
