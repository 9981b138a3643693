"""Train one run: rows and selection, LoRA on the base, TRL's trainer, and the files that it leaves."""

import hashlib
import json
import math
import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.sft_config import SFTConfig

from deltageom import models, selection
from deltageom.errors import UserError
from deltageom.jobs import TrainSettings
from deltageom.methods import interface
from deltageom.methods.interface import MethodOptions, Pairs, Rows, Selection
from deltageom.records import whole_file, write_csv, write_json
from deltageom.schema import Lora
from deltageom.trainers import PreferenceTrainer, WeightedTrainer

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
COLUMNS = ["problem_id", "source", "prompt_token_ids", "token_ids", "reward"]
IGNORED = -100  # the label of a token that carries no loss


def train(settings: TrainSettings, base_path: str, rollouts_path: Path, output: Path, scratch: Path) -> None:
    """Write a run's adapter, metrics.csv (a line a step) and selection.json (counts) into `output`.

    Each file appears whole, and none before training has ended well. Equal settings, inputs and device give
    equal bytes on the CPU with one thread. Raises UserError for an empty selection, a row over max_length
    where the study says `error`, or a loss or gradient norm that is not finite.
    """
    method = interface.load(settings.method)
    options = method.Options.model_validate(settings.options)
    table, dropped = read_rows(rollouts_path, method.SOURCE, settings)
    chosen, counts = select(table, method, options, settings)
    model = models.load_model(base_path, settings.base, settings.device)
    models.check_layers(model, settings.base)
    tokenizer = models.load_tokenizer(base_path, settings.base)
    trainer = build_trainer(settings, method, options, model, tokenizer, dataset_of(table, chosen), scratch)
    trainer.train()
    metrics = metrics_of(trainer.state.log_history, settings.training.batch_size / counts["selected"])
    counts |= {"dropped_over_length": dropped, "epochs": metrics[-1]["epoch"]}
    write_adapter(cast(PeftModel, trainer.model), output, scratch)
    write_csv(output / "metrics.csv", metrics)
    write_json(output / "selection.json", counts)


def read_rows(path: Path, source: str, settings: TrainSettings) -> tuple[pd.DataFrame, int]:
    """The rollouts' rows of one source within max_length, and how many were longer and dropped.

    Longer rows leave before any selection, so that every method sees the same rows; where the study says
    `error` the first one raises UserError.
    """
    table = pd.read_parquet(path, columns=COLUMNS)
    table = table[table["source"] == source]
    lengths = lengths_of(table)
    limit = settings.training.max_length
    over = lengths > limit
    if over.any() and settings.training.over_length == "error":
        raise UserError(
            f"run {settings.run!r}: {over.sum()} of {len(table)} {source} rows have more tokens than "
            f"training.max_length {limit}, the longest {lengths.max()} (problem "
            f"{table['problem_id'].iloc[lengths.argmax()]!r}): raise max_length, or set over_length: drop"
        )
    return table[~over].reset_index(drop=True), int(over.sum())


def select(
    table: pd.DataFrame, method: ModuleType, options: MethodOptions, settings: TrainSettings
) -> tuple[Selection | Pairs, dict[str, Any]]:
    """What the method trains on, and the counts. Raises UserError with them if that is nothing."""
    rewards = table["reward"].to_numpy(np.float64)
    problems = table["problem_id"].to_numpy(np.str_)
    counts = selection.counts(rewards, problems)
    chosen: Selection | Pairs = method.select(Rows(rewards, problems), options)
    unit, n = ("pairs", len(chosen.chosen)) if isinstance(chosen, Pairs) else ("rows", len(chosen.indices))
    if not n:
        found = ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in counts.items())
        raise UserError(
            f"run {settings.run!r}: method {settings.method} finds no {unit} to train on; "
            f"source {method.SOURCE!r} has {found}"
        )
    return chosen, {**counts, "unit": unit, "selected": n}


def dataset_of(table: pd.DataFrame, chosen: Selection | Pairs) -> Dataset:
    """The selected token ids as TRL's trainers read them, exactly as they were sampled."""
    prompts, completions = table["prompt_token_ids"], table["token_ids"]
    lengths = lengths_of(table).to_numpy()
    if isinstance(chosen, Pairs):
        return Dataset.from_dict(
            {
                "prompt_ids": [prompts[i] for i in chosen.chosen],
                "chosen_ids": [completions[i] for i in chosen.chosen],
                "rejected_ids": [completions[i] for i in chosen.rejected],
                "length": np.maximum(lengths[chosen.chosen], lengths[chosen.rejected]),
            }
        )
    unlearnt = prompts.map(lambda ids: np.full_like(ids, IGNORED))
    return Dataset.from_dict(
        {
            "input_ids": [np.concatenate([prompts[i], completions[i]]) for i in chosen.indices],
            "labels": [np.concatenate([unlearnt[i], completions[i]]) for i in chosen.indices],
            "length": lengths[chosen.indices],
            **chosen.columns,
        }
    )


def lengths_of(table: pd.DataFrame) -> pd.Series:
    """Each row's tokens, prompt and completion together."""
    return table["prompt_token_ids"].map(len) + table["token_ids"].map(len)


def build_trainer(
    settings: TrainSettings,
    method: ModuleType,
    options: MethodOptions,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    scratch: Path,
) -> WeightedTrainer | PreferenceTrainer:
    """The method's trainer, LoRA in place with its initial A."""
    trainer: WeightedTrainer | PreferenceTrainer
    shared = {
        "name": settings.run,
        "schedule_steps": settings.training.steps,
        "model": model,
        "processing_class": tokenizer,
        "train_dataset": dataset,
        "peft_config": lora_config(settings.training.lora, settings.base.revision),
    }
    if method.FAMILY == "preference":
        # TRL turns dropout off for DPO alone; here lora.dropout means the same in every run.
        own = {**method.trainer_arguments(options), "disable_dropout": False}
        trainer = PreferenceTrainer(args=DPOConfig(**arguments(settings, scratch), **own), **shared)
    else:
        trainer = WeightedTrainer(
            row_loss=lambda log_probs, mask, columns: method.loss(log_probs, mask, columns, options),
            columns=tuple(n for n in dataset.column_names if n not in ("input_ids", "labels", "length")),
            reduction=settings.training.reduction,
            args=SFTConfig(**arguments(settings, scratch)),
            **shared,
        )
    initialise_lora(cast(PeftModel, trainer.model), settings.training.lora.init_seed)
    return trainer


def arguments(settings: TrainSettings, scratch: Path) -> dict[str, Any]:
    """The study's training settings in the words of transformers.TrainingArguments; TRL's defaults undone."""
    training = settings.training
    return {
        "output_dir": str(scratch),
        "max_steps": training.report_step or training.steps,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.schedule,
        "warmup_steps": math.ceil(training.warmup * training.steps),
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "per_device_train_batch_size": training.micro_batch_size,
        "gradient_accumulation_steps": training.batch_size // training.micro_batch_size,
        "gradient_checkpointing": training.gradient_checkpointing,
        "bf16": settings.base.dtype == "bfloat16",
        "seed": training.seed,
        "use_cpu": settings.device == "cpu",
        "dataloader_pin_memory": settings.device == "cuda",
        "max_length": None,  # nothing is truncated: read_rows has seen to the length
        "remove_unused_columns": False,  # a method's columns belong to the batch
        "include_num_input_tokens_seen": "non_padding",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would log the mean of earlier losses in place of a NaN
        "report_to": "none",
        "save_strategy": "no",
    }


def lora_config(lora: Lora, revision: str | None) -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        revision=revision,
    )


@torch.no_grad()
def initialise_lora(model: PeftModel, seed: int) -> None:
    """Draw each A anew from a generator of `seed` and the module's name alone; B stays 0.

    In float32 on the CPU, from PEFT's own distribution (kaiming_uniform with a = sqrt 5): so A depends on no
    device, dtype, method, or order of modules.
    """
    for name, module in model.get_base_model().named_modules():
        if not hasattr(module, "lora_A"):
            continue
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
        weight = module.lora_A["default"].weight
        initial = torch.empty(weight.shape, dtype=torch.float32)
        torch.nn.init.kaiming_uniform_(initial, a=math.sqrt(5), generator=generator)
        weight.copy_(initial)


def metrics_of(history: list[dict[str, float]], epochs_a_step: float) -> list[dict[str, float]]:
    """A row a step: loss, learning rate, gradient norm before clipping, tokens so far with prompts, epoch."""
    return [
        {
            "step": logs["step"],
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs["grad_norm"],
            "tokens": logs["num_input_tokens_seen"],
            "epoch": logs["step"] * epochs_a_step,
        }
        for logs in history
        if "loss" in logs
    ]


def write_adapter(model: PeftModel, output: Path, scratch: Path) -> None:
    """PEFT's two files, each in `output` once it is whole."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        model.save_pretrained(folder, save_embedding_layers=False)  # "auto" asks the hub about the base
        weights, config = (Path(folder) / name for name in ADAPTER_FILES)
        with whole_file(output / weights.name) as aside:
            shutil.copyfile(weights, aside)
        content = json.loads(config.read_text(encoding="utf-8"))
        content["target_modules"].sort()  # PEFT keeps a set: its order changes from process to process
        write_json(output / config.name, content)
