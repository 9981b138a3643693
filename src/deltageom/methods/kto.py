"""KTO (2402.01306, section 4.1) on all rollouts, right ones desirable and wrong ones not; the base is the reference.

1 - sigmoid(beta [c - z]) for a desirable completion and 1 - sigmoid(beta [z - c]) for an undesirable one, each times
its weight, with c = log pi(y) / pi_base(y) and z the KL to the base, estimated from mismatched pairs of prompt and
completion of the global batch, not below 0, and without a gradient. `loss_type: apo_zero_unpaired` is APO-zero
(2408.06266, eq. 7) row by row: z = 0, and sigmoid(beta c) for an undesirable one. The mean over the rows of a batch,
whatever `training.reduction` says.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from deltageom.fields import Seed
from deltageom.methods.interface import MethodOptions, Rows, Selection, Unpaired, all_rows


class Options(MethodOptions):
    loss_type: Literal["kto", "apo_zero_unpaired"]
    beta: float = Field(gt=0)
    desirable_weight: float = Field(gt=0)
    undesirable_weight: float = Field(gt=0)
    kl_seed: Seed


def select(rows: Rows, _options: Options) -> Selection:
    return all_rows(rows)


def trainer_arguments(options: Options) -> dict[str, Any]:
    return options.model_dump(exclude={"kl_seed"})


def mismatched(options: Options) -> Seed | None:
    return options.kl_seed if options.loss_type == "kto" else None


METHOD = Unpaired(
    options=Options, needs=("base",), select=select, trainer_arguments=trainer_arguments, mismatched=mismatched
)
