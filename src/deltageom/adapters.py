"""A run's delta, one module at a time, straight from safetensors. Needs no torch.

A run's folder is a PEFT LoRA adapter's, or a checkpoint: the whole model, each of its weights trained.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from deltageom.checkpoint_weights import MODEL_CONFIG as MODEL_CONFIG
from deltageom.checkpoint_weights import Checkpoint
from deltageom.checkpoint_weights import Dense as Dense
from deltageom.errors import UserError
from deltageom.module_names import layer_of as layer_of
from deltageom.module_names import natural, some, without_prefix
from deltageom.tensors import MODEL_INDEX, TensorFile
from deltageom.tensors import MODEL_WEIGHTS as MODEL_WEIGHTS

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_KEY = re.compile(r"base_model\.model\.(?P<target>.+)\.lora_(?P<factor>[AB])\.weight")
# Forms of LoRA whose update is not scale * B @ A, or is not one of the base's own weights.
_OTHER_UPDATES = (
    *("use_dora", "use_qalora", "use_bdlora", "kasa_config", "monteclora_config"),
    *("arrow_config", "alora_invocation_tokens"),  # an update of some tokens only
)
_OTHER_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
_PICKLED = ("adapter_model.bin", "pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class Factors:
    """A delta dW = scale * b @ a: b (d_out, r), a (r, d_in), float64. Runs may differ in r."""

    b: NDArray[np.float64]
    a: NDArray[np.float64]
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.b.shape[0], self.a.shape[1]

    def dense(self) -> NDArray[np.float64]:
        """(d_out, d_in)."""
        return self.scale * (self.b @ self.a)


class Delta(Protocol):
    """A run's delta, opened once: its headers and configurations are parsed, its tensors read when asked for.

    `modules` such as `layers.0.self_attn.q_proj`, by layer, then by name; `base_name`: what the run itself names
    as its base, if it does; `notes`: what of the run is no part of the delta, a line each. Forked processes may
    read it at the same time.
    """

    folder: Path
    kind: Literal["adapter", "checkpoint"]
    modules: list[str]
    base_name: str | None
    notes: list[str]

    def read(self, module: str) -> Factors | Dense:
        """The delta of one module; only its tensors are read."""


class Adapter:
    """A LoRA adapter that PEFT saved; see Delta.

    Raises UserError for a folder that is no LoRA adapter's, an update that is not scale * B @ A alone, a damaged
    file, and factors that do not fit together.
    """

    kind: Literal["adapter", "checkpoint"] = "adapter"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = _config(folder)
        self.base_name: str | None = config.get("base_model_name_or_path") or None
        self.notes: list[str] = []
        self._file = TensorFile(folder / WEIGHTS)
        factors = _factor_names(self._file)
        self._modules = {module: _checked(self._file, module, names, config) for module, names in factors.items()}
        self.modules = sorted(self._modules, key=natural)

    def read(self, module: str) -> Factors:
        """B and A; scale is alpha / r, or alpha / sqrt(r) with use_rslora (2312.03732), with the module's own
        alpha_pattern and rank_pattern. Raises UserError for a module that is not there and for what
        TensorFile.read does.
        """
        if module not in self._modules:
            raise UserError(f"{self._file.path}: no module {module!r}; there are {some(self.modules, 8)}")
        found = self._modules[module]
        return Factors(self._file.read(found.b), self._file.read(found.a), found.scale)


class _Module(NamedTuple):
    """The names of a module's tensors, and its scale."""

    a: str
    b: str
    scale: float


def open_run(folder: Path, base: Path | None = None) -> Delta:
    """The delta of a run's folder; `base` is the folder of the base's safetensors files.

    Raises UserError for a folder of neither kind, a checkpoint without `base`, and for what Adapter and Checkpoint
    do.
    """
    if not is_checkpoint(folder):
        return Adapter(folder)
    if base is None:
        raise UserError(
            f"{folder}: a checkpoint's delta is its difference to the base: give the base's folder (--base)"
        )
    return Checkpoint(folder, base)


def is_checkpoint(folder: Path) -> bool:
    """Whether a run's folder holds a whole model; False for an adapter. Raises UserError if it is neither."""
    if (folder / CONFIG).is_file():
        return False
    if (folder / MODEL_CONFIG).is_file() and any((folder / name).is_file() for name in (MODEL_WEIGHTS, MODEL_INDEX)):
        return True
    raise UserError(
        f"{folder}: no run's folder: it has neither {CONFIG} and {WEIGHTS} (an adapter) "
        f"nor {MODEL_CONFIG} and {MODEL_WEIGHTS} (a checkpoint); {_instead(folder)}"
    )


def _instead(folder: Path) -> str:
    if not folder.is_dir():
        return "there is no such folder"
    names = sorted(path.name for path in folder.iterdir())
    if pickled := [name for name in _PICKLED if name in names]:
        return f"it has {pickled[0]}, but safetensors only are read: save it again with safe_serialization=True"
    return f"it has {some(names)}" if names else "it is empty"


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; an adapter is a folder with {CONFIG} and {WEIGHTS}")
    if not path.is_file():
        raise UserError(f"{folder}: not an adapter folder: it has no {CONFIG}")
    if not (folder / WEIGHTS).is_file() and (folder / "adapter_model.bin").is_file():
        raise UserError(f"{folder}: no adapter of safetensors: {_instead(folder)}")
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
    if config.get("target_parameters"):
        raise UserError(
            f"{path}: target_parameters is set: LoRA on parameters of three dimensions (a layer's experts) "
            "is no update B @ A of one matrix: train an adapter with target_modules alone"
        )
    if str(init := config.get("init_lora_weights")).lower().startswith(_OTHER_BASES):
        raise UserError(
            f"{path}: init_lora_weights {init!r} changes the base's weights, so B @ A is not the update: "
            "save it with PEFT's path_initial_model_for_weight_conversion"
        )
    return config


def _factor_names(file: TensorFile) -> dict[str, dict[str, str]]:
    """Each module, and its tensors by the factors' letters."""
    found: dict[str, dict[str, str]] = {}
    for name in file.names:
        match = _KEY.fullmatch(name)
        if match is None:
            raise UserError(
                f"{file.path}: {name} is no LoRA factor, so B @ A would not be the whole update: "
                "train without DoRA, biases, modules_to_save and new tokens"
            )
        names = found.setdefault(without_prefix(match["target"]), {})
        if match["factor"] in names:
            raise UserError(f"{file.path}: {name} and {names[match['factor']]} would both be of one module")
        names[match["factor"]] = name
    if not found:
        raise UserError(f"{file.path}: it has no tensors: save the adapter again")
    return found


def _checked(file: TensorFile, module: str, names: dict[str, str], config: dict[str, Any]) -> _Module:
    if set(names) != {"A", "B"}:
        raise UserError(f"{file.path}: module {module} has only lora_{''.join(names)}, but needs A and B")
    shape_a, shape_b = file.shape(names["A"]), file.shape(names["B"])
    if len(shape_a) != 2 or len(shape_b) != 2 or shape_b[1] != shape_a[0]:
        raise UserError(f"{file.path}: {names['B']} {shape_b} times {names['A']} {shape_a} is no matrix product")
    target = names["A"].removeprefix("base_model.model.").removesuffix(".lora_A.weight")
    rank = _of_module(config.get("rank_pattern"), target, config["r"])
    if rank != shape_a[0]:
        raise UserError(f"{file.path}: {names['A']} has rank {shape_a[0]}, but {CONFIG} says {rank}")
    alpha = _of_module(config.get("alpha_pattern"), target, config["lora_alpha"])
    return _Module(names["A"], names["B"], alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _of_module(pattern: dict[str, float] | None, target: str, default: float) -> float:
    """PEFT's rule: the first key that, as a regular expression, matches the name or its end at a dot."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", target):
            return value
    return default
