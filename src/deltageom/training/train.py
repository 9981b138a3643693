"""Train one run: its rows, the model and its adapter, TRL's trainer, and the files that it leaves."""

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.integrations import integration_utils as integrations
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.kto_config import KTOConfig
from trl.trainer.sft_config import SFTConfig

from deltageom.errors import UserError
from deltageom.files import whole_file, write_json
from deltageom.hardware import memory
from deltageom.methods import interface
from deltageom.methods.interface import AnyMethod, MethodOptions, Pairwise, Preference, Unpaired, in_pairs
from deltageom.models.load import Model, check_layers, load_configuration, load_model, load_tokenizer
from deltageom.study.settings import TrainSettings
from deltageom.training import launch, lora, resume, rows, saving
from deltageom.training.monitoring import KlWatch, NormWatch
from deltageom.training.trainers import LikelihoodTrainer, PreferenceTrainer, UnpairedTrainer

AVAILABLE = {
    "tensorboard": integrations.is_tensorboard_available,
    "wandb": integrations.is_wandb_available,
    "trackio": integrations.is_trackio_available,
}
AnyTrainer = LikelihoodTrainer | PreferenceTrainer | UnpairedTrainer
MEMORY_KEYS = "training.micro_batch_size, training.gradient_checkpointing, training.max_length or base.dtype"
OF_EVERY_ROW = ("input_ids", "labels", "length", "place", "kept", "reward")
# transformers' and TRL's names, and ours, of the numbers that metrics.parquet has of a step; other names are kept
RENAMED = {
    "num_input_tokens_seen": "tokens",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "rewards/margins": "reward_margin",
    "rewards/accuracies": "reward_accuracy",
    "logps/chosen": "log_prob_chosen",
    "logps/rejected": "log_prob_rejected",
    "kl": "kl_estimate",
}
KEPT = {
    *("loss", "learning_rate", "grad_norm", "delta_norm", "kl_to_base", "loss_correct", "loss_wrong"),
    *("token_share_correct", "weight_share_correct", *RENAMED.values()),
}


@dataclass(frozen=True)
class Paths:
    """What a training reads and writes: `reference` and those after it only where its settings need them."""

    base: str  # folder or hub id
    rollouts: Path
    output: Path
    scratch: Path
    reference: Path | None = None
    mismatched: Path | None = None
    held_out: Path | None = None
    match: Path | None = None


@dataclass(frozen=True)
class Execution:
    """How the run is trained; nothing here changes what comes out."""

    processes: int = 1
    checkpoint_every: int = 0  # steps; 0 for none
    report_to: tuple[str, ...] = ()
    batch_size: int = 32  # of the held-out samples


def train(settings: TrainSettings, paths: Paths, execution: Execution) -> None:
    """Write a run's adapter (or whole model), its snapshots, metrics.parquet and selection.json into `paths.output`.

    Each file appears whole, and none before training has ended well. Equal settings, inputs and device give equal
    bytes on the CPU with one thread, killed and continued or not. Raises UserError for an empty selection, a row over
    max_length where the study says `error`, rows without what the method needs, a loss or gradient norm that is not
    finite, a norm that is not reached, and a checkpoint of another training.
    """
    _check_reporters(paths, execution)
    if settings.device == "cuda":
        launch.choose_device(execution.processes)
    method = interface.load(settings.method)
    options = method.options.model_validate(settings.options)
    tokenizer = load_tokenizer(paths.base, settings.base)
    files = paths.rollouts, paths.reference, paths.mismatched
    dataset, universe, counts = rows.prepare(settings, method, options, tokenizer, *files)
    if settings.device == "cuda":
        check_memory(settings, method, dataset, paths)
    trainer = build_trainer(settings, method, options, tokenizer, dataset, universe, paths, execution)
    inputs = {name: getattr(paths, name) for name in ("rollouts", "reference", "mismatched", "held_out", "match")}
    identity = resume.identity(
        settings.model_dump(mode="json"), paths.base, inputs, settings.method, execution.processes
    )
    trainer.on_checkpoint = resume.marker(identity)
    resumed = resume.latest(paths.scratch, identity)
    if resumed:
        print(f"going on from {resumed.name}", flush=True)
    norm, kl = _watch(trainer, settings, paths, execution)
    snapshots = saving.Snapshots(trainer, settings.training.snapshots or [], paths.scratch)
    snapshots.check(resumed)
    trainer.add_callback(snapshots)
    try:
        with memory.out_of_memory(f"run {settings.run!r}", MEMORY_KEYS):
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
        counts |= _ending(trainer, settings, norm) | (kl.ending() if kl else {"kl_to_base": None})
    except UserError:
        # what cannot be trained cannot be continued; the correction is another training
        if trainer.is_world_process_zero():
            shutil.rmtree(paths.scratch, ignore_errors=True)
        raise
    if not trainer.is_world_process_zero():
        return
    counts["epochs"] = counts["steps_done"] * trainer.rows_a_step() / len(dataset)
    snapshots.publish(paths.output)
    saving.write_model(trainer, paths.output, paths.scratch)
    write_metrics(paths.output / "metrics.parquet", trainer.state.log_history, counts)
    write_json(paths.output / "selection.json", counts)
    shutil.rmtree(paths.scratch, ignore_errors=True)


def build_trainer(
    settings: TrainSettings,
    method: AnyMethod,
    options: MethodOptions,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    universe: int,
    paths: Paths,
    execution: Execution,
    model: Model | None = None,
) -> AnyTrainer:
    """The family's trainer on the base, or on a `model` that is loaded already, LoRA in place with its initial A."""
    whole = settings.training.adapter == "none"
    # all weights are trained: a step of bfloat16 would lose most of what the optimiser adds to them
    dtype = settings.base.model_copy(update={"dtype": "float32"}) if whole else settings.base
    model = model or load_model(paths.base, dtype, settings.device)
    check_layers(model, settings.base)
    given = arguments(settings, paths, execution)
    shared = {
        "name": settings.run,
        "schedule_steps": settings.training.steps,
        "universe": universe,
        "on_checkpoint": None,
        "model": model,
        "processing_class": tokenizer,
        "train_dataset": dataset,
        "peft_config": None if whole else lora.config(settings.training.lora, settings.base),
    }
    trainer = _trainer_of(method, options, settings, dataset, given, shared)
    if not whole:
        lora.check(trainer.model, settings)
        lora.keep_input_dtype(trainer.model)
        lora.initialise(trainer.model, settings.training.lora.init_seed)
    return trainer


def check_memory(settings: TrainSettings, method: AnyMethod, dataset: Dataset, paths: Paths) -> None:
    """Raises UserError, before the model is loaded, if what the run takes at least is more than the GPU has free.

    The widest micro batch has the longest row, which is sure to be drawn where the run sees every row.
    """
    training = settings.training
    lengths = dataset["length"][:]
    seen = (training.report_step or training.steps) * training.batch_size >= len(lengths)
    tokens = max(lengths) if seen else min(lengths)
    rows_at_once = training.micro_batch_size * (2 if in_pairs(method) else 1)
    config = load_configuration(paths.base, settings.base)
    parts = memory.training_parts(config, training, settings.base, rows_at_once, tokens)
    memory.check(parts, *memory.free_memory(settings.device), f"run {settings.run!r}", MEMORY_KEYS)


def _trainer_of(
    method: AnyMethod,
    options: MethodOptions,
    settings: TrainSettings,
    dataset: Dataset,
    given: dict[str, Any],
    shared: dict[str, Any],
) -> AnyTrainer:
    if isinstance(method, Preference | Unpaired):
        # TRL turns dropout off for these alone; here lora.dropout means the same in every run
        own = {**method.trainer_arguments(options), "disable_dropout": False, "precompute_ref_log_probs": True}
        if isinstance(method, Preference):
            return PreferenceTrainer(args=DPOConfig(**given, **own), **shared)
        return UnpairedTrainer(args=KTOConfig(**given, **own), **shared)
    first = dataset[0]
    beside = [name for name in dataset.column_names if name not in OF_EVERY_ROW]
    ragged = tuple(name for name in beside if isinstance(first[name], list))
    paired, loss = isinstance(method, Pairwise), method.loss
    return LikelihoodTrainer(
        row_loss=lambda log_probs, mask, columns: loss(log_probs, mask, columns, options),
        columns=() if paired else tuple(name for name in beside if name not in ragged),
        token_columns=() if paired else ragged,
        paired=paired,
        weighted="kept" in dataset.column_names,
        reduction=settings.training.reduction,
        args=SFTConfig(**given),
        **shared,
    )


def arguments(settings: TrainSettings, paths: Paths, execution: Execution) -> dict[str, Any]:
    """The study's training settings in the words of transformers.TrainingArguments; TRL's defaults undone."""
    training = settings.training
    every = execution.checkpoint_every
    return {
        "output_dir": str(paths.scratch),
        "run_name": settings.run,
        "max_steps": training.report_step or training.steps,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.schedule,
        "warmup_steps": math.ceil(training.warmup * training.steps),
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "per_device_train_batch_size": training.micro_batch_size,
        "gradient_accumulation_steps": training.batch_size // (training.micro_batch_size * execution.processes),
        "gradient_checkpointing": training.gradient_checkpointing,
        "bf16": settings.base.dtype == "bfloat16",
        "seed": training.seed,
        "use_cpu": settings.device == "cpu",
        "dataloader_pin_memory": settings.device == "cuda",
        "max_length": None,  # nothing is truncated: rows.within_length has seen to the length
        "remove_unused_columns": False,  # a method's columns belong to the batch
        "include_num_input_tokens_seen": "non_padding",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would log the mean of earlier losses in place of a NaN
        "report_to": list(execution.report_to) or "none",
        "save_strategy": "steps" if every else "no",
        "save_steps": max(every, 1),
        "save_total_limit": 2,  # while one is being written, the one before it is whole
        "ddp_find_unused_parameters": False,
    }


def write_metrics(path: Path, history: list[dict[str, float]], counts: dict[str, Any]) -> None:
    """Writes one row per step and metric: step, metric, value. Names and units are in docs/tables.md."""
    lines = sorted(
        (logs["step"], RENAMED.get(name, name), value)
        for logs in history
        if "loss" in logs
        for name, value in {**logs, "epoch": logs["step"] * counts["epochs"] / counts["steps_done"]}.items()
        if RENAMED.get(name, name) in KEPT or name == "epoch"
    )
    table = pd.DataFrame(lines, columns=["step", "metric", "value"])
    with whole_file(path) as aside:
        table.astype({"step": "int32", "metric": "str", "value": "float64"}).to_parquet(aside, index=False)


def _watch(
    trainer: AnyTrainer, settings: TrainSettings, paths: Paths, execution: Execution
) -> tuple[NormWatch | None, KlWatch | None]:
    """Adds what is followed step by step: the norm, which only an adapter has, and the KL where the study asks."""
    norm = kl = None
    match = settings.training.match_norm
    if settings.training.adapter == "lora":
        target = _norm_of(_needed(paths.match, "--match", settings)) if match else None
        norm = NormWatch(trainer, target, stops=bool(match and match.how == "stop"))
        trainer.add_callback(norm)
    if settings.training.kl_every:
        held_out = _needed(paths.held_out, "--held-out", settings)
        kl = KlWatch(trainer, held_out, settings.training.kl_every, execution.batch_size)
        trainer.add_callback(kl)
    return norm, kl


def _norm_of(selection: Path) -> float:
    """The Frobenius norm of another run's delta, as that run's selection.json has it."""
    return float(json.loads(selection.read_text(encoding="utf-8"))["delta_norm"])


def _ending(trainer: AnyTrainer, settings: TrainSettings, watch: NormWatch | None) -> dict[str, Any]:
    """How the training ended, its delta scaled where the study says so."""
    training = settings.training
    done = trainer.state.global_step
    planned = training.report_step or training.steps
    ending: dict[str, Any] = {
        "steps_done": done,
        "stopped": "norm" if watch and watch.reached else "report_step" if training.report_step else "steps",
        "delta_norm": None,
        "matched_norm": watch.target if watch else None,
        "scale": 1.0,
    }
    if watch is None:
        return ending
    model = trainer.accelerator.unwrap_model(trainer.model)
    norm = lora.delta_norm(model)
    if training.match_norm and training.match_norm.how == "stop" and not watch.reached:
        raise UserError(
            f"run {settings.run!r}: after {planned} steps its delta's norm is {norm:.4g}, less than the "
            f"{watch.target:.4g} of run {training.match_norm.run!r}: raise its steps or its learning_rate, or set "
            "how: scale"
        )
    if training.match_norm and training.match_norm.how == "scale":
        assert watch.target is not None
        if not norm:
            raise UserError(f"run {settings.run!r}: its delta is 0, which no factor makes as long as another")
        ending["scale"] = watch.target / norm
        lora.scale(model, ending["scale"])
    return {**ending, "delta_norm": lora.delta_norm(model)}


def _needed(path: Path | None, option: str, settings: TrainSettings) -> Path:
    if path is None:
        raise UserError(f"run {settings.run!r}: its settings need {option}")
    return path


def _check_reporters(paths: Paths, execution: Execution) -> None:
    for name in execution.report_to:
        if not AVAILABLE[name]():
            raise UserError(f"execution.report_to: {name} is not installed: install it, or remove it from the list")
    if "tensorboard" in execution.report_to:
        # its files would else lie in the scratch folder, and go with it
        study = paths.output.parent.parent
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(study / "tensorboard" / paths.output.name))
