"""SFT on the problems' reference solutions instead of rollouts. sum_i l_i, l_i = -log pi(y_i | x_i)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltageom.methods.interface import Likelihood, MethodOptions, Rows, Selection, all_rows

if TYPE_CHECKING:
    from torch import Tensor


class Options(MethodOptions):
    """SFT on reference solutions has no options."""


def select(rows: Rows, _options: Options) -> Selection:
    return all_rows(rows)


def loss(log_probs: Tensor, mask: Tensor, _columns: dict[str, Tensor], _options: Options) -> Tensor:
    """(B,): l = -sum_t log pi(y_t), in nats."""
    from deltageom.methods.shared.log_probs import completion

    return -completion(log_probs, mask).sum(-1)


METHOD = Likelihood(options=Options, source="reference", select=select, loss=loss)
