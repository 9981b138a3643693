"""Text generation behind one small interface. One file an engine, found by its name."""

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from deltageom.errors import UserError
from deltageom.generation import engines
from deltageom.study.running import Vllm
from deltageom.study.schema import Base, Decoding, Device


@dataclass(frozen=True)
class Sampling:
    """A decoding policy, and whether its log-probs are asked for. Temperature 0 is greedy; top_p 1, top_k 0 are off."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    log_probs: bool = True


@dataclass(frozen=True)
class Request:
    """One completion asked for: the prompt's token ids, and the seed of this completion's own random numbers.

    The seed has at most 63 bits.
    """

    prompt: Sequence[int]
    seed: int


@dataclass(frozen=True)
class Completion:
    """Token ids (T,), the closing end-of-sequence included if it finished, and the policy's log-prob of each (T,).

    No log-probs where none were asked for.
    """

    token_ids: Sequence[int]
    token_log_probs: Sequence[float] | None
    finish_reason: Literal["stop", "length"]

    @property
    def log_prob(self) -> float | None:
        return None if self.token_log_probs is None else float(sum(self.token_log_probs))


class Engine(Protocol):
    """What rollouts and evaluation ask of an engine."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, at_once: int | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """Each request's index and its completion, as they finish.

        `at_once`: sequences in a batch, where that must not follow from these requests alone, which are some of many.

        A completion depends on its prompt, its seed and the policy. The requests that are computed beside it change it
        no further than their arithmetic does: a batch rounds otherwise than another.
        """
        ...


@dataclass(frozen=True)
class Setup:
    """What an engine is loaded with. `max_length`: tokens of the longest prompt and its completion together.

    `batch_tokens`: of the prompts and completions that the transformers engine holds at once; None for no limit.
    `lora`: whether other models of this comparison have adapters, so that one without goes through the same layers.
    """

    model: str
    base: Base
    device: Device
    adapter: Path | None
    batch_size: int
    max_length: int
    vllm: Vllm
    tensor_parallel: int = 1
    memory_share: float = 0.9
    lora: bool = False
    batch_tokens: int | None = None


def sampling_of(decoding: Decoding, log_probs: bool) -> Sampling:
    return Sampling(decoding.temperature, decoding.top_p, decoding.top_k, decoding.max_tokens, log_probs)


def sequences_at_once(
    batch_size: int, batch_tokens: int | None, requests: Sequence[Request], sampling: Sampling
) -> int:
    """How many of the requests may be in a batch: `batch_size`, or as many as `batch_tokens` holds in whole; not 0.

    Every sequence counts as the longest prompt and all the tokens that it may get, so every batch has one size.
    """
    if batch_tokens is None or not requests:
        return batch_size
    longest = max(len(request.prompt) for request in requests) + sampling.max_tokens
    return max(1, min(batch_size, batch_tokens // longest))


def load_engine(name: str, setup: Setup) -> Engine:
    """The engine, with the model and (never merged) the adapter loaded. Raises UserError if there is no such engine."""
    known = sorted(module.name for module in pkgutil.iter_modules(engines.__path__))
    if name not in known:
        raise UserError(f"engine {name!r} is not part of this version; set engine: {' or '.join(known)}")
    module = importlib.import_module(f"deltageom.generation.engines.{name}")
    engine: Engine = module.load(setup)
    return engine
