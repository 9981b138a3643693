"""A model's linear layers by their canonical names, in whatever layout its files hold them. Needs no torch."""

import json
import math
import re
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deltageom.deltas.folder import MODEL_CONFIG
from deltageom.deltas.names import canonical, halves, layer_of, natural, some, whole_of
from deltageom.deltas.quantised import EXPERTS, SCALE, is_fp8_blocks, quantised_modules, read_fp8_blocks
from deltageom.deltas.tensors import ModelTensors
from deltageom.errors import UserError

_INTERLEAVED = ("gpt_oss", "openai_privacy_filter")  # gate and up take turns in the rows of gate_up_proj
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "shared", "decoder.embed_tokens")


class _Piece(NamedTuple):
    """Where a weight is: a tensor, or one expert's part of it, or a half of its rows; `turned`: as (d_in, d_out)."""

    tensor: str
    expert: int | None = None
    half: int | None = None
    turned: bool = False


class LinearWeights:
    """Matrices of a model by module.

    A layer's experts are modules of their own, `...experts.7.down_proj`, whether each is a tensor or all are one of
    three dimensions; `gate_up_proj` is to be had as its halves and the other way round, and the head of a model that
    ties it is the embeddings' weight. FP8 with a scale per block is read as what it stands for; of all `quantised`
    layers (module to how) the others are not. `modules`: those as the files have them, a tied head left out, in
    natural order.
    Raises UserError for what ModelTensors does and for two tensors of one name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors = ModelTensors(folder)
        self._config = read_config(folder)
        self._by_name: dict[str, str] = {}
        for tensor in self.tensors.names:
            name = canonical(tensor.removesuffix(".weight")) + (".weight" if tensor.endswith(".weight") else "")
            if name in self._by_name:
                raise UserError(f"{folder}: {tensor} and {self._by_name[name]} would both be {name}")
            self._by_name[name] = tensor
        self.quantised = quantised_modules(self.tensors, self._config)
        self._pieces = self._found()
        self.modules = sorted(self._pieces, key=natural)

    @property
    def names(self) -> dict[str, str]:
        """Each tensor by its canonical name."""
        return self._by_name

    @property
    def size(self) -> int:
        """How many weights there are in all; scales of FP8 are none."""
        scales = {self._scale(tensor) for tensor in self.tensors.names}
        return sum(math.prod(self.tensors.shape(name)) for name in self.tensors.names if name not in scales)

    def has(self, module: str) -> bool:
        return bool(self._of(module))

    def pieces(self, module: str) -> list[str]:
        """The tensors that a module is read from."""
        tensors = [piece.tensor for piece in self._of(module)]
        return [*tensors, *filter(None, map(self._scale, tensors))]

    def is_fp8(self, module: str) -> bool:
        """Whether a module that can be read is stored in FP8, so that it is rounded."""
        return any(self._scale(piece.tensor) for piece in self._of(module))

    def shape(self, module: str) -> tuple[int, ...]:
        """(d_out, d_in)."""
        shapes = [self._shape(piece) for piece in self._needed(module)]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def dtype(self, module: str) -> str:
        return self.tensors.dtype(self._needed(module)[0].tensor)

    def read(self, module: str) -> NDArray[np.float64]:
        """The weight (d_out, d_in). Raises UserError for a module that is not there, naming what is near, or is
        quantised, and for what TensorFile.read does."""
        parts = [self._read(piece) for piece in self._needed(module)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _needed(self, module: str) -> list[_Piece]:
        if found := self._of(module):
            return found
        fused = re.sub(r"\.experts\.\d+\.", ".experts.", canonical(module))
        for name in (canonical(module), fused):
            if name in self.quantised:
                raise UserError(
                    f"{self.folder}: {name} is quantised ({self.quantised[name]}): give the folder of the model's "
                    "unquantised weights, or dequantise it and save it again"
                )
        last = canonical(module).split(".")[-1]
        near = [name for name in self.modules if name.split(".")[-1] == last and layer_of(name) == layer_of(module)]
        raise UserError(
            f"{self.folder}: no weight of {module}; there is {some(near) if near else some(self.modules) or 'none'}"
        )

    def _found(self) -> dict[str, _Piece]:
        found: dict[str, _Piece] = {}
        for name, tensor in self._by_name.items():
            module, shape = name.removesuffix(".weight"), self.tensors.shape(tensor)
            at, _, last = module.rpartition(".")
            if module in self.quantised and not is_fp8_blocks(self.tensors, tensor):
                continue
            if len(shape) == 3 and last in EXPERTS and at.endswith("experts"):
                turned = self._experts_turned(at)
                found |= {f"{at}.{i}.{last}": _Piece(tensor, expert=i, turned=turned) for i in range(shape[0])}
            elif len(shape) == 2 and name.endswith(".weight"):
                found[module] = _Piece(tensor, turned=self._is_conv1d and layer_of(module) is not None)
        return found

    def _of(self, module: str) -> list[_Piece]:
        module = canonical(module)
        if module in self._pieces:
            return [self._pieces[module]]
        both = halves(module)
        if both and all(part in self._pieces for part in both):
            return [self._pieces[part] for part in both]
        whole = whole_of(module)
        if whole and whole[0] in self._pieces and self._config.get("model_type") not in _INTERLEAVED:
            return [self._pieces[whole[0]]._replace(half=whole[1])]
        if module == "lm_head" and self._ties():
            return [self._pieces[name] for name in _EMBEDDINGS if name in self._pieces][:1]
        return []

    def _scale(self, tensor: str) -> str | None:
        """The name of its scales, if it is a weight of FP8."""
        return f"{tensor}{SCALE}" if is_fp8_blocks(self.tensors, tensor) else None

    def _ties(self) -> bool:
        """A causal model without a head of its own ties it, unless it says otherwise: saving leaves no other out."""
        parts = (self._config, self._config.get("text_config") or {})
        return not any(part.get("tie_word_embeddings") is False for part in parts)

    @cached_property
    def _is_conv1d(self) -> bool:
        """Whether layers hold their weights as (d_in, d_out): GPT-2's, which are transformers' Conv1D. The bias, which
        these always have, tells; a configuration may not be there."""
        votes = {-1: 0, 0: 0, 1: 0}
        for name, tensor in self._by_name.items():
            bias = self._by_name.get(f"{name.removesuffix('.weight')}.bias")
            shape = self.tensors.shape(tensor)
            if bias and name.endswith(".weight") and len(shape) == 2 and layer_of(name) is not None:
                (width,) = self.tensors.shape(bias)[:1] or (0,)
                votes[(width == shape[1]) - (width == shape[0])] += 1
        return votes[1] > votes[-1]

    def _experts_turned(self, at: str) -> bool:
        """Whether a layer's experts are (experts, d_in, d_out), as gpt-oss's and Llama 4's are: gate_up_proj (2 m, d)
        and down_proj (d, m) fit together in one way only."""
        shapes = [
            self.tensors.shape(self._by_name[name])
            for last in EXPERTS
            for name in (f"{at}.{last}", f"{at}.{last}.weight")
            if name in self._by_name and last in ("gate_up_proj", "down_proj")
        ]
        return len(shapes) == 2 and shapes[0][2] == 2 * shapes[1][1] and shapes[0][1] == shapes[1][2]

    def _shape(self, piece: _Piece) -> tuple[int, ...]:
        shape = self.tensors.shape(piece.tensor)[0 if piece.expert is None else 1 :]
        shape = shape[::-1] if piece.turned else shape
        return shape if piece.half is None else (shape[0] // 2, *shape[1:])

    def _read(self, piece: _Piece) -> NDArray[np.float64]:
        if is_fp8_blocks(self.tensors, piece.tensor):
            weight = read_fp8_blocks(self.tensors, piece.tensor, self._config)
        else:
            weight = self.tensors.read(piece.tensor, piece.expert)
        weight = np.ascontiguousarray(weight.T) if piece.turned else weight
        return weight if piece.half is None else np.split(weight, 2)[piece.half]


def read_config(folder: Path) -> dict[str, Any]:
    """The model's configuration; {} for a base of which only the weights were fetched."""
    path = folder / MODEL_CONFIG
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a model's configuration: it must be a JSON object")
    return config
