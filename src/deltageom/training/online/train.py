"""Train a run that samples while it trains: problems instead of rollouts, and the samples beside the adapter."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.trainer.distillation_config import DistillationConfig
from trl.trainer.grpo_config import GRPOConfig

from deltageom.errors import UserError
from deltageom.generation.engine import Sampling
from deltageom.generation.generate import longest
from deltageom.methods import interface
from deltageom.methods.interface import Online
from deltageom.methods.shared.online import SamplingOptions
from deltageom.models.load import (
    Model,
    check_layers,
    context_length,
    load_model,
    load_tokenizer,
)
from deltageom.models.prompts import Tokenizer, prompt_ids
from deltageom.problems.problem import Problem, read_problems
from deltageom.study.settings import OnlineSettings
from deltageom.training import launch, lora, resume, session
from deltageom.training.online.samples import Samples
from deltageom.training.online.trainers import DistilledTrainer, Draws, GroupTrainer
from deltageom.training.session import Execution, arguments

AnyTrainer = GroupTrainer | DistilledTrainer


@dataclass(frozen=True)
class Paths:
    """What such a training reads and writes: `teacher`, `held_out` and `match` only where its settings need them."""

    base: str  # folder or hub id
    problems: Path
    output: Path
    scratch: Path
    teacher: str | None = None  # folder or hub id
    held_out: Path | None = None
    match: Path | None = None


def train(settings: OnlineSettings, paths: Paths, execution: Execution, memory_share: float = 0.3) -> None:
    """Write the run's adapter, its snapshots, metrics.parquet, selection.json and samples.parquet into `paths.output`.

    As `training.train.train`, with its promises. memory_share: of the GPU's, for vLLM. Raises UserError for what that
    does as far as it applies, prompts that are too long, a teacher of another vocabulary, and samples that are all cut.
    """
    session.check_reporters(paths.output, execution)
    if settings.device == "cuda":
        launch.choose_device(execution.processes)
    method = interface.load(settings.method)
    assert isinstance(method, Online), "the study says which command trains a method"
    options = method.options.model_validate(settings.options)
    tokenizer = load_tokenizer(paths.base, settings.base)
    problems = read_problems(paths.problems)
    draws, length = _draws(settings, options, tokenizer, problems, paths.base)
    if settings.device == "cuda":
        session.check_memory(settings, paths.base, settings.training.micro_batch_size, length)
    execution = _whole_batches(execution, draws.iterations)
    trainer = build_trainer(settings, method, options, draws, tokenizer, length, paths, execution, memory_share)
    trainer.samples = Samples(
        tokenizer,
        paths.scratch,
        settings.online.keep,
        len(problems),
        lambda done: range(0, done, draws.iterations),
        trainer.accelerator.process_index,
    )
    inputs = {name: getattr(paths, name) for name in ("problems", "held_out", "match")}
    if paths.teacher and Path(paths.teacher).is_dir():
        inputs["teacher"] = Path(paths.teacher)
    known_by = resume.identity(settings, paths.base, inputs, "train_online", execution.processes)
    counts: dict[str, Any] = {"unit": "completions", "duplicates": 0, "dropped_over_length": 0}
    rows = len(problems) * draws.group
    session.complete(trainer, settings, paths, execution, known_by, counts, rows, [trainer.samples])


def build_trainer(
    settings: OnlineSettings,
    method: Online[Any],
    options: SamplingOptions,
    draws: Draws,
    tokenizer: Tokenizer,
    length: int,
    paths: Paths,
    execution: Execution,
    memory_share: float,
) -> AnyTrainer:
    """The method's trainer on the base, LoRA in place with its initial A. length: of the longest row, in tokens."""
    model = load_model(paths.base, settings.base, settings.device)
    check_layers(model, settings.base)
    own = method.trainer_arguments(options) | {
        "temperature": options.temperature,
        "max_completion_length": options.max_tokens,
        "shuffle_dataset": False,  # the sampler has the order
        "use_vllm": settings.online.engine == "vllm",
        "vllm_mode": "colocate",
        "vllm_enable_sleep_mode": settings.online.sleep,
        "vllm_gpu_memory_utilization": memory_share,
        "vllm_max_model_length": length,
    }
    given = arguments(settings, paths.scratch, execution)
    del given["max_length"]  # no row is longer than its prompt and max_tokens
    given["include_num_input_tokens_seen"] = "no"  # the batches have problems, not rows: TRL counts what it generates
    shared: dict[str, Any] = {
        "draws": draws,
        "tokenizer": tokenizer,
        "name": settings.run,
        "schedule_steps": settings.training.steps,
        "on_checkpoint": None,
        "model": model,
        "train_dataset": Dataset.from_dict({"row": range(len(draws.prompts)), "prompt": list(draws.prompts)}),
        "peft_config": lora.config(settings.training.lora, settings.base),
    }
    trainer: AnyTrainer
    if method.teacher:
        teacher = _teacher(settings, paths, model, tokenizer)
        trainer = DistilledTrainer(args=DistillationConfig(**given, **own), teacher_model=teacher, **shared)
    else:
        trainer = GroupTrainer(args=GRPOConfig(**given, **own), **shared)
    lora.prepare(trainer.model, settings)
    return trainer


def _draws(
    settings: OnlineSettings, options: SamplingOptions, tokenizer: Tokenizer, problems: Sequence[Problem], base: str
) -> tuple[Draws, int]:
    """How the run is sampled, and the tokens of the longest prompt and its completion.

    Raises UserError where those are more than max_length or the model's context.
    """
    prompts = [prompt_ids(tokenizer, settings.prompt, problem.question) for problem in problems]
    context = context_length(base, settings.base)
    length = longest(prompts, options.max_tokens, context, f"run {settings.run!r}")
    if length > settings.training.max_length:
        raise UserError(
            f"run {settings.run!r}: the longest prompt has {length - options.max_tokens} tokens and max_tokens is "
            f"{options.max_tokens}, more than training.max_length {settings.training.max_length}: lower max_tokens, or "
            "raise max_length"
        )
    tokens = settings.transformers.batch_tokens if settings.transformers else None
    return Draws(
        problems,
        prompts,
        options.group,
        Sampling(options.temperature, 1.0, 0, options.max_tokens),
        settings.online.seed,
        (settings.online.batch_size, tokens),
        settings.grader,
        getattr(options, "iterations", 1),
    ), length


def _whole_batches(execution: Execution, iterations: int) -> Execution:
    """Checkpoints only where new samples are drawn next: those of a batch that is half used are in no checkpoint."""
    every = -(-execution.checkpoint_every // iterations) * iterations
    return Execution(execution.processes, every, execution.report_to, execution.batch_size)


def _teacher(settings: OnlineSettings, paths: Paths, model: Model, own: Tokenizer) -> Model:
    """The teacher in the base's dtype. Raises UserError if its vocabulary is not the base's."""
    assert paths.teacher is not None, "the rule names the teacher of a method that asks one"
    # the revision and the layers are the base's, no other model's
    source = settings.base.model_copy(update={"revision": None})
    theirs = load_tokenizer(paths.teacher, source)
    teacher = load_model(paths.teacher, source, settings.device)
    sizes = [one.config.get_text_config().vocab_size for one in (model, teacher)]
    if sizes[0] != sizes[1] or theirs.get_vocab() != own.get_vocab():
        raise UserError(
            f"run {settings.run!r}: {settings.method} compares distributions over one vocabulary, and that of "
            f"{paths.teacher} ({sizes[1]} tokens) is not that of {paths.base} ({sizes[0]}): name another "
            "rollouts.generator"
        )
    return teacher.requires_grad_(False)
