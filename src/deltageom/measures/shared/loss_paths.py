"""The loss along the path between two deltas: alpha dW_a + (1 - alpha) dW_b, in one loaded model."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from tqdm import tqdm

from deltageom.deltas.folder import is_checkpoint
from deltageom.measures.shared import barriers
from deltageom.measures.shared.forward import completion_logits
from deltageom.models.load import Model, load_adapter, load_model, load_run, load_tokenizer
from deltageom.models.prompts import Tokenizer, prompt_ids
from deltageom.problems.problem import Problem
from deltageom.study.schema import Base, Device, Prompt
from deltageom.study.settings import ConnectivitySettings

Row = dict[str, float | str | int]
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Text:
    """What the loss is of: the tokens of `answer` after those of `prompt`. A problem may have several."""

    problem_id: str
    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Walk:
    """How a path is walked: its points, and texts at once."""

    base: Base
    device: Device
    points: int
    batch_size: int


def boxed(tokenizer: Tokenizer, prompt: Prompt, problems: list[Problem]) -> list[Text]:
    """The gold `\\boxed{answer}` right after each prompt (2606.23740)."""
    return [
        Text(
            problem.id,
            prompt_ids(tokenizer, prompt, problem.question),
            list(tokenizer.encode(f"\\boxed{{{problem.answer}}}", add_special_tokens=False)),
        )
        for problem in problems
    ]


def loss_along_paths(
    settings: ConnectivitySettings, base: str, a: Path, others: dict[str, Path], problems: list[Problem]
) -> list[Row]:
    """`along_paths` of the gold boxed answers, which are the same on every path."""
    wanted = settings.connectivity
    walk = Walk(settings.base, settings.device, wanted.points, wanted.batch_size)
    texts = boxed(load_tokenizer(base, settings.base), settings.prompt, problems)
    return along_paths(walk, base, a, others, lambda _b: texts)


def along_paths(
    walk: Walk, base: str, a: Path, others: dict[str, Path], texts: Callable[[str], list[Text]]
) -> list[Row]:
    """The paths between run a and each of `others` (name to folder), in one process: starting costs more than a path.

    texts: those of the path to a run, by its name. One row per path, point and problem: b, alpha (weight of a),
    problem_id, nll summed over the problem's texts, their tokens, and uniform, the nats per token of a model that
    holds all tokens for equally likely.
    """
    deltas = _Deltas(base, walk)
    deltas.add("a", a)
    uniform = math.log(deltas.model.get_input_embeddings().num_embeddings)
    rows: list[Row] = []
    for b, folder in tqdm(others.items(), unit="path"):
        asked = texts(b)
        deltas.add("b", folder)
        for alpha in barriers.path(walk.points).tolist():
            model = deltas.weigh({"a": alpha, "b": 1.0 - alpha})
            prompts, answers = [text.prompt for text in asked], [text.answer for text in asked]
            losses = answer_nll(model, prompts, answers, walk.batch_size)
            for problem_id, (nll, tokens) in _by_problem(asked, losses).items():
                row: Row = {"b": b, "alpha": alpha, "problem_id": problem_id, "nll": nll, "tokens": tokens}
                rows.append(row | {"uniform": uniform})
        deltas.remove("b")
    return rows


def _by_problem(texts: list[Text], losses: Iterator[float]) -> dict[str, tuple[float, int]]:
    """Of each problem the nll and the tokens of all its texts."""
    found: dict[str, tuple[float, int]] = {}
    for text, nll in zip(texts, losses, strict=True):
        before, tokens = found.get(text.problem_id, (0.0, 0))
        found[text.problem_id] = (before + nll, tokens + len(text.answer))
    return found


@torch.inference_mode()
def answer_nll(model: Model, prompts: list[list[int]], answers: list[list[int]], batch_size: int) -> Iterator[float]:
    """The summed negative log-likelihood of each answer after its prompt, in nats."""
    for start in range(0, len(prompts), batch_size):
        yield from _batch_nll(model, prompts[start : start + batch_size], answers[start : start + batch_size])


def _batch_nll(model: Model, prompts: list[list[int]], answers: list[list[int]]) -> list[float]:
    logits, ids, is_answer = completion_logits(model, prompts, answers)
    chosen = logits.float().log_softmax(-1).gather(2, ids[:, :, None]).squeeze(2)
    totals: list[float] = (-chosen * is_answer).double().sum(1).tolist()
    return totals


class _Deltas:
    """Runs' deltas in one loaded base model, each times its weight: no cross terms, no adapter merged."""

    def __init__(self, base: str, walk: Walk) -> None:
        self.base = base
        self.walk = walk
        self.model = load_model(base, walk.base, walk.device)
        # by their names before PEFT wraps the modules, which keeps the tensors and renames them
        self.parameters: Weights = dict(self.model.named_parameters())
        self.start: Weights = {}  # the base's own values, once a checkpoint is about to move them
        self.checkpoints: dict[str, Weights] = {}
        self.adapters: list[str] = []

    def add(self, name: str, folder: Path) -> None:
        if not is_checkpoint(folder):
            self.model = load_adapter(self.model, folder, name)
            self.adapters.append(name)
            return
        run = load_run(self.base, self.walk.base, self.walk.device, folder)
        self.checkpoints[name] = dict(run.named_parameters())
        self.start = self.start or {key: value.detach().clone() for key, value in self.parameters.items()}

    def remove(self, name: str) -> None:
        if name in self.checkpoints:
            del self.checkpoints[name]
            return
        self.adapters.remove(name)
        if self.adapters:
            self.model.delete_adapter(name)
        else:  # PEFT takes no adapter where it has none left
            self.model = self.model.unload()

    @torch.no_grad()
    def weigh(self, weights: dict[str, float]) -> Model:
        """The model with the sum of weight * delta: adapters by their scales, checkpoints in every parameter.

        Those are computed in float32 from the base's own values, never from an earlier point's: weight 0 gives
        the base's exactly, weight 1 the checkpoint's up to one rounding.
        """
        for name, start in self.start.items():
            moves = [weights[run] * (values[name].float() - start) for run, values in self.checkpoints.items()]
            self.parameters[name].copy_(sum(moves, start.float()))
        if self.adapters:
            self.model.base_model.set_adapter(self.adapters)
        for layer in self.model.modules():
            if isinstance(layer, LoraLayer):
                for adapter in self.adapters:
                    layer.set_scale(adapter, weights[adapter])
        return self.model
