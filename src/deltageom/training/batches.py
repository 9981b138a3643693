"""What a step sees: the order of the rows, and rows or pairs as one padded batch."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

IGNORED = -100  # the label of a token that carries no loss


class Cycle(torch.utils.data.Sampler[int]):
    """Row numbers for `batches` global batches: one permutation after another, drawn from `seed`.

    A permutation is of `universe` places, of which row i has `places`[i]; places that no row has are skipped, and rows
    of one place keep their order. So runs that have other rows of the same universe go through them in one order, and
    every batch is full, across the ends of epochs too. Within a batch, where order means nothing, long rows come first:
    micro batches of like `lengths` (N,) need little padding.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        batches: int,
        seed: int,
        places: Sequence[int] | None = None,
        universe: int | None = None,
    ) -> None:
        self.lengths = torch.as_tensor(lengths)
        self.batch_size, self.batches, self.seed = batch_size, batches, seed
        self.places = torch.arange(len(lengths)) if places is None else torch.as_tensor(places)
        self.universe = universe or len(lengths)

    def __len__(self) -> int:
        return self.batch_size * self.batches

    def __iter__(self) -> Iterator[int]:
        for batch in self._order().split(self.batch_size):
            yield from batch[self.lengths[batch].argsort(descending=True, stable=True)].tolist()

    def _order(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        epochs = math.ceil(len(self) / len(self.lengths))
        return torch.cat([self._epoch(generator) for _ in range(epochs)])[: len(self)]

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        """The rows by where their places stand in a permutation of the universe."""
        turn = torch.randperm(self.universe, generator=generator).argsort()
        return turn[self.places].argsort(stable=True)


class AsTheyStand(Cycle):
    """The rows in their own order, the first batch first, within a batch as in `Cycle`."""

    def _order(self) -> torch.Tensor:
        return torch.arange(len(self))


@dataclass
class RowCollator(DataCollatorForLanguageModeling):
    """TRL's collator (right padding, labels padded with -100), with what a method reads beside the tokens.

    One float32 tensor (B,) a name in `columns`, and (B, T) a name in `token_columns`, whose values are the
    completion's and 0 elsewhere. An example has input_ids, and labels that are IGNORED on the prompt.
    """

    columns: tuple[str, ...] = ()
    token_columns: tuple[str, ...] = ()

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        for name in self.columns:
            batch[name] = torch.tensor([example[name] for example in examples], dtype=torch.float32)
        for name in self.token_columns:
            batch[name] = torch.zeros(batch["labels"].shape, dtype=torch.float32)
            for row, example in zip(batch[name], examples, strict=True):
                values = torch.tensor(example[name], dtype=torch.float32)
                end = len(example["input_ids"])
                row[end - len(values) : end] = values
        return batch


@dataclass
class PairCollator(DataCollatorForLanguageModeling):
    """Pairs of prompt_ids, chosen_ids and rejected_ids as 2 n rows: the n chosen first, then the n rejected."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        rows = [
            {
                "input_ids": [*example["prompt_ids"], *example[side]],
                "labels": [IGNORED] * len(example["prompt_ids"]) + list(example[side]),
            }
            for side in ("chosen_ids", "rejected_ids")
            for example in examples
        ]
        batch: dict[str, Any] = super().torch_call(rows)
        return batch
