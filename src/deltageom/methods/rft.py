"""RFT: rejection-sampling fine-tuning (2308.01825), SFT on the correct rollouts. sum_i r_i l_i, r_i in {0, 1}.

With `deduplicate` equal completions of one problem count once: the source keeps distinct reasoning paths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltageom.methods.interface import Likelihood, MethodOptions, Rows, Selection

if TYPE_CHECKING:
    from torch import Tensor


class Options(MethodOptions):
    deduplicate: bool


def select(rows: Rows, options: Options) -> Selection:
    from deltageom.methods.shared import selection

    right = selection.correct(rows.rewards)
    if not options.deduplicate:
        return Selection(right)
    kept = right[selection.first_of_equals(rows.problems[right], [rows.token_ids[row] for row in right])]
    return Selection(kept, duplicates=len(right) - len(kept))


def loss(log_probs: Tensor, mask: Tensor, _columns: dict[str, Tensor], _options: Options) -> Tensor:
    """(B,): l = -sum_t log pi(y_t), in nats."""
    from deltageom.methods.shared.log_probs import completion

    return -completion(log_probs, mask).sum(-1)


METHOD = Likelihood(options=Options, select=select, loss=loss)
