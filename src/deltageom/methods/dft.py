"""DFT: dynamic fine-tuning (2508.05629) on all rollouts. sum_i sum_t sg(pi(y_t)) * -log pi(y_t).

sg stops the gradient: a token's weight is its own probability, taken as a constant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltageom.methods.interface import Likelihood, MethodOptions, Rows, Selection, all_rows

if TYPE_CHECKING:
    from torch import Tensor


class Options(MethodOptions):
    """DFT has no options."""


def select(rows: Rows, _options: Options) -> Selection:
    return all_rows(rows)


def loss(log_probs: Tensor, mask: Tensor, _columns: dict[str, Tensor], _options: Options) -> Tensor:
    """(B,): sum_t sg(pi(y_t)) * -log pi(y_t) (2508.05629); sg stops the gradient."""
    from deltageom.methods.shared.log_probs import completion

    own = completion(log_probs, mask)
    return -(own.detach().exp() * own).sum(-1)


METHOD = Likelihood(options=Options, select=select, loss=loss)
