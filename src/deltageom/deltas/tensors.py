"""Tensors as float64, straight from safetensors files. Needs no torch."""

import json
import math
import os
import re
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltageom.deltas.folder import MODEL_INDEX, MODEL_WEIGHTS, WEIGHTS, instead
from deltageom.deltas.names import some
from deltageom.errors import UserError

FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # numpy has no BF16: a float32's upper half
FP8 = "F8_E4M3"  # one byte, read by a table: a sign, 4 bits of exponent, 3 of fraction
_LFS = b"version https://git-lfs"
_STORED = FLOATS | {FP8: "u1"}
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

    def read(self, name: str, at: int | None = None) -> NDArray[np.float64]:
        """The tensor, or of one of several matrices that at `at`.

        Raises UserError, naming the tensor, for a type that is no float and for NaN or infinite values.
        """
        dtype, shape = self.dtype(name), self.shape(name)
        if dtype not in _STORED:
            raise UserError(
                f"{self.path}: {name} is {dtype}: only {', '.join(_STORED)} are read: save it in one of them"
            )
        stored = np.dtype(_STORED[dtype])
        begin, end = self._header[name]["data_offsets"]
        if end - begin != math.prod(shape) * stored.itemsize:
            raise self._damaged()
        if at is not None:
            shape = shape[1:]
            begin += at * math.prod(shape) * stored.itemsize
        values = np.empty(math.prod(shape))
        for first in range(0, values.size, _BLOCK):
            block = values[first : first + _BLOCK]
            raw = np.empty(block.size, stored)
            if not self._fill(raw, self._start + begin + first * stored.itemsize):
                raise self._damaged()
            block[:] = _widened(raw, dtype)
            if not _finite(block):
                raise UserError(
                    f"{self.path}: {name} holds NaN or infinite values: the run diverged, or the file is damaged"
                )
        return values.reshape(shape)

    def beginning(self, name: str, most: int) -> bytes:
        """The first bytes of the tensor as it is stored."""
        begin, end = self._header[name]["data_offsets"]
        return os.pread(self._descriptor, min(most, end - begin), self._start + begin)

    def _parsed(self) -> tuple[dict[str, Any], int]:
        """Tensor name to its dtype, shape and data_offsets; and where the data begin (the safetensors format)."""
        size = os.fstat(self._descriptor).st_size
        if os.pread(self._descriptor, len(_LFS), 0) == _LFS:
            raise UserError(f"{self.path}: a pointer of Git LFS, not the file that it stands for: run git lfs pull")
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


class Tensors:
    """Tensors by name, each in one of a folder's safetensors files."""

    def __init__(self, folder: Path, files: dict[str, TensorFile]) -> None:
        self.folder = folder
        self._files = files

    def __contains__(self, name: str) -> bool:
        return name in self._files

    @property
    def names(self) -> list[str]:
        return list(self._files)

    def path(self, name: str) -> Path:
        """The file that holds it."""
        return self._files[name].path

    def shape(self, name: str) -> tuple[int, ...]:
        return self._files[name].shape(name)

    def dtype(self, name: str) -> str:
        return self._files[name].dtype(name)

    def read(self, name: str, at: int | None = None) -> NDArray[np.float64]:
        """See TensorFile.read."""
        return self._files[name].read(name, at)

    def beginning(self, name: str, most: int) -> bytes:
        """See TensorFile.beginning."""
        return self._files[name].beginning(name, most)


class ModelTensors(Tensors):
    """The tensors of a model's folder, in one safetensors file or in the shards that its index names.

    Raises UserError for a folder without them, a shard that is missing, and a tensor that its shard lacks.
    """

    def __init__(self, folder: Path) -> None:
        if (folder / MODEL_WEIGHTS).is_file():
            file = TensorFile(folder / MODEL_WEIGHTS)
            super().__init__(folder, dict.fromkeys(file.names, file))
            return
        index = _index(folder)
        for shard in sorted(set(index.values())):
            if not (folder / shard).is_file():
                raise UserError(f"{folder / shard}: no such file, though {MODEL_INDEX} names it: fetch the model again")
        shards = {shard: TensorFile(folder / shard) for shard in set(index.values())}
        super().__init__(folder, {name: shards[shard] for name, shard in index.items()})
        for name, file in self._files.items():
            if name not in file:
                raise UserError(f"{file.path}: has no {name}, though {MODEL_INDEX} says so: fetch the model again")


class AdapterTensors(Tensors):
    """The tensors of an adapter's folder, in one safetensors file or in shards; or those of a file `weights` instead.

    Raises UserError for a folder without them, for shards of which one is missing, and for two of one name.
    """

    def __init__(self, folder: Path, weights: Path | None = None) -> None:
        found: dict[str, TensorFile] = {}
        for file in map(TensorFile, [weights] if weights else _adapter_files(folder)):
            for name in file.names:
                if name in found:
                    raise UserError(f"{file.path}: {name} is in {found[name].path.name} too")
                found[name] = file
        super().__init__(folder, found)


def _adapter_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    shards = sorted(folder.glob("adapter_model-*-of-*.safetensors"))
    if not shards:
        raise UserError(f"{folder}: no adapter of safetensors, as it has no {WEIGHTS}: {instead(folder)}")
    stem, _, count = shards[-1].stem.rpartition("-of-")
    width = len(re.sub(r".*-", "", stem))
    wanted = [f"adapter_model-{i:0{width}}-of-{count}.safetensors" for i in range(1, int(count) + 1)]
    if missing := sorted(set(wanted) - {shard.name for shard in shards}):
        raise UserError(f"{folder}: {some(missing)} missing, of the {count} files of a sharded adapter")
    return shards


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


def _widened(raw: NDArray[Any], dtype: str) -> NDArray[Any]:
    if dtype == FP8:
        of_bytes: NDArray[np.float64] = _FP8_VALUES[raw]
        return of_bytes
    return (raw.astype("<u4") << 16).view("<f4") if dtype == "BF16" else raw


def _fp8_values() -> NDArray[np.float64]:
    """Of all 256 bytes (2209.05433): no infinities, and NaN where all bits but the sign are set."""
    bits = np.arange(128)
    exponent, fraction = bits >> 3, (bits & 7) / 8
    positive = np.where(exponent == 0, fraction * 2.0**-6, (1 + fraction) * 2.0 ** (exponent - 7))
    positive[127] = np.nan
    return np.concatenate([positive, -positive])


_FP8_VALUES = _fp8_values()


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
