"""One number of the rows of a global batch."""

from typing import Literal

from torch import Tensor

Reduction = Literal["token", "sequence", "length"]


def reduce(row_losses: Tensor, row_tokens: Tensor, n_tokens: int | Tensor, n_rows: int, reduction: Reduction) -> Tensor:
    """What is minimised, a scalar, from rows (B,) and their completion tokens (B,).

        token     sum of the rows / n_tokens    every token alike: a row's share grows with its length, and a batch of
                                                long rows has no larger gradient than one of short rows
        sequence  sum of the rows / n_rows      every row by its own sum: long rows have the larger gradients
        length    mean of each row / its tokens every row alike, whatever its length: a token of a long row counts less

    `n_tokens` and `n_rows` are those of the GLOBAL batch, of which the rows may be one micro batch: the micro batches'
    values and gradients add up to the whole batch's. `sequence` is about the mean length times the other two, in value
    and in gradient, and so is the effective learning rate, where Adam does not undo it; `max_grad_norm` clips it more.
    """
    if reduction == "token":
        return row_losses.sum() / n_tokens
    if reduction == "sequence":
        return row_losses.sum() / n_rows
    return (row_losses / row_tokens).sum() / n_rows
