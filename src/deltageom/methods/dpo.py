"""DPO: direct preference optimisation (2305.18290), on pairs of a correct and a wrong rollout of one problem.

-log sigmoid(beta [log pi(c)/pi_ref(c) - log pi(w)/pi_ref(w)]) (its eq. 7), log-probs summed over the
completion, the reference being the base; the mean over the pairs of a batch, whatever `training.reduction`
says.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from deltageom.methods.interface import MethodOptions, Pairs, Rows
from deltageom.schema import Count, Seed

FAMILY = "preference"
SOURCE = "rollout"
NEEDS = ("groups", "base")


class Options(MethodOptions):
    beta: float = Field(gt=0)
    max_pairs: Count
    pair_seed: Seed


def select(rows: Rows, options: Options) -> Pairs:
    from deltageom import selection

    return Pairs(*selection.preference_pairs(rows.rewards, rows.problems, options.max_pairs, options.pair_seed))


def trainer_arguments(options: Options) -> dict[str, Any]:
    return {"loss_type": ["sigmoid"], "beta": options.beta}
