"""Tensors as float64, straight from safetensors files. Needs no torch."""

import json
import math
import os
import weakref
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltageom.errors import UserError

MODEL_WEIGHTS = "model.safetensors"
MODEL_INDEX = "model.safetensors.index.json"

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # numpy has no BF16: a float32's upper half
_BLOCK = 1 << 17  # values converted at once: what is read is still in the cache then


class TensorFile:
    """One safetensors file: its header parsed once, its tensors read when asked for.

    It stays open while the object lives, and is read by position alone, so that forked processes may share it.
    Raises UserError for a file that is missing, truncated or of another format.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        weakref.finalize(self, os.close, self._descriptor)
        _keep_freed_memory()
        self.path = path
        self._header, self._start = self._parsed()

    def __contains__(self, name: str) -> bool:
        return name in self._header

    @property
    def names(self) -> list[str]:
        return list(self._header)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._header[name]["shape"])

    def dtype(self, name: str) -> str:
        """As safetensors writes it: 'BF16'."""
        dtype: str = self._header[name]["dtype"]
        return dtype

    def read(self, name: str) -> NDArray[np.float64]:
        """Raises UserError, naming the tensor, for a type that is no float and for NaN or infinite values."""
        dtype, shape = self.dtype(name), self.shape(name)
        if dtype not in _DTYPES:
            raise UserError(f"{self.path}: {name} is {dtype}: only {', '.join(_DTYPES)} are read")
        stored = np.dtype(_DTYPES[dtype])
        begin, end = self._header[name]["data_offsets"]
        if end - begin != math.prod(shape) * stored.itemsize:
            raise self._damaged()
        values = np.empty(math.prod(shape))
        for first in range(0, values.size, _BLOCK):
            block = values[first : first + _BLOCK]
            raw = np.empty(block.size, stored)
            if not self._fill(raw, self._start + begin + first * stored.itemsize):
                raise self._damaged()
            block[:] = (raw.astype("<u4") << 16).view("<f4") if dtype == "BF16" else raw
            if not _finite(block):
                raise UserError(
                    f"{self.path}: {name} holds NaN or infinite values: the run diverged, or the file is damaged"
                )
        return values.reshape(shape)

    def _parsed(self) -> tuple[dict[str, Any], int]:
        """Tensor name to its dtype, shape and data_offsets; and where the data begin (the safetensors format)."""
        size = os.fstat(self._descriptor).st_size
        length = int.from_bytes(os.pread(self._descriptor, 8, 0), "little")
        if not 2 <= length <= size - 8:
            raise self._damaged()
        try:
            header: Any = json.loads(os.pread(self._descriptor, length, 8))
            header.pop("__metadata__", None)
            end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
            whole = 8 + length + end == size and all({"dtype", "shape"} <= set(tensor) for tensor in header.values())
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise self._damaged() from error
        if not whole:
            raise self._damaged()
        return header, 8 + length

    def _fill(self, raw: NDArray[Any], offset: int) -> bool:
        """Whether all the bytes were there: the file may have been cut since it was opened."""
        rest = raw.view(np.uint8).data
        while rest.nbytes:
            count = os.preadv(self._descriptor, [rest], offset)
            if not count:
                return False
            rest, offset = rest[count:], offset + count
        return True

    def _damaged(self) -> UserError:
        return UserError(f"{self.path}: truncated, or not a safetensors file: write it again")


class ModelTensors:
    """The tensors of a model's folder, in one safetensors file or in the shards that its index names.

    Raises UserError for a folder without them, a shard that is missing, and a tensor that its shard lacks.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if (folder / MODEL_WEIGHTS).is_file():
            file = TensorFile(folder / MODEL_WEIGHTS)
            self._files = dict.fromkeys(file.names, file)
            return
        index = _index(folder)
        for shard in sorted(set(index.values())):
            if not (folder / shard).is_file():
                raise UserError(f"{folder / shard}: no such file, though {MODEL_INDEX} names it: fetch the model again")
        shards = {shard: TensorFile(folder / shard) for shard in set(index.values())}
        self._files = {name: shards[shard] for name, shard in index.items()}
        for name, file in self._files.items():
            if name not in file:
                raise UserError(f"{file.path}: has no {name}, though {MODEL_INDEX} says so: fetch the model again")

    def __contains__(self, name: str) -> bool:
        return name in self._files

    @property
    def names(self) -> list[str]:
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._files[name].shape(name)

    def dtype(self, name: str) -> str:
        return self._files[name].dtype(name)

    def read(self, name: str) -> NDArray[np.float64]:
        """See TensorFile.read."""
        return self._files[name].read(name)

    def weight_name(self, module: str) -> str:
        """The only tensor that is named `...module.weight`. Raises UserError if there is none, or several."""
        names = self._ending_in(module)
        if len(names) != 1:
            found = f"{len(names)} are: {', '.join(names)}" if names else "none is"
            raise UserError(f"{self.folder}: one tensor must be named ...{module}.weight, but {found}")
        return names[0]

    def has_weight(self, module: str) -> bool:
        return bool(self._ending_in(module))

    def _ending_in(self, module: str) -> list[str]:
        # `model.` stands before it in most models, `model.language_model.` in some; the hub's GPT-2 lacks the
        # `transformer.` that a model or an adapter of it is saved with
        return self._by_ending.get(module) or self._by_ending.get(module.removeprefix("transformer."), [])

    @cached_property
    def _by_ending(self) -> dict[str, list[str]]:
        """Each ending of a weight's name at a dot, `.weight` left off, and the tensors that have it."""
        found = defaultdict(list)
        for name in self._files:
            if name.endswith(".weight"):
                parts = name.split(".")[:-1]
                for first in range(len(parts)):
                    found[".".join(parts[first:])].append(name)
        return dict(found)


def weight_files(folder: Path) -> list[str]:
    """The safetensors files of a model's folder that must be there. Raises UserError if it names none."""
    return [MODEL_WEIGHTS] if (folder / MODEL_WEIGHTS).is_file() else sorted(set(_index(folder).values()))


def rounded(values: NDArray[np.float64], dtype: str) -> NDArray[np.float64]:
    """The values as a tensor of `dtype` ('BF16') holds them."""
    if dtype == "F64":
        return values
    single = values.astype("<f4")
    if dtype == "BF16":  # to the nearest upper half of a float32, ties to even
        bits = single.view("<u4")
        single = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype("<u4").view("<f4")
    result: NDArray[np.float64] = (single.astype("<f2") if dtype == "F16" else single).astype(np.float64)
    return result


def _index(folder: Path) -> dict[str, str]:
    """Tensor name to the file that holds it."""
    path = folder / MODEL_INDEX
    if not path.is_file():
        pickled = next(folder.glob("pytorch_model*.bin"), None)
        found = f": it has {pickled.name}: save it again with safe_serialization=True" if pickled else ""
        raise UserError(f"{folder}: no model's folder: it has neither {MODEL_WEIGHTS} nor {MODEL_INDEX}{found}")
    try:
        files: dict[str, str] = dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
        if not all(Path(file).name == file for file in files.values()):
            raise ValueError("a shard is a file's name")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not an index of safetensors files: {error!r}") from error
    return files


def _keep_freed_memory() -> None:
    """By freeing a block this large, which raises the sizes from which glibc hands memory back to the kernel: to get
    it zeroed anew for each tensor costs more time than the reading does."""
    np.empty(31 << 20, np.uint8)


def _finite(values: NDArray[np.float64]) -> bool:
    """A finite sum has finite terms; only where it is not are the values looked at one by one."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum()):
            return True
    return bool(np.isfinite(values).all())
