"""A training from its first step, or its last checkpoint, to the files that it leaves: the same for every method."""

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transformers.integrations import integration_utils as integrations

from deltageom.errors import UserError
from deltageom.files import write_json
from deltageom.hardware import memory
from deltageom.models.load import load_configuration
from deltageom.study.settings import TrainSettings
from deltageom.training import lora, resume
from deltageom.training.monitoring import KlWatch, NormWatch
from deltageom.training.output import metrics, saving

AVAILABLE = {
    "tensorboard": integrations.is_tensorboard_available,
    "wandb": integrations.is_wandb_available,
    "trackio": integrations.is_trackio_available,
}
MEMORY_KEYS = "training.micro_batch_size, training.gradient_checkpointing, training.max_length or base.dtype"


class Paths(Protocol):
    """What of a training's paths is the same for every method."""

    @property
    def output(self) -> Path: ...
    @property
    def scratch(self) -> Path: ...
    @property
    def held_out(self) -> Path | None: ...
    @property
    def match(self) -> Path | None: ...


class Keeper(Protocol):
    """A callback that keeps something in the scratch folder while a run trains."""

    def check(self, resumed: Path | None) -> None:
        """Raises UserError if what the training before the checkpoint `resumed` has kept is gone."""
        ...

    def publish(self, output: Path) -> dict[str, Any]:
        """Puts it into the output's folder; returns what selection.json says of it."""
        ...


@dataclass(frozen=True)
class Execution:
    """How the run is trained; nothing here changes what comes out."""

    processes: int = 1
    checkpoint_every: int = 0  # steps; 0 for none
    report_to: tuple[str, ...] = ()
    batch_size: int = 32  # of the held-out samples


def complete(
    trainer: Any,
    settings: TrainSettings,
    paths: Paths,
    execution: Execution,
    identity: dict[str, Any],
    counts: dict[str, Any],
    rows: int,
    keepers: Sequence[Keeper] = (),
) -> None:
    """Trains, and writes the model, its snapshots, metrics.parquet and selection.json once that has ended well.

    identity: what a checkpoint is known by (resume.py); counts: what selection.json says of the rows; rows: how many
    an epoch has. Raises UserError as `train` does.
    """
    trainer.on_checkpoint = resume.marker(identity)
    resumed = resume.latest(paths.scratch, identity)
    if resumed:
        print(f"going on from {resumed.name}", flush=True)
    norm, kl = _watch(trainer, settings, paths, execution)
    keepers = (saving.Snapshots(trainer, settings.training.snapshots or [], paths.scratch), *keepers)
    for keeper in keepers:
        keeper.check(resumed)
        trainer.add_callback(keeper)
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
    counts["epochs"] = counts["steps_done"] * trainer.rows_a_step() / rows
    for keeper in keepers:
        counts |= keeper.publish(paths.output)
    saving.write_model(trainer, paths.output, paths.scratch)
    metrics.write_metrics(paths.output / "metrics.parquet", trainer.state.log_history, counts)
    write_json(paths.output / "selection.json", counts)
    shutil.rmtree(paths.scratch, ignore_errors=True)


def check_memory(settings: TrainSettings, base: str, rows_at_once: int, tokens: int) -> None:
    """Raises UserError if what a step of so many rows, of so many tokens each, takes is more than the GPU has free."""
    config = load_configuration(base, settings.base)
    parts = memory.training_parts(config, settings.training, settings.base, rows_at_once, tokens)
    memory.check(parts, *memory.free_memory(settings.device), f"run {settings.run!r}", MEMORY_KEYS)


def arguments(settings: TrainSettings, scratch: Path, execution: Execution) -> dict[str, Any]:
    """The study's training settings in the words of transformers.TrainingArguments; TRL's defaults undone."""
    training = settings.training
    every = execution.checkpoint_every
    return {
        "output_dir": str(scratch),
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


def _watch(
    trainer: Any, settings: TrainSettings, paths: Paths, execution: Execution
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


def _ending(trainer: Any, settings: TrainSettings, watch: NormWatch | None) -> dict[str, Any]:
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


def check_reporters(output: Path, execution: Execution) -> None:
    for name in execution.report_to:
        if not AVAILABLE[name]():
            raise UserError(f"execution.report_to: {name} is not installed: install it, or remove it from the list")
    if "tensorboard" in execution.report_to:
        # its files would else lie in the scratch folder, and go with it
        study = output.parent.parent
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(study / "tensorboard" / output.name))
