"""Completions of many prompts by one engine: in an order that fills batches well, kept shard by shard."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tqdm import tqdm

from deltageom.errors import UserError
from deltageom.generation import parts
from deltageom.generation.engine import Completion, Engine, Request, Sampling, Setup, load_engine, sequences_at_once
from deltageom.generation.shards import Shards, compact, identity
from deltageom.problems.problem import Problem
from deltageom.study.running import Transformers, Vllm
from deltageom.study.schema import Base, Device


def requests(problems: Sequence[Problem], prompts: Sequence[Sequence[int]], samples: int, seed: int) -> list[Request]:
    """`samples` requests a problem, problem by problem. Each has its own seed, which other problems do not change."""
    return [
        Request(prompt, seed_of(seed, problem.id, sample))
        for problem, prompt in zip(problems, prompts, strict=True)
        for sample in range(samples)
    ]


def longest(prompts: Sequence[Sequence[int]], max_tokens: int, context: int, what: str) -> int:
    """Tokens of the longest prompt and its completion. Raises UserError if the model's `context` holds fewer."""
    prompt = max(map(len, prompts))
    if prompt + max_tokens > context:
        raise UserError(
            f"{what}: the longest prompt has {prompt} tokens and max_tokens is {max_tokens}, more than the model's "
            f"context of {context}: lower max_tokens"
        )
    return prompt + max_tokens


@dataclass(frozen=True)
class Job:
    """How completions are made, not which: where a killed job goes on from, and what vLLM may take.

    `parts`: the jobs that make them; `part`: which of these this one is, or None for the one that merges theirs.
    """

    scratch: Path
    shard_size: int = 2048
    tensor_parallel: int = 1
    memory_share: float = 0.9
    parts: int = 1
    part: int | None = None

    def __post_init__(self) -> None:
        """Raises UserError for a part that there is not."""
        if self.parts < 1 or (self.part is not None and not 1 <= self.part <= self.parts):
            raise UserError(
                f"part {self.part} of {self.parts}: parts are numbered from 1 to --parts, which is 1 or more"
            )

    def setup(
        self,
        model: str,
        base: Base,
        device: Device,
        adapter: Path | None,
        batch_size: int,
        max_length: int,
        vllm: Vllm,
        transformers: Transformers | None,
        lora: bool = False,
    ) -> Setup:
        parallel, share = self.tensor_parallel, self.memory_share
        tokens = transformers.batch_tokens if transformers else None
        return Setup(model, base, device, adapter, batch_size, max_length, vllm, parallel, share, lora, tokens)


Asked = tuple[Sequence[Request], Sampling]


def generate(
    engine: str, setup: Setup, asked: Sequence[Asked], job: Job
) -> Iterator[tuple[list[Completion], "Shards"]]:
    """The completions of each of `asked` in turn, by one start of the engine, and the shards to remove in the end.

    Raises UserError where other jobs have made them (`job.parts`) and some are not there.
    """
    loaded = _WhenNeeded(engine, setup)
    kept = [_shards(engine, setup, one, job) for one in asked]
    parts.forget_others(job.scratch, job.parts)
    if job.parts > 1:
        orders = [_by_length(wanted) for wanted, _ in asked]
        parts.check_whole(zip(orders, kept, strict=True), job.scratch, job.parts)
    for (wanted, sampling), shards in zip(asked, kept, strict=True):
        yield complete(loaded, wanted, sampling, shards), shards


def generate_part(engine: str, setup: Setup, asked: Sequence[Asked], job: Job) -> int:
    """Makes and keeps the completions of each of `asked` that are this job's part; returns how many these are."""
    assert job.part is not None
    loaded, made = _WhenNeeded(engine, setup), 0
    for wanted, sampling in asked:
        shards = _shards(engine, setup, (wanted, sampling), job)
        own = parts.share(_by_length(wanted), shards, job.part, job.parts)
        made += len(_complete(loaded, wanted, sampling, shards, own))
    return made


def complete(
    engine: Engine,
    wanted: Sequence[Request],
    sampling: Sampling,
    shards: "Shards | None" = None,
    quiet: bool = False,
) -> list[Completion]:
    """The completion of each request, in order, compact. With `shards`, what those hold is not generated again.

    Requests go to the engine by the length of their prompts, since neighbours of like length waste little padding; what
    is left after a kill goes in the same whole batches.
    """
    found = _complete(engine, wanted, sampling, shards, _by_length(wanted), quiet)
    return [found[index] for index in range(len(wanted))]


def _complete(
    engine: Engine,
    wanted: Sequence[Request],
    sampling: Sampling,
    shards: "Shards | None",
    order: Sequence[int],
    quiet: bool = False,
) -> dict[int, Completion]:
    """Those of the requests at `order`, by their place among all that are wanted."""
    found = shards.read(set(order)) if shards else {}
    left = [index for index in order if index not in found]
    if shards and found:
        print(f"{len(found)} of {len(order)} completions are in {shards.folder}: going on from there", flush=True)
    writer = shards.writer(left) if shards else None
    at_once = shards.batch_size if shards else None
    with tqdm(total=len(order), initial=len(found), unit="completion", mininterval=5, disable=quiet) as progress:
        for position, completion in engine.generate([wanted[index] for index in left], sampling, at_once):
            found[left[position]] = compact(completion)
            if writer:
                writer.add(left[position], found[left[position]])
            progress.update()
    return found


class _WhenNeeded:
    """An engine that is loaded for its first request."""

    def __init__(self, name: str, setup: Setup) -> None:
        self.load = cache(lambda: load_engine(name, setup))

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, at_once: int | None = None
    ) -> Iterator[tuple[int, Completion]]:
        return self.load().generate(requests, sampling, at_once) if requests else iter(())


def _shards(engine: str, setup: Setup, asked: Asked, job: Job) -> Shards:
    batch = sequences_at_once(setup.batch_size, setup.batch_tokens, *asked)
    return Shards(job.scratch, identity(engine, setup, *asked), job.shard_size, batch)


def _by_length(wanted: Sequence[Request]) -> list[int]:
    return sorted(range(len(wanted)), key=lambda index: len(wanted[index].prompt))


def seed_of(seed: int, problem: str, sample: int) -> int:
    """63 bits, as vLLM takes them."""
    digest = hashlib.sha256(json.dumps([seed, problem, sample]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
