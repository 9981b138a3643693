"""The delta of a checkpoint, a whole model of which each weight was trained: dW = W - W_base. Needs no torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deltageom.errors import UserError
from deltageom.module_names import layer_of, natural, some, without_prefix
from deltageom.tensors import ModelTensors, rounded

MODEL_CONFIG = "config.json"
# Models whose layers are Conv1D of transformers, which holds its weight as (d_in, d_out).
_TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")


@dataclass(frozen=True)
class Dense:
    """A delta that has no thin factors: weight (d_out, d_in), float64."""

    weight: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def dense(self) -> NDArray[np.float64]:
        return self.weight


class Checkpoint:
    """A checkpoint and its base, each in one safetensors file or in many; the headers are parsed once.

    `modules`: the 2-D `...layers.N....weight` tensors that both have, in natural order; `notes`: what is not
    compared, a line each. Raises UserError for a folder without weights, a damaged or incomplete one, one without
    such a module, and a module that the base has twice.
    """

    kind: Literal["adapter", "checkpoint"] = "checkpoint"
    base_name: str | None = None

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder = folder
        self._run, self._base = ModelTensors(folder), ModelTensors(base)
        self._transposed = is_transposed(folder)
        self._pairs: dict[str, tuple[str, str]] = {}  # a module's tensor in the run and in the base
        for name in self._run.names:
            module = without_prefix(name.removesuffix(".weight"))
            if not self._is_linear(name):
                continue
            if module in self._pairs:
                raise UserError(f"{folder}: {name} and {self._pairs[module][0]} would both be the module {module}")
            if start := self._in_base(name, module):
                self._pairs[module] = name, start
        if not self._pairs:
            raise UserError(f"{folder} and {base} have no linear layers in common: no 2-D ...layers.N....weight")
        self.modules = sorted(self._pairs, key=natural)
        self.notes = self._notes()

    def read(self, module: str) -> Dense:
        """dW = W - W_base, with the base as training in the run's type began: else the rounding of its own values
        would pass for an update.

        Raises UserError for a module that is not there, or of another shape, and for what TensorFile.read does.
        """
        name, start = self._pairs.get(module) or self._pair(module)
        shape, base_shape = self._run.shape(name), self._base.shape(start)
        if len(shape) != 2 or shape != base_shape:
            raise UserError(
                f"{self.folder}: module {module} is {shape}, but {base_shape} in {self._base.folder}: "
                "a checkpoint is compared with the base that it was trained from, in linear layers"
            )
        dtype, before = self._run.dtype(name), self._base.read(start)
        delta = self._run.read(name)
        delta -= before if self._base.dtype(start) == dtype else rounded(before, dtype)
        return Dense(delta.T if self._transposed else delta)

    def _is_linear(self, name: str) -> bool:
        return name.endswith(".weight") and layer_of(name) is not None and len(self._run.shape(name)) == 2

    def _pair(self, module: str) -> tuple[str, str]:
        """The tensors of a module that is not among those that were found."""
        name = self._run.weight_name(module)
        return name, self._in_base(name, module) or self._base.weight_name(module)

    def _in_base(self, name: str, module: str) -> str | None:
        if name in self._base:
            return name
        return self._base.weight_name(module) if self._base.has_weight(module) else None

    def _notes(self) -> list[str]:
        """One line for what one side lacks, for each matrix outside the layers, and for the rest."""
        paired_run, paired_base = ({pair[side] for pair in self._pairs.values()} for side in (0, 1))
        run = {_bare(name): name for name in self._run.names if name not in paired_run}
        base = {_bare(name): name for name in self._base.names if name not in paired_base}
        notes = [
            *_lacking(sorted(run.keys() - base.keys(), key=natural), "the base", self._base.folder),
            *_lacking(sorted(base.keys() - run.keys(), key=natural), "the checkpoint", self.folder),
        ]
        rest = []
        for bare in sorted(run.keys() & base.keys(), key=natural):
            if len(self._run.shape(run[bare])) == 2 and layer_of(bare) is None:
                notes.append(f"{bare} is outside the layers: not compared")
            else:
                rest.append(bare)
        if rest:
            notes.append(f"norms, biases and others that are no 2-D weights of the layers: not compared: {some(rest)}")
        return notes


def is_transposed(folder: Path) -> bool:
    """Whether a model's layers hold their weights as (d_in, d_out)."""
    return _config(folder).get("model_type") in _TRANSPOSED


def _bare(name: str) -> str:
    return without_prefix(name).removeprefix("transformer.")


def _lacking(names: list[str], side: str, folder: Path) -> list[str]:
    """Notes on tensors that are not compared because `side`, in `folder`, has none such."""
    config = _config(folder)
    tied = any(part.get("tie_word_embeddings") for part in (config, config.get("text_config") or {}))
    heads = [name for name in names if tied and name == "lm_head.weight"]
    others = [name for name in names if name not in heads]
    return [
        *(f"{side} has no {name}, being tied to the embeddings: not compared" for name in heads),
        *([f"{side} lacks {some(others)}: not compared"] if others else []),
    ]


def _config(folder: Path) -> dict[str, Any]:
    """The model's; {} for a base of which only the weights were fetched."""
    path = folder / MODEL_CONFIG
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a model's configuration: it must be a JSON object")
    return config
