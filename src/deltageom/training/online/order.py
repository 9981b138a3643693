"""Which problems a step asks: the order in which a run that samples while it trains goes through them."""

import math
from collections.abc import Iterator

import torch


class Groups(torch.utils.data.Sampler[int]):
    """Problem numbers for `batches` batches of completions, each of `asked` problems, `group` times each.

    One permutation of the `problems` after another, drawn from `seed`; every batch is full, across the ends of epochs
    too. Each batch comes `repeats` times, as TRL's trainers expect that take several micro batches or steps from it.
    """

    def __init__(self, problems: int, asked: int, group: int, batches: int, repeats: int, seed: int) -> None:
        self.problems, self.asked, self.group = problems, asked, group
        self.batches, self.repeats, self.seed = batches, repeats, seed

    def __len__(self) -> int:
        return self.batches * self.repeats * self.asked * self.group

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        wanted = self.batches * self.asked
        epochs = math.ceil(wanted / self.problems)
        order = torch.cat([torch.randperm(self.problems, generator=generator) for _ in range(epochs)])[:wanted]
        for batch in order.split(self.asked):
            for _ in range(self.repeats):
                yield from batch.repeat_interleave(self.group).tolist()
