"""TRL's trainers, told what TRL cannot know: exact token ids, the loss, the global batch, the data order.

Nothing of TRL is copied: the seams are `_prepare_dataset`, `_precompute_ref_logps`, `_get_train_sampler`,
`get_batch_samples`, `create_scheduler`, `compute_loss`, `log`, `_save_checkpoint` and the data collator.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, Trainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import add_fused_lm_head

from deltageom.errors import UserError
from deltageom.training import scoring
from deltageom.training.batches import AsTheyStand, Cycle, PairCollator, RowCollator
from deltageom.training.reduction import Reduction, reduce

RowLoss = Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]


def drop_mask(model: Any) -> Any:
    """Takes the attention mask from every pass through the decoder; returns the hook, whose `remove` undoes it.

    For batches that are padded on the right, as every collator here and in TRL pads: no token of a causal model sees
    what comes after it, and padding carries no loss. A mask rules out the flash kernel and grouped keys and values.
    """

    def without(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, named | {"attention_mask": None}

    causal_lm = model if isinstance(model, PreTrainedModel) else model.get_base_model()
    return causal_lm.base_model.register_forward_pre_hook(without, with_kwargs=True)


def _lean_head(model: Any) -> None:
    """TRL's head for log-probs alone: by itself it also computes entropies and top-1 hits, which nothing here reads."""
    add_fused_lm_head(model if isinstance(model, PreTrainedModel) else model.get_base_model())


class RunTrainer:
    """What every run adds to a TRL trainer; it stands first among the bases.

    The learning rate's schedule spans `schedule_steps`; training stops at `args.max_steps`, perhaps earlier. The rows'
    order is of `universe` places, see `Cycle`; the data set has the place of each row. Of None they are taken as they
    stand, see `AsTheyStand`.
    `on_checkpoint` is called with the folder of a checkpoint that every process has finished writing. `extras` holds
    numbers for the next line of the log.
    """

    def __init__(
        self,
        *,
        name: str,
        schedule_steps: int,
        universe: int | None,
        on_checkpoint: Callable[[Path], None] | None,
        **trainer: Any,
    ) -> None:
        self.universe = universe
        self.run_name = name
        self.schedule_steps = schedule_steps
        self.on_checkpoint = on_checkpoint
        self.extras: dict[str, float] = {}
        super().__init__(**trainer)
        self.mask_hook = drop_mask(self.model)  # type: ignore[attr-defined]

    def rows_a_step(self) -> int:
        """Rows, or pairs, of the global batch: all micro batches of all processes."""
        args = self.args  # type: ignore[attr-defined]
        return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """The rows are token ids already, as they were sampled: no template, tokenizer or truncation."""
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any) -> Dataset:
        """The base's log-probs are in the rows already, computed once for every run."""
        return dataset

    def _get_train_sampler(self, train_dataset: Dataset) -> Cycle:
        args = self.args  # type: ignore[attr-defined]
        lengths, places = train_dataset["length"][:], train_dataset["place"][:]
        order = AsTheyStand if self.universe is None else Cycle
        return order(lengths, self.rows_a_step(), args.max_steps, args.seed, places, self.universe)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ARG002
        return super().create_scheduler(self.schedule_steps, optimizer)  # type: ignore[misc]

    def log(self, logs: dict[str, float], *args: Any) -> None:
        """Adds `extras`. Raises UserError at the first step whose loss or gradient norm is not finite."""
        step = self.state.global_step  # type: ignore[attr-defined]
        for key in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(key, 0.0)):
                raise UserError(
                    f"run {self.run_name!r}: {key} is {logs[key]} at step {step}, so no adapter is written: "
                    "lower its learning_rate, or look for such values in the base model"
                )
        if "loss" in logs:
            logs |= self.extras
            self.extras = {}
        super().log(logs, *args)  # type: ignore[misc]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """transformers' checkpoint, without the model card that TRL adds."""
        Trainer._save_checkpoint(self, model, trial)  # type: ignore[arg-type]
        self.accelerator.wait_for_everyone()  # type: ignore[attr-defined]
        if self.on_checkpoint and self.is_world_process_zero():  # type: ignore[attr-defined]
            step = self.state.global_step  # type: ignore[attr-defined]
            self.on_checkpoint(Path(self.args.output_dir, f"checkpoint-{step}"))  # type: ignore[attr-defined]

    def _save(self, output_dir: str, state_dict: Any = None) -> None:  # noqa: ARG002
        """The weights alone: the rest of a checkpoint is the state of the training."""
        model = self.model  # type: ignore[attr-defined]
        # PEFT's "auto" asks the hub about the base
        options = {} if isinstance(model, PreTrainedModel) else {"save_embedding_layers": False}
        model.save_pretrained(output_dir, **options)

    def _send_telemetry(self) -> None:
        """A run tells nobody."""


class LikelihoodTrainer(RunTrainer, SFTTrainer):  # type: ignore[misc]
    """Minimises `row_loss(log_probs, mask, columns)`, reduced over the global batch.

    With `weighted` each row's loss is multiplied by its column `kept`, 1 or 0; a row of 0 counts in the reduction.

    The data set has rows (input_ids, labels, length, reward and the columns) and row_loss gives (B,); or with
    `paired` pairs (prompt_ids, chosen_ids, rejected_ids, length), and of 2 n rows row_loss gives (n,).
    """

    # compute_loss divides by the global batch's counts itself
    loss_is_scaled_for_ga = True  # type: ignore[assignment]

    def __init__(
        self,
        *,
        row_loss: RowLoss,
        reduction: Reduction,
        columns: tuple[str, ...] = (),
        token_columns: tuple[str, ...] = (),
        paired: bool = False,
        weighted: bool = False,
        **trainer: Any,
    ) -> None:
        self.weighted = weighted
        self.row_loss = row_loss
        self.reduction = reduction
        self.columns, self.token_columns = columns, token_columns
        self.paired = paired
        self.parts: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        pad = trainer["processing_class"].pad_token_id
        own = ("reward", "kept") if weighted else ("reward",)
        rows = RowCollator(pad, columns=(*own, *columns), token_columns=token_columns)
        super().__init__(data_collator=PairCollator(pad) if paired else rows, **trainer)
        _lean_head(self.model)

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The micro batch's share of the global batch's loss, which has `num_items_in_batch` completion tokens."""
        assert not return_outputs, "only training is supported"
        ids = {key: inputs[key] for key in ("input_ids", "attention_mask", "labels")}  # the mask goes no further
        outputs = model(**ids, fused_lm_head=True)  # (B, T - 1), chunked: no (B, T, V) logits are kept
        log_probs, mask = outputs.log_probs, outputs.label_mask
        columns = {name: inputs[name] for name in self.columns}
        columns |= {name: inputs[name][:, 1:] for name in self.token_columns}
        row_losses = self.row_loss(log_probs, mask, columns)
        if self.weighted:
            row_losses = row_losses * inputs["kept"]
        tokens = mask.sum(-1)

        def share(chosen: Tensor | slice) -> Tensor:
            counts = (num_items_in_batch, self.rows_a_step())
            return reduce(row_losses[chosen], tokens[chosen], *counts, self.reduction)

        if self.paired:
            correct = torch.arange(len(log_probs), device=log_probs.device) < len(row_losses)
            totals = log_probs.detach().double().sum(-1)
            self._add("log_prob_chosen", totals[correct].sum())
            self._add("log_prob_rejected", totals[~correct].sum())
            loss = row_losses.sum() / self.rows_a_step()
        else:
            correct = inputs["reward"] > 0
            self._add("loss_correct", share(correct).detach())
            self._add("loss_wrong", share(~correct).detach())
            loss = share(slice(None))
        self._count(log_probs, tokens, correct)
        # the processes' gradients are averaged, and the counts are those of all of them
        scaled: Tensor = loss * self.args.world_size
        return scaled

    def _count(self, log_probs: Tensor, tokens: Tensor, correct: Tensor) -> None:
        """Adds up tokens, and weights |d loss / d log-prob|, of all rows and of the correct ones."""
        self._add("tokens", tokens.sum())
        self._add("tokens_correct", tokens[correct].sum())

        def weigh(gradient: Tensor) -> None:
            weights = gradient.detach().abs().sum(-1)
            self._add("weight", weights.sum())
            self._add("weight_correct", weights[correct].sum())

        if log_probs.requires_grad:
            log_probs.register_hook(weigh)

    def _add(self, name: str, value: Tensor) -> None:
        self.parts[name] = self.parts[name].to(value.device) + value.double()

    def log(self, logs: dict[str, float], *args: Any) -> None:
        if "loss" in logs:
            names = sorted(self.parts)
            values = self.accelerator.reduce(torch.stack([self.parts[name] for name in names]), "sum").tolist()
            found = dict(zip(names, values, strict=True))
            tokens, correct = found.pop("tokens"), found.pop("tokens_correct")
            weight, of_correct = found.pop("weight"), found.pop("weight_correct")
            if self.paired:
                found = {name: value / self.rows_a_step() for name, value in found.items()}
            else:
                found["token_share_correct"] = correct / tokens
            # no token moves the model where every weight is 0
            self.extras |= found | ({"weight_share_correct": of_correct / weight} if weight else {})
            self.parts.clear()
        super().log(logs, *args)


class PreferenceTrainer(RunTrainer, DPOTrainer):  # type: ignore[misc]
    """TRL's DPO and its kin on prompt_ids, chosen_ids, rejected_ids, length, ref_chosen_logps and ref_rejected_logps.

    TRL averages the micro batches' means; `Cycle` makes all of one size, so that is the global batch's mean.
    """


class UnpairedTrainer(RunTrainer, KTOTrainer):  # type: ignore[misc]
    """TRL's KTO on prompt_ids, completion_ids, KL_completion_ids, label, length, ref_logps and ref_KL_logps.

    KTO's reference point is the batch's KL to the base (2402.01306, section 4.1). TRL estimates it from each micro
    batch; here it is that of the global batch, before its step, so that accumulation changes nothing.
    """

    def __init__(self, *, args: Any, **trainer: Any) -> None:
        # TRL refuses micro batches of one row, of which its own estimate would be the row itself
        loss_type, args.loss_type = args.loss_type, "apo_zero_unpaired"
        super().__init__(args=args, **trainer)
        self.loss_type = args.loss_type = loss_type
        self.calculate_KL = loss_type == "kto"
        _lean_head(self.model)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.calculate_KL:
            base = torch.cat([batch["ref_KL_logps"] for batch in batches])
            ratios = self._mismatched(batches).to(base.device) - base
            self.kl: Tensor = self.accelerator.gather(ratios).mean()
        return batches, items

    def _mismatched(self, batches: list[dict[str, Tensor]]) -> Tensor:
        """log pi(y') of each row's mismatched completion, (N,), in batches by the lengths of these."""
        prompts, completions = [], []
        for batch in batches:
            lengths, answers = (batch[f"KL_{mask}_mask"].sum(-1).tolist() for mask in ("attention", "completion"))
            for ids, length, answer in zip(batch["KL_input_ids"].tolist(), lengths, answers, strict=True):
                prompts.append(ids[: length - answer])
                completions.append(ids[length - answer : length])
        # without dropout: the base has none, and a resumed training takes up the random numbers after this
        model: Any = self.model
        training = model.training
        model.eval()
        scores = scoring.token_log_probs(model, prompts, completions, self.args.train_batch_size)
        model.train(training)
        return torch.stack([score.sum() for score in scores])

    def _compute_kl_logps(self, model: Any, batch: dict[str, Tensor]) -> Tensor | None:  # noqa: ARG002
        """TRL takes the mean of this less `ref_KL_logps`, which is to be the global batch's estimate."""
        if not self.calculate_KL:
            return None
        zeros = batch["ref_KL_logps"] = torch.zeros_like(batch["ref_KL_logps"])  # exact: the base's would round it
        return zeros + self.kl

    def _compute_loss(self, model: Any, *arguments: Any) -> Any:
        """TRL's, with zeros for what its own head also computes, for logs that nothing here reads."""

        def fill(_: Any, __: Any, outputs: Any) -> None:
            outputs.entropy = outputs.mean_logits = torch.zeros_like(outputs.log_probs)

        with model.register_forward_hook(fill):
            loss = super()._compute_loss(model, *arguments)
        for name in ("entropy", "logits/chosen", "logits/rejected"):
            self._metrics["train"].pop(name, None)
        return loss
