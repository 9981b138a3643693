"""The factors of a run's delta, one module at a time, straight from safetensors. Needs no torch.

A run's folder is a PEFT LoRA adapter's, or a checkpoint: the whole model, each of its weights trained.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltageom.errors import UserError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MODEL_CONFIG = "config.json"
MODEL_WEIGHTS = "model.safetensors"
MODEL_INDEX = "model.safetensors.index.json"

_KEY = re.compile(r"base_model\.model\.(?:model\.)?(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
# Forms of LoRA whose update is not scale * B @ A, or is not one of the base's own weights.
_OTHER_UPDATES = ("use_dora", "use_qalora", "use_bdlora", "kasa_config")
_OTHER_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Factors:
    """A delta dW = scale * b @ a: b (d_out, r), a (r, d_in), float64. Runs may differ in r."""

    b: NDArray[np.float64]
    a: NDArray[np.float64]
    scale: float


def is_checkpoint(folder: Path) -> bool:
    """Whether a run's folder holds a whole model; False for an adapter. Raises UserError if it is neither."""
    if (folder / CONFIG).is_file():
        return False
    if (folder / MODEL_CONFIG).is_file() and (folder / MODEL_WEIGHTS).is_file():
        return True
    raise UserError(
        f"{folder}: no run's folder: it has neither {CONFIG} and {WEIGHTS} (an adapter) "
        f"nor {MODEL_CONFIG} and {MODEL_WEIGHTS} (a checkpoint): train the run again"
    )


def module_names(folder: Path) -> list[str]:
    """Adapted modules such as `layers.0.self_attn.q_proj`, by layer, then by name.

    Raises UserError for a folder that is no LoRA adapter's, or whose weights are more than LoRA factors.
    """
    _config(folder)
    return _modules(folder / WEIGHTS, _header(folder / WEIGHTS)[0])


def read_factors(folder: Path, module: str, base: Path | None = None) -> Factors:
    """The factors of one module of a run; only its tensors are read.

    An adapter's are B and A; scale is alpha / r, or alpha / sqrt(r) with use_rslora (2312.03732), with the
    module's own alpha_pattern and rank_pattern. A checkpoint's are dW = W - W_base itself and an identity on the
    narrow side, r = min(d_out, d_in), scale 1; `base` is the folder of the base's safetensors files. Raises
    UserError for a folder of neither kind, a module that is not there, a damaged file, NaN or infinite values,
    factors that do not fit together, and a checkpoint without `base` or of another shape.
    """
    if is_checkpoint(folder):
        return _difference(folder, module, base)
    return _adapter_factors(folder, module)


def tensor_files(folder: Path) -> dict[str, str]:
    """Each tensor's name in a model's folder, and the safetensors file that holds it, one of one or of many."""
    index = folder / MODEL_INDEX
    if (folder / MODEL_WEIGHTS).is_file():
        return dict.fromkeys(_header(folder / MODEL_WEIGHTS)[0], MODEL_WEIGHTS)
    if not index.is_file():
        raise UserError(f"{folder}: no model's folder: it has neither {MODEL_WEIGHTS} nor {MODEL_INDEX}")
    try:
        files: dict[str, str] = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index}: not an index of safetensors files: {error!r}") from error
    return files


def _adapter_factors(folder: Path, module: str) -> Factors:
    config, path = _config(folder), folder / WEIGHTS
    header, start = _header(path)
    modules = _modules(path, header)
    if module not in modules:
        listed = ", ".join(modules[:8]) + (f", ... ({len(modules)} in all)" if len(modules) > 8 else "")
        raise UserError(f"{path}: no module {module!r}; there are {listed}")
    tensors = {}
    for name in header:
        if (match := _KEY.fullmatch(name)) and match["module"] == module:
            tensors[match["factor"]] = (name, _tensor(path, name, header[name], start))
    if set(tensors) != {"A", "B"}:
        raise UserError(f"{path}: module {module} has only lora_{''.join(tensors)}, but needs A and B")
    (name_a, a), (name_b, b) = tensors["A"], tensors["B"]
    if a.ndim != 2 or b.ndim != 2 or b.shape[1] != a.shape[0]:
        raise UserError(f"{path}: {name_b} {b.shape} times {name_a} {a.shape} is no matrix product")
    target = name_a.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
    rank = _of_module(config.get("rank_pattern"), target, config["r"])
    if rank != a.shape[0]:
        raise UserError(f"{path}: {name_a} has rank {a.shape[0]}, but {CONFIG} says {rank}")
    alpha = _of_module(config.get("alpha_pattern"), target, config["lora_alpha"])
    return Factors(b, a, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _difference(folder: Path, module: str, base: Path | None) -> Factors:
    if base is None:
        raise UserError(
            f"{folder}: a checkpoint's delta is its difference to the base: give the base's folder (--base)"
        )
    weight, dtype = _weight(folder, module)
    start = _rounded(_weight(base, module)[0], dtype)
    if weight.ndim != 2 or weight.shape != start.shape:
        raise UserError(
            f"{folder}: module {module} is {weight.shape}, but {start.shape} in {base}: "
            "a checkpoint is compared with the base that it was trained from, in linear layers"
        )
    d_out, d_in = weight.shape
    if d_in <= d_out:
        return Factors(weight - start, np.eye(d_in), 1.0)
    return Factors(np.eye(d_out), weight - start, 1.0)


def _weight(folder: Path, module: str) -> tuple[NDArray[np.float64], str]:
    """A module's weight in a model's folder and the type that it is stored in; no other shard is read."""
    files = tensor_files(folder)
    # `model.` stands before it in most models, `model.language_model.` in some
    names = [name for name in files if f".{name}".endswith(f".{module}.weight")]
    if len(names) != 1:
        found = f"{len(names)} are: {', '.join(names)}" if names else "none is"
        raise UserError(f"{folder}: one tensor must be named ...{module}.weight, but {found}")
    path = folder / files[names[0]]
    header, start = _header(path)
    if names[0] not in header:
        raise UserError(f"{path}: has no {names[0]}, though {MODEL_INDEX} says so: fetch the model again")
    return _tensor(path, names[0], header[names[0]], start), header[names[0]]["dtype"]


def _rounded(values: NDArray[np.float64], dtype: str) -> NDArray[np.float64]:
    """The base as its training in `dtype` began: else the rounding of its own values would pass for an update."""
    if dtype == "F64":
        return values
    single = values.astype("<f4")
    if dtype == "BF16":  # to the nearest upper half of a float32, ties to even
        bits = single.view("<u4")
        single = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype("<u4").view("<f4")
    rounded: NDArray[np.float64] = (single.astype("<f2") if dtype == "F16" else single).astype(np.float64)
    return rounded


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; an adapter is a folder with {CONFIG} and {WEIGHTS}")
    if not path.is_file():
        raise UserError(f"{folder}: not an adapter folder: it has no {CONFIG}")
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type must be LORA: other adapters have no factors B and A")
    for key in ("r", "lora_alpha"):
        if type(config.get(key)) not in (int, float) or not config[key] > 0:
            raise UserError(f"{path}: {key} must be a positive number, not {config.get(key)!r}")
    if used := [key for key in _OTHER_UPDATES if config.get(key)]:
        raise UserError(f"{path}: {used[0]} is set, so the update is not scale * B @ A: train a plain LoRA adapter")
    if str(init := config.get("init_lora_weights")).startswith(_OTHER_BASES):
        raise UserError(
            f"{path}: init_lora_weights {init!r} changes the base's weights, so B @ A is not the update: "
            "save it with PEFT's path_initial_model_for_weight_conversion"
        )
    return config


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Tensor name to its dtype, shape and data_offsets; and where the data begin (the safetensors format)."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    damaged = UserError(f"{path}: truncated, or not a safetensors file: write it again")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise damaged
        try:
            header: Any = json.loads(file.read(length))
            header.pop("__metadata__", None)
            end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise damaged from error
    if 8 + length + end != size:
        raise damaged
    return header, 8 + length


def _modules(path: Path, header: dict[str, Any]) -> list[str]:
    matches = {name: _KEY.fullmatch(name) for name in header}
    if other := [name for name, match in matches.items() if match is None]:
        raise UserError(f"{path}: {other[0]} is no LoRA factor, so B @ A would not be the whole update")
    return sorted({match["module"] for match in matches.values() if match}, key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts layers.2 before layers.10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def _tensor(path: Path, name: str, entry: dict[str, Any], start: int) -> NDArray[np.float64]:
    if entry["dtype"] not in _DTYPES:
        raise UserError(f"{path}: {name} is {entry['dtype']}: only {', '.join(_DTYPES)} are read")
    count = math.prod(entry["shape"])
    raw = np.fromfile(path, _DTYPES[entry["dtype"]], count, offset=start + entry["data_offsets"][0])
    if entry["dtype"] == "BF16":  # numpy has none: the upper half of a float32
        raw = (raw.astype("<u4") << 16).view("<f4")
    values: NDArray[np.float64] = raw.astype(np.float64).reshape(entry["shape"])
    if not np.isfinite(values).all():
        raise UserError(f"{path}: {name} holds NaN or infinite values: the run diverged, or the file is damaged")
    return values


def _of_module(pattern: dict[str, float] | None, target: str, default: float) -> float:
    """PEFT's rule: the first key that, as a regular expression, matches the name or its end at a dot."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", target):
            return value
    return default
