"""SFT on the problems' reference solutions instead of rollouts. sum_i l_i, l_i = -log pi(y_i | x_i)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltageom.methods.interface import MethodOptions, Rows, Selection, all_rows

if TYPE_CHECKING:
    from torch import Tensor

FAMILY = "likelihood"
SOURCE = "reference"
NEEDS = ()


class Options(MethodOptions):
    """SFT on reference solutions has no options."""


def select(rows: Rows, _options: Options) -> Selection:
    return all_rows(rows)


def loss(log_probs: Tensor, mask: Tensor, _columns: dict[str, Tensor], _options: Options) -> Tensor:
    from deltageom import losses

    return losses.sft(log_probs, mask)
