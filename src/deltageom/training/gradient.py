"""The gradient of a run's loss at the base, on the batches that the run is trained on first."""

import math
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from deltageom.hardware import memory
from deltageom.methods import interface
from deltageom.models.load import load_tokenizer
from deltageom.study.measured import Gradients
from deltageom.study.settings import TrainSettings
from deltageom.training import launch, lora, rows
from deltageom.training.output import saving
from deltageom.training.session import MEMORY_KEYS, Execution
from deltageom.training.train import Paths, build_trainer, check_memory


class GradientSettings(TrainSettings):
    """What `deltageom base-gradient` is told."""

    gradients: Gradients


class _Gradients(TrainerCallback):
    """Adds up, in float64 on the CPU, the gradient of each module's B before every step."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.sums: dict[str, Tensor] = {}
        self.batches = 0

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        for name, module in lora.layers(self.trainer.model).items():
            gradient = module.lora_B["default"].weight.grad.detach().double().cpu()
            self.sums[name] = gradient + self.sums.get(name, 0.0)
        self.batches += 1


def write(settings: GradientSettings, paths: Paths) -> None:
    """Write the step of gradient descent with learning rate 1 as a LoRA adapter into `paths.output`.

    Its A is the run's own initial A, and its B is -dL/dB at B = 0, where dL/dA is 0: so the adapter's delta, scale *
    B A, is the first change of the weights per unit of learning rate. L is the mean of the run's own loss over the
    first `gradients.batches` global batches, each as training reduces it: what computes it is the run's own trainer,
    whose learning rate is 0, so that all batches are taken at the base, and which clips nothing. Raises UserError for
    what `train` does.
    """
    if settings.device == "cuda":
        launch.choose_device(1)
    run = _standing_still(settings)
    method = interface.load_offline(run.method)
    options = method.options.model_validate(run.options)
    tokenizer = load_tokenizer(paths.base, run.base)
    files = paths.rollouts, paths.reference, paths.mismatched
    dataset, universe, _ = rows.prepare(run, method, options, tokenizer, *files)
    if run.device == "cuda":
        check_memory(run, method, dataset, paths)
    trainer = build_trainer(run, method, options, tokenizer, dataset, universe, paths, Execution())
    gradients = _Gradients(trainer)
    trainer.add_callback(gradients)
    with memory.out_of_memory(f"run {run.run!r}", MEMORY_KEYS):
        trainer.train()
    _descend(trainer.model, gradients)
    saving.write_model(trainer, paths.output, paths.scratch)


def _standing_still(settings: GradientSettings) -> TrainSettings:
    """The run for so many steps that change no weight; nothing of this has a say in a loss or in the order of rows."""
    still = {
        "steps": settings.gradients.batches,
        "report_step": None,
        "learning_rate": 0.0,
        "weight_decay": 0.0,
        "max_grad_norm": math.inf,
        "kl_every": None,
        "match_norm": None,
        "snapshots": None,
    }
    told = {name: getattr(settings, name) for name in TrainSettings.model_fields}
    return TrainSettings.model_construct(**told | {"training": settings.training.model_copy(update=still)})


@torch.no_grad()
def _descend(model: Any, gradients: _Gradients) -> None:
    for name, module in lora.layers(model).items():
        module.lora_B["default"].weight.copy_(-gradients.sums[name] / gradients.batches)
