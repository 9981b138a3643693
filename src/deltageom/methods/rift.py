"""RIFT in its primary source's form (2601.09253), all rollouts. -R log pi(y) where R > 0, -R pi(y) where R < 0.

R is `reward_correct` or `reward_wrong`, +1.0 and -0.2 in the source. With `probability: sequence`, its formula, pi(y)
is the whole completion's, which underflows to 0, and gives no gradient, on a long completion; `length_normalised` takes
pi(y)^(1 / |y|) and `token` sum_t pi(y_t) in its place: choices of this project. 2606.23740's linear form is
`rift_linear`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from deltageom.methods.interface import MethodOptions, Rows, Selection, all_rows

if TYPE_CHECKING:
    from torch import Tensor

FAMILY = "likelihood"
SOURCE = "rollout"
NEEDS = ()


class Options(MethodOptions):
    reward_correct: float = Field(gt=0)
    reward_wrong: float = Field(le=0)
    probability: Literal["sequence", "length_normalised", "token"]


def select(rows: Rows, _options: Options) -> Selection:
    return all_rows(rows, rewards=rows.rewards)


def loss(log_probs: Tensor, mask: Tensor, columns: dict[str, Tensor], options: Options) -> Tensor:
    from deltageom import losses

    rewards = options.reward_correct, options.reward_wrong
    return losses.rift(log_probs, mask, columns["rewards"], *rewards, options.probability)
