"""Text generation behind one small interface. One file an engine, found by its name."""

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from deltageom.errors import UserError
from deltageom.schema import Base, Device


@dataclass(frozen=True)
class Sampling:
    """A decoding policy. Temperature 0 is greedy; top_p 1 and top_k 0 are off."""

    samples: int
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    seed: int


def greedy(max_tokens: int) -> Sampling:
    return Sampling(samples=1, temperature=0.0, top_p=1.0, top_k=0, max_tokens=max_tokens, seed=0)


@dataclass(frozen=True)
class Completion:
    """Token ids (T,), the closing end-of-sequence included if it finished, and the policy's log-prob of each (T,)."""

    token_ids: list[int]
    token_log_probs: list[float]
    finish_reason: Literal["stop", "length"]


class Engine(Protocol):
    """What rollouts and evaluation ask of an engine; its constructor takes what `load` passes."""

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Completion]]:
        """For each prompt (token ids) its `sampling.samples` completions, in order. Repeats for equal seeds."""
        ...


def load(name: str, model: str, base: Base, device: Device, adapter: Path | None, batch_size: int) -> Engine:
    """The engine, with the model and (never merged) the adapter loaded. Raises UserError if there is no such engine."""
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name not in known:
        raise UserError(f"engine {name!r} is not part of this version; set engine: {' or '.join(known)}")
    module = importlib.import_module(f"deltageom.engines.{name}")
    engine: Engine = module.load(model, base, device, adapter, batch_size)
    return engine
