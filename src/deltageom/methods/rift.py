"""RIFT in its primary source's form (2601.09253), all rollouts. -R log pi(y) where R > 0, -R pi(y) where R < 0.

R is `reward_correct` or `reward_wrong`, +1.0 and -0.2 in the source. With `probability: sequence`, its formula, pi(y)
is the whole completion's, which underflows to 0, and gives no gradient, on a long completion; `length_normalised` takes
pi(y)^(1 / |y|) and `token` sum_t pi(y_t) in its place: choices of this project. 2606.23740's linear form is
`rift_linear`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from deltageom.methods.interface import Likelihood, MethodOptions, Rows, Selection, all_rows

if TYPE_CHECKING:
    from torch import Tensor


class Options(MethodOptions):
    reward_correct: float = Field(gt=0)
    reward_wrong: float = Field(le=0)
    probability: Literal["sequence", "length_normalised", "token"]


def select(rows: Rows, _options: Options) -> Selection:
    return all_rows(rows, rewards=rows.rewards)


def loss(log_probs: Tensor, mask: Tensor, columns: dict[str, Tensor], options: Options) -> Tensor:
    """(B,): -R log pi(y) where R > 0, -R pi where R < 0; columns: rewards (B,).

    R is `reward_correct` where r > 0, else `reward_wrong`. A negative term is bounded and has the constant gradient -R
    with respect to pi, which by `probability` is
        sequence           pi(y), the source's formula: of a long completion it underflows to 0 and so does its gradient
        length_normalised  pi(y)^(1 / |y|), the geometric mean of the tokens' probabilities
        token              sum_t pi(y_t)
    The first two are one number per row, which the reductions `token` and `length` make small against a sum over
    tokens.
    """
    import torch

    from deltageom.methods.shared.log_probs import completion, mean, token_probabilities

    log_prob = completion(log_probs, mask).sum(-1)
    if options.probability == "sequence":
        pi = log_prob.exp()
    elif options.probability == "length_normalised":
        pi = mean(log_probs, mask).exp()
    else:
        pi = token_probabilities(log_probs, mask).sum(-1)
    signed = torch.where(columns["rewards"] > 0, options.reward_correct, options.reward_wrong).to(log_prob)
    return -signed * torch.where(signed > 0, log_prob, pi)


METHOD = Likelihood(options=Options, select=select, loss=loss)
