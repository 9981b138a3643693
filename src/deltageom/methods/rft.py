"""RFT: rejection-sampling fine-tuning (2308.01825), SFT on the correct rollouts. sum_i r_i l_i, r_i in {0,
1}."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltageom.methods.interface import MethodOptions, Rows, Selection

if TYPE_CHECKING:
    from torch import Tensor

FAMILY = "likelihood"
SOURCE = "rollout"
NEEDS = ()


class Options(MethodOptions):
    """RFT has no options."""


def select(rows: Rows, _options: Options) -> Selection:
    from deltageom import selection

    return Selection(selection.correct(rows.rewards))


def loss(log_probs: Tensor, mask: Tensor, _columns: dict[str, Tensor], _options: Options) -> Tensor:
    from deltageom import losses

    return losses.sft(log_probs, mask)
