"""CPO (2401.08417) on pairs of a correct and a wrong rollout of one problem; no reference.

-log sigmoid(beta [log pi(c) - log pi(w)]) + nll_weight * -log pi(c) / |c|. The paper sums the likelihood term over the
tokens; the authors' code averages it, and so does this, each pair over its own. TRL 1.16's experimental CPOTrainer
keeps the logits of the whole batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from deltageom.methods.interface import PairOptions, Pairs, Pairwise, Rows, select_pairs

if TYPE_CHECKING:
    from torch import Tensor


class Options(PairOptions):
    beta: float = Field(gt=0)
    nll_weight: float = Field(ge=0)


def select(rows: Rows, options: Options) -> Pairs:
    return select_pairs(rows, options)


def loss(log_probs: Tensor, mask: Tensor, _columns: dict[str, Tensor], options: Options) -> Tensor:
    """(n,) of n pairs: -log sigmoid(beta [log pi(c) - log pi(w)]) + nll_weight * -log pi(c) / |c| (2401.08417).

    The paper's likelihood term is a sum over the chosen completion's tokens; the authors' code takes a mean over
    tokens, and so does this, each pair over its own: the weight then means the same at every length, and micro batches
    add up.
    """
    from torch.nn.functional import logsigmoid

    from deltageom.methods.shared.log_probs import completion, mean

    chosen, rejected = completion(log_probs, mask).sum(-1).chunk(2)
    nll = -mean(log_probs, mask).chunk(2)[0]
    return options.nll_weight * nll - logsigmoid(options.beta * (chosen - rejected))


METHOD = Pairwise(options=Options, needs=("groups",), select=select, loss=loss)
