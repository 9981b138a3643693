"""Settings, problems and trainers for tests that let the tiny model sample for a step or a few."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback

from deltageom.generation.engine import Completion
from deltageom.methods import interface
from deltageom.models.load import load_tokenizer
from deltageom.models.prompts import Tokenizer
from deltageom.problems.problem import Problem, write_problems
from deltageom.study.schema import Base
from deltageom.study.settings import OnlineSettings
from deltageom.training import lora, session
from deltageom.training.online import train, trainers
from deltageom.training.online.samples import Asked, Drawn, Samples
from tests.training.tiny_runs import CONFIG, settings

# of other lengths, so that prompts are padded
PROBLEMS = [Problem(f"h{i}", f"Tom has {i} apples{' and more' * i}. How many?", str(i), None) for i in range(4)]


def online(
    base: Base,
    method: str,
    options: dict[str, Any] | None = None,
    section: dict[str, Any] | None = None,
    **training: Any,
) -> OnlineSettings:
    """A run with config.yaml's defaults, made small: groups of 4, completions of 6 tokens. section: of `online`."""
    section = CONFIG["online"] | (section or {})
    plain = settings(base, method, {"group": 4, "max_tokens": 6} | (options or {}), **training)
    more = {"online": section, "prompt": {"template": "{question}", "system": None}, "grader": "strict"}
    teacher = "teacher" if method == "on_policy_distillation" else None
    limits = {"batch_tokens": 131072}
    return OnlineSettings.model_validate(plain.model_dump() | more | {"teacher": teacher, "transformers": limits})


def paths(base: Path, folder: Path, problems: Sequence[Problem] = PROBLEMS, **others: Any) -> train.Paths:
    folder.mkdir(parents=True, exist_ok=True)
    write_problems(folder / "problems.jsonl", problems)
    return train.Paths(str(base), folder / "problems.jsonl", folder / "run", folder / "scratch", **others)


def graded_by_tokens(tokenizer: Tokenizer, grader: str, asked: Sequence[Asked], made: Sequence[Completion]) -> Drawn:  # noqa: ARG001
    """In place of the grader, for a model that neither answers nor ends: right is what has an even sum of token ids,
    and the first has ended."""
    rewards = [float(sum(one.token_ids) % 2 == 0) for one in made]
    made = [replace(made[0], finish_reason="stop"), *made[1:]]
    return Drawn(asked, made, [""] * len(made), rewards, [None] * len(made))


@pytest.fixture
def by_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers, "grade", graded_by_tokens)


def built(run: OnlineSettings, given: train.Paths, **execution: Any) -> Any:
    """The run's trainer, as `train` builds it, and its samples; one token in eight ends a completion."""
    method = interface.load(run.method)
    assert isinstance(method, interface.Online)
    options = method.options.model_validate(run.options)
    tokenizer = load_tokenizer(given.base, run.base)
    problems = train.read_problems(given.problems)
    draws, length = train._draws(run, options, tokenizer, problems, given.base)
    done = session.Execution(**execution)
    trainer = train.build_trainer(run, method, options, draws, tokenizer, length, given, done, 0.9)
    assert trainer.eos_token_ids is trainer.ends
    trainer.ends = trainer.eos_token_ids = list(range(3, len(tokenizer), 8))
    trainer.samples = Samples(tokenizer, given.scratch, run.online.keep, len(problems), lambda n: range(n))
    return trainer


class Gradients(TrainerCallback):
    """The gradients of the factors before each step, by the names of the adapter's file."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.found: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        named = self.trainer.model.named_parameters()
        self.found.append({name: of.grad.double().clone() for name, of in named if of.grad is not None})


@torch.no_grad()
def move(model: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Gives B random numbers, since at B = 0 the gradient with respect to A is 0; returns the factors in float64."""
    torch.manual_seed(3)
    factors = {}
    for name, module in lora.layers(model).items():
        b = module.lora_B["default"].weight
        b.copy_(0.1 * torch.randn_like(b))
        factors[f"model.{name}"] = (module.lora_A["default"].weight.double().clone(), b.double().clone())
    return factors
