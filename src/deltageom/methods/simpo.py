"""SimPO (2405.14734, eq. 6) on pairs of a correct and a wrong rollout of one problem; no reference.

-log sigmoid(beta [log pi(c) / |c| - log pi(w) / |w|] - gamma). TRL 1.16 has it in its experimental CPOTrainer alone,
which keeps the logits of the whole batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from deltageom.methods.interface import PairOptions, Pairs, Pairwise, Rows, select_pairs

if TYPE_CHECKING:
    from torch import Tensor


class Options(PairOptions):
    beta: float = Field(gt=0)
    gamma: float = Field(ge=0)


def select(rows: Rows, options: Options) -> Pairs:
    return select_pairs(rows, options)


def loss(log_probs: Tensor, mask: Tensor, _columns: dict[str, Tensor], options: Options) -> Tensor:
    """(n,) of n pairs: -log sigmoid(beta [log pi(c) / |c| - log pi(w) / |w|] - gamma) (2405.14734, eq. 6)."""
    from torch.nn.functional import logsigmoid

    from deltageom.methods.shared.log_probs import mean

    chosen, rejected = mean(log_probs, mask).chunk(2)
    return -logsigmoid(options.beta * (chosen - rejected) - options.gamma)


METHOD = Pairwise(options=Options, needs=("groups",), select=select, loss=loss)
