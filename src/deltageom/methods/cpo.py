"""CPO (2401.08417) on pairs of a correct and a wrong rollout of one problem; no reference.

-log sigmoid(beta [log pi(c) - log pi(w)]) + nll_weight * -log pi(c) / |c|. The paper sums the likelihood term over the
tokens; the authors' code averages it, and so does this, each pair over its own. TRL 1.16's experimental CPOTrainer
keeps the logits of the whole batch.
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
    nll_weight: float = Field(ge=0)


def select(rows: Rows, options: Options) -> Pairs:
    return select_pairs(rows, options)


def loss(log_probs: Tensor, mask: Tensor, _columns: dict[str, Tensor], options: Options) -> Tensor:
    from deltageom import losses

    return losses.cpo(log_probs, mask, options.beta, options.nll_weight)
