"""Completions of many prompts by one engine: in an order that fills batches well, kept shard by shard."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from deltageom.errors import UserError
from deltageom.generation.engine import Completion, Engine, Request, Sampling, Setup, load_engine, sequences_at_once
from deltageom.generation.shards import Shards, compact, identity
from deltageom.problems.problem import Problem
from deltageom.study.running import Transformers, Vllm
from deltageom.study.schema import Base, Device


def requests(problems: Sequence[Problem], prompts: Sequence[Sequence[int]], samples: int, seed: int) -> list[Request]:
    """`samples` requests a problem, problem by problem. Each has its own seed, which other problems do not change."""
    return [
        Request(prompt, _seed(seed, problem.id, sample))
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
    """How completions are made, not which: where a killed job goes on from, and what vLLM may take."""

    scratch: Path
    shard_size: int = 2048
    tensor_parallel: int = 1
    memory_share: float = 0.9

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


def generate(
    engine: str, setup: Setup, asked: Sequence[tuple[Sequence[Request], Sampling]], job: Job
) -> Iterator[tuple[list[Completion], "Shards"]]:
    """The completions of each of `asked` in turn, by one start of the engine, and the shards to remove in the end."""
    if not asked:
        return
    loaded = load_engine(engine, setup)
    for wanted, sampling in asked:
        batch = sequences_at_once(setup.batch_size, setup.batch_tokens, wanted, sampling)
        shards = Shards(job.scratch, identity(engine, setup, wanted, sampling), job.shard_size, batch)
        yield complete(loaded, wanted, sampling, shards), shards


def complete(
    engine: Engine, wanted: Sequence[Request], sampling: Sampling, shards: "Shards | None" = None
) -> list[Completion]:
    """The completion of each request, in order, compact. With `shards`, what those hold is not generated again.

    Requests go to the engine by the length of their prompts, since neighbours of like length waste little padding; what
    is left after a kill goes in the same whole batches.
    """
    order = sorted(range(len(wanted)), key=lambda index: len(wanted[index].prompt))
    found = shards.read() if shards else {}
    left = [index for index in order if index not in found]
    if shards and found:
        print(f"{len(found)} of {len(wanted)} completions are in {shards.folder}: going on from there", flush=True)
    writer = shards.writer(left) if shards else None
    with tqdm(total=len(wanted), initial=len(found), unit="completion", mininterval=5) as progress:
        for position, completion in engine.generate([wanted[index] for index in left], sampling):
            found[left[position]] = compact(completion)
            if writer:
                writer.add(left[position], found[left[position]])
            progress.update()
    return [found[index] for index in range(len(wanted))]


def _seed(seed: int, problem: str, sample: int) -> int:
    """63 bits, which both numpy and vLLM take."""
    digest = hashlib.sha256(json.dumps([seed, problem, sample]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
