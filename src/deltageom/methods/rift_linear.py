"""RIFT in the linear form of 2606.23740, all rollouts. sum_i (1 - r_i lambda) l_i, l_i = -log pi(y_i | x_i).

With lambda > 0 this weighs the CORRECT rows down. The primary source's form is `rift`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from deltageom.methods.interface import Likelihood, MethodOptions, Rows, Selection, all_rows

if TYPE_CHECKING:
    from torch import Tensor


class Options(MethodOptions):
    lambda_: float = Field(alias="lambda")


def select(rows: Rows, _options: Options) -> Selection:
    return all_rows(rows, rewards=rows.rewards)


def loss(log_probs: Tensor, mask: Tensor, columns: dict[str, Tensor], options: Options) -> Tensor:
    """(B,): (1 - r lambda) l, which weighs the correct rows down where lambda > 0; columns: rewards r (B,)."""
    from deltageom.methods.shared.log_probs import completion

    return -(1 - options.lambda_ * columns["rewards"]) * completion(log_probs, mask).sum(-1)


METHOD = Likelihood(options=Options, select=select, loss=loss)
