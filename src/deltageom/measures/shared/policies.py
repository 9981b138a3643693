"""How far a run's policy is from the base's, token by token, on what each of them writes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from tqdm import tqdm

from deltageom.generation.engine import Completion, Sampling
from deltageom.generation.engines.transformers import TransformersEngine
from deltageom.generation.generate import complete, longest, requests
from deltageom.measures.shared.forward import completion_logits
from deltageom.measures.shared.settings import BehaviourSettings
from deltageom.models.load import Model, context_length, load_model, load_run, load_tokenizer
from deltageom.models.prompts import end_tokens, prompt_ids
from deltageom.problems.problem import Problem
from deltageom.study.schema import Base, Device
from deltageom.training.monitoring import k3
from deltageom.training.scoring import exact_kl

Row = dict[str, Any]
Side = Literal["base", "run"]
SIDES: tuple[Side, Side] = ("base", "run")


class Sides:
    """A run's model and the base's: one model with its adapter on and off, or two where the run has no adapter."""

    def __init__(self, settings: Base, device: Device, base: str, folder: Path) -> None:
        self.run = load_run(base, settings, device, folder)
        alone = isinstance(self.run, PeftModel)
        self.base = None if alone else load_model(base, settings, device)

    @contextmanager
    def model(self, side: Side) -> Iterator[Model]:
        if side == "run":
            yield self.run
        elif self.base is not None:
            yield self.base
        else:
            with self.run.disable_adapter():
                yield self.run


def distances(settings: BehaviourSettings, base: str, folder: Path, problems: list[Problem]) -> list[Row]:
    """One row per side and prompt, of one sample that the side draws at temperature 1: see `_of_sample`.

    The samples of both sides have the same random numbers. Memory: the key-value cache of `batch_size` sequences while
    they are drawn; then the logits of both models of `batch_size` samples, 2 (B, T, V) in the models' dtype, and of one
    sample at a time their log-probs in float64, 2 (T, V). Raises UserError if a prompt and max_tokens are more than the
    model's context.
    """
    wanted = settings.behaviour
    tokenizer = load_tokenizer(base, settings.base)
    prompts = [prompt_ids(tokenizer, settings.prompt, problem.question) for problem in problems]
    longest(prompts, wanted.max_tokens, context_length(base, settings.base), "measures.behaviour")
    sides = Sides(settings.base, settings.device, base, folder)
    asked = requests(problems, prompts, 1, wanted.seed)
    rows = []
    for side in SIDES:
        with sides.model(side) as model:
            ends = end_tokens(tokenizer, model.generation_config)
            limits = wanted.batch_size, settings.transformers.batch_tokens
            engine = TransformersEngine(model, tokenizer.pad_token_id, ends, *limits)
            samples = complete(engine, asked, Sampling(1.0, 1.0, 0, wanted.max_tokens, log_probs=False))
        measured = compare(sides, side, prompts, samples, wanted.batch_size)
        rows += [
            {"side": side, "problem_id": problem.id, **row} for problem, row in zip(problems, measured, strict=True)
        ]
    return rows


@torch.inference_mode()
def compare(
    sides: Sides, side: Side, prompts: Sequence[Sequence[int]], samples: Sequence[Completion], batch_size: int
) -> list[Row]:
    """Of each of the side's own samples, in the order given: the sums of `_of_sample`."""
    other: Side = "run" if side == "base" else "base"
    rows: list[Row] = []
    for start in tqdm(range(0, len(samples), batch_size), unit="batch", mininterval=5):
        chosen = slice(start, start + batch_size)
        tokens = [one.token_ids for one in samples[chosen]]
        logits = {}
        for which in (side, other):
            with sides.model(which) as model:
                logits[which], ids, places = completion_logits(model, prompts[chosen], tokens)
        for i, sample in enumerate(samples[chosen]):
            at = places[i]
            row = _of_sample(logits[side][i, at], logits[other][i, at], ids[i, at])
            rows.append(row | {"tokens": len(sample.token_ids), "ended": int(sample.finish_reason == "stop")})
    return rows


def _of_sample(own: torch.Tensor, other: torch.Tensor, ids: torch.Tensor) -> Row:
    """Sums over a sample's tokens, in nats, from both models' logits (T, V) and the sampled ids (T,).

    kl: KL(own || other), exact; k3: its estimate from the sampled tokens alone; agreed: tokens that both models would
    choose; entropy: of the own policy.
    """
    own, other = (logits.double().log_softmax(-1) for logits in (own, other))
    taken = (policy.gather(1, ids[:, None]).squeeze(1) for policy in (other, own))
    return {
        "kl": float(exact_kl(own, other).sum()),
        "k3": float(k3(*taken).sum()),
        "agreed": int((own.argmax(-1) == other.argmax(-1)).sum()),
        "entropy": float(-(own.exp() * own).sum()),
    }
