"""DPO and its kin, by TRL's loss types, on pairs of a correct and a wrong rollout of one problem.

The reference is the base. With c and w the log-ratios log pi(y) / pi_base(y) of the chosen and the rejected completion,
summed over their tokens, h = c - w and b = beta:
    sigmoid       DPO (2305.18290, eq. 7)      -log sigmoid(b h)
    hinge         SLiC (2305.10425)            max(0, 1 - b h)
    ipo           IPO (2310.12036, eq. 17)     (c / |c| - w / |w| - 1 / (2 b))^2
    exo_pair      EXO (2402.00856, eq. 16)     KL of (sigmoid(b h), 1 - it) to (1 - label_smoothing, label_smoothing)
    nca_pair      NCA (2402.05369)             -log sigmoid(b c) - [log sigmoid(-b c) + log sigmoid(-b w)] / 2
    robust        robust DPO (2403.00409)      DPO without the bias of a share label_smoothing of swapped pairs
    bco_pair      BCO (2404.04656)             -log sigmoid(b c) - log sigmoid(-b w), without its reward shift
    sppo_hard     SPPO (2405.00675)            (c - 1 / (2 b))^2 + (w + 1 / (2 b))^2
    apo_zero      APO (2408.06266, eq. 7)      1 - sigmoid(b c) + sigmoid(b w)
    apo_down      APO (2408.06266, eq. 8)      sigmoid(b c) + 1 - sigmoid(b h)
    discopop      DiscoPOP (2406.08414, eq. 5) DPO and exp(-b h), blended by sigmoid(b h / 0.05)
    sigmoid_norm  length-normalised DPO        -log sigmoid(b [c / |c| - w / |w|])
|c| and |w| are numbers of tokens: ipo and sigmoid_norm are length-normalised, ipo by TRL's word with its authors, whose
paper does not say so; their h is smaller by a completion's length, and their beta another one.
The mean over the pairs of a batch, whatever `training.reduction` says. TRL's aot and aot_unpaired, which sort the
pairs, and sft, which averages over tokens, are left out: they are of a micro batch, and accumulation would change them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from deltageom.methods.interface import PairOptions, Pairs, Preference, Rows, select_pairs

SMOOTHED = ("exo_pair", "robust")


class Options(PairOptions):
    loss_type: Literal[
        "sigmoid",
        "hinge",
        "ipo",
        "exo_pair",
        "nca_pair",
        "robust",
        "bco_pair",
        "sppo_hard",
        "apo_zero",
        "apo_down",
        "discopop",
        "sigmoid_norm",
    ]
    beta: float = Field(gt=0)
    label_smoothing: float = Field(ge=0, lt=0.5)

    @field_validator("label_smoothing")
    @classmethod
    def smoothing_is_used(cls, smoothing: float, info: ValidationInfo) -> float:
        loss_type = info.data.get("loss_type")
        if loss_type == "exo_pair" and not smoothing:
            raise ValueError("must be above 0 with loss_type exo_pair (its paper: 1.0e-3)")
        if smoothing and loss_type not in (None, *SMOOTHED):
            raise ValueError(f"has no effect with loss_type {loss_type}: set it to 0.0")
        return smoothing


def select(rows: Rows, options: Options) -> Pairs:
    return select_pairs(rows, options)


def trainer_arguments(options: Options) -> dict[str, Any]:
    return {"loss_type": [options.loss_type], "beta": options.beta, "label_smoothing": options.label_smoothing}


METHOD = Preference(options=Options, needs=("groups", "base"), select=select, trainer_arguments=trainer_arguments)
