"""Train one run: its rows, the model and its adapter, TRL's trainer, and the files that it leaves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.kto_config import KTOConfig
from trl.trainer.sft_config import SFTConfig

from deltageom.methods import interface
from deltageom.methods.interface import MethodOptions, OfflineMethod, Pairwise, Preference, Unpaired, in_pairs
from deltageom.models.load import Model, check_layers, load_model, load_tokenizer
from deltageom.study.settings import TrainSettings
from deltageom.training import launch, lora, resume, rows, session
from deltageom.training.session import Execution, arguments
from deltageom.training.trainers import LikelihoodTrainer, PreferenceTrainer, UnpairedTrainer

AnyTrainer = LikelihoodTrainer | PreferenceTrainer | UnpairedTrainer
OF_EVERY_ROW = ("input_ids", "labels", "length", "place", "kept", "reward")


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


def train(settings: TrainSettings, paths: Paths, execution: Execution) -> None:
    """Write a run's adapter (or whole model), its snapshots, metrics.parquet and selection.json into `paths.output`.

    Each file appears whole, and none before training has ended well. Equal settings, inputs and device give equal
    bytes on the CPU with one thread, killed and continued or not. Raises UserError for an empty selection, a row over
    max_length where the study says `error`, rows without what the method needs, a loss or gradient norm that is not
    finite, a norm that is not reached, and a checkpoint of another training.
    """
    session.check_reporters(paths.output, execution)
    if settings.device == "cuda":
        launch.choose_device(execution.processes)
    method = interface.load_offline(settings.method)
    options = method.options.model_validate(settings.options)
    tokenizer = load_tokenizer(paths.base, settings.base)
    files = paths.rollouts, paths.reference, paths.mismatched
    dataset, universe, counts = rows.prepare(settings, method, options, tokenizer, *files)
    if settings.device == "cuda":
        check_memory(settings, method, dataset, paths)
    trainer = build_trainer(settings, method, options, tokenizer, dataset, universe, paths, execution)
    inputs = {name: getattr(paths, name) for name in ("rollouts", "reference", "mismatched", "held_out", "match")}
    known_by = resume.identity(settings, paths.base, inputs, "train", execution.processes)
    session.complete(trainer, settings, paths, execution, known_by, counts, len(dataset))


def build_trainer(
    settings: TrainSettings,
    method: OfflineMethod,
    options: MethodOptions,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    universe: int | None,
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
    given = arguments(settings, paths.scratch, execution)
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
        lora.prepare(trainer.model, settings)
    return trainer


def check_memory(settings: TrainSettings, method: OfflineMethod, dataset: Dataset, paths: Paths) -> None:
    """Raises UserError, before the model is loaded, if what the run takes at least is more than the GPU has free.

    The widest micro batch has the longest row, which is sure to be drawn where the run sees every row.
    """
    training = settings.training
    lengths = dataset["length"][:]
    seen = (training.report_step or training.steps) * training.batch_size >= len(lengths)
    tokens = max(lengths) if seen else min(lengths)
    rows_at_once = training.micro_batch_size * (2 if in_pairs(method) else 1)
    session.check_memory(settings, paths.base, rows_at_once, tokens)


def _trainer_of(
    method: OfflineMethod,
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
