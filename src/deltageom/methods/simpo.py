"""SimPO (2405.14734, eq. 6) on pairs of a correct and a wrong rollout of one problem; no reference.

-log sigmoid(beta [log pi(c) / |c| - log pi(w) / |w|] - gamma). TRL 1.16 has it in its experimental CPOTrainer alone,
which keeps the logits of the whole batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from deltageom.methods.interface import PairOptions, Pairs, Rows, select_pairs

if TYPE_CHECKING:
    from torch import Tensor

FAMILY = "pairwise"
SOURCE = "rollout"
NEEDS = ("groups",)


class Options(PairOptions):
    beta: float = Field(gt=0)
    gamma: float = Field(ge=0)


def select(rows: Rows, options: Options) -> Pairs:
    return select_pairs(rows, options)


def loss(log_probs: Tensor, mask: Tensor, _columns: dict[str, Tensor], options: Options) -> Tensor:
    from deltageom import losses

    return losses.simpo(log_probs, mask, options.beta, options.gamma)
