"""Offline GRPO in its primary source's form (KRAFTON 2025), all rollouts, by problem. sum_i -A_i sum_t pi(y_it).

The source is the post "Continual Post-Training of LLMs via Offline GRPO for Mathematical Reasoning" and its code.
GRPO's ratio to a behaviour likelihood of 1, that of the teacher being unknown. A_i = r_i - mean of r over the problem's
rollouts, and `all_correct_advantage` where all of them are correct (the post's b: 0.5 there, 0.1 by default here, the
bias of 2606.23740). As in the code's own script there is no deviation and no clip, which the post's formula has and
which would leave a wrong row's tokens no gradient below probability 1 - e; its KL to the base is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltageom.methods.interface import Likelihood, MethodOptions, Rows, Selection, all_rows

if TYPE_CHECKING:
    from torch import Tensor


class Options(MethodOptions):
    all_correct_advantage: float


def select(rows: Rows, options: Options) -> Selection:
    from deltageom.methods.shared import selection

    return all_rows(
        rows,
        advantages=selection.all_correct_advantages(rows.rewards, rows.group_means, options.all_correct_advantage),
    )


def loss(log_probs: Tensor, mask: Tensor, columns: dict[str, Tensor], _options: Options) -> Tensor:
    """(B,): -A sum_t pi(y_t), a ratio to a behaviour likelihood of 1; columns: advantages A (B,).

    The gradient with respect to log pi(y_t) is -A pi(y_t): a token counts the less, the less likely it is.
    """
    from deltageom.methods.shared.log_probs import token_probabilities

    return -columns["advantages"] * token_probabilities(log_probs, mask).sum(-1)


METHOD = Likelihood(options=Options, needs=("groups",), select=select, loss=loss)
