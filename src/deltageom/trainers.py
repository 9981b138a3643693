"""TRL's trainers, told what TRL cannot know: exact token ids, the loss, the global batch, the data order.

One process, one device. Nothing of TRL is copied: the seams are `_prepare_dataset`, `_get_train_sampler`,
`create_scheduler`, `compute_loss`, `log` and the data collator.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from deltageom import losses
from deltageom.errors import UserError

RowLoss = Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]


class Cycle(torch.utils.data.Sampler[int]):
    """Row numbers for `batches` global batches: one permutation of the rows after another, drawn from `seed`.

    So every batch is full, across the ends of epochs too, and equal row sets have one order in every run. Within a
    batch, where order means nothing, long rows come first: micro batches of like `lengths` (N,) need little padding.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, batches: int, seed: int) -> None:
        self.lengths = torch.as_tensor(lengths)
        self.batch_size, self.batches, self.seed = batch_size, batches, seed

    def __len__(self) -> int:
        return self.batch_size * self.batches

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        rows = len(self.lengths)
        epochs = math.ceil(len(self) / rows)
        order = torch.cat([torch.randperm(rows, generator=generator) for _ in range(epochs)])[: len(self)]
        for batch in order.split(self.batch_size):
            yield from batch[self.lengths[batch].argsort(descending=True, stable=True)].tolist()


class RunTrainer:
    """What every run adds to a TRL trainer; it stands first among the bases.

    The learning rate's schedule spans `schedule_steps`; training stops at `args.max_steps`, perhaps earlier.
    """

    def __init__(self, *, name: str, schedule_steps: int, **trainer: Any) -> None:
        self.run_name = name
        self.schedule_steps = schedule_steps
        super().__init__(**trainer)

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """The rows are token ids already, as they were sampled: no template, tokenizer or truncation."""
        return dataset

    def _get_train_sampler(self, train_dataset: Dataset) -> Cycle:
        args = self.args  # type: ignore[attr-defined]
        batch_size = args.train_batch_size * args.gradient_accumulation_steps
        return Cycle(train_dataset["length"][:], batch_size, args.max_steps, args.seed)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ARG002
        return super().create_scheduler(self.schedule_steps, optimizer)  # type: ignore[misc]

    def log(self, logs: dict[str, float], *args: Any) -> None:
        """Raises UserError at the first step whose loss or gradient norm is not finite."""
        step = self.state.global_step  # type: ignore[attr-defined]
        for key in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(key, 0.0)):
                raise UserError(
                    f"run {self.run_name!r}: {key} is {logs[key]} at step {step}, so no adapter is written: "
                    "lower its learning_rate, or look for such values in the base model"
                )
        super().log(logs, *args)  # type: ignore[misc]

    def _send_telemetry(self) -> None:
        """A run tells nobody."""


@dataclass
class ColumnCollator(DataCollatorForLanguageModeling):
    """TRL's collator (right padding, labels padded with -100), with one float32 tensor (B,) a column."""

    columns: tuple[str, ...] = ()

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        for name in self.columns:
            batch[name] = torch.tensor([example[name] for example in examples], dtype=torch.float32)
        return batch


class WeightedTrainer(RunTrainer, SFTTrainer):  # type: ignore[misc]
    """Minimises `row_loss(log_probs, mask, columns)`, (B,), reduced over the global batch.

    The data set has input_ids, labels (-100 on the prompt, which so carries no loss), length and the columns.
    """

    # compute_loss divides by the global batch's counts itself
    loss_is_scaled_for_ga = True  # type: ignore[assignment]

    def __init__(
        self, *, row_loss: RowLoss, columns: tuple[str, ...], reduction: losses.Reduction, **trainer: Any
    ) -> None:
        self.row_loss = row_loss
        self.columns = columns
        self.reduction = reduction
        collator = ColumnCollator(trainer["processing_class"].pad_token_id, columns=columns)
        super().__init__(data_collator=collator, **trainer)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """The micro batch's share of the global batch's loss, which has `num_items_in_batch` tokens."""
        assert not return_outputs, "only training is supported"
        columns = {name: inputs[name] for name in self.columns}
        ids = {key: inputs[key] for key in ("input_ids", "attention_mask", "labels")}
        outputs = model(**ids, fused_lm_head=True)  # (B, T - 1), chunked: no (B, T, V) logits are kept
        row_losses = self.row_loss(outputs.log_probs, outputs.label_mask, columns)
        n_rows = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return losses.reduce(row_losses, num_items_in_batch, n_rows, self.reduction)


class PreferenceTrainer(RunTrainer, DPOTrainer):  # type: ignore[misc]
    """TRL's DPO on prompt_ids, chosen_ids, rejected_ids and length; its reference is the base, adapter off.

    TRL averages the micro batches' means; `Cycle` makes all of one size, so that is the global batch's mean.
    """
