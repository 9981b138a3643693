"""A run's delta, one module at a time, straight from safetensors. Needs no torch.

A run's folder is a PEFT LoRA adapter's, or a checkpoint: the whole model, each of its weights trained.
"""

import re
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deltageom.deltas import experts
from deltageom.deltas.delta import Factors
from deltageom.deltas.folder import CONFIG
from deltageom.deltas.linear_weights import LinearWeights
from deltageom.deltas.lora_config import LoraConfig
from deltageom.deltas.names import canonical, natural, some, whole_of
from deltageom.deltas.tensors import AdapterTensors, rounded
from deltageom.errors import UserError

# PEFT leaves the adapter's name out; what was saved by other means has kept it.
_KEY = re.compile(r"(?:base_model\.model\.)?(?P<target>.+)\.lora_(?P<factor>[AB])(?:\.(?P<adapter>[^.]+))?\.weight")
_COPY = re.compile(r"(?:base_model\.model\.)?(?P<target>.+)\.base_layer\.weight")


class _Module(NamedTuple):
    """The names of a module's tensors, its scale, and of an expert its place in them."""

    a: str
    b: str
    scale: float
    shape: tuple[int, int]
    expert: experts.Place | None = None


class Adapter:
    """A LoRA adapter that PEFT saved; see Delta. `base`: the base's folder, where it is known; `snapshot`: a
    file whose weights are read in place of the folder's own.

    Raises UserError for a folder that is no LoRA adapter's, an update that is not scale * B @ A alone, a damaged
    file, and factors that do not fit together.
    """

    kind: Literal["adapter", "checkpoint"] = "adapter"

    def __init__(self, folder: Path, base: Path | None = None, snapshot: Path | None = None) -> None:
        self.folder = folder
        self._config = LoraConfig(folder)
        self.base_name, self.base_revision = self._config.base_name, self._config.base_revision
        self._tensors = AdapterTensors(folder, snapshot)
        weights = LinearWeights(base) if base else None
        factors, copies = self._sorted_tensors()
        self.notes = [self._note_of_copy(name, target, weights) for name, target in copies.items()]
        self._modules = self._found(factors, weights)
        self.modules = sorted(self._modules, key=natural)
        self.n_weights = sum(d_out * d_in for d_out, d_in in (found.shape for found in self._modules.values()))
        self._last: tuple[str, NDArray[np.float64], NDArray[np.float64]] | None = None

    def has(self, module: str) -> bool:
        return self._place(module) is not None

    def shape(self, module: str) -> tuple[int, ...]:
        """(d_out, d_in)."""
        found, half = self._needed(module)
        return (found.shape[0] // (1 if half is None else 2), found.shape[1])

    def read(self, module: str) -> Factors:
        """B and A; scale is alpha / r, or alpha / sqrt(r) with use_rslora (2312.03732), with the module's own
        alpha_pattern and rank_pattern. Raises UserError for a module that is not there and for what
        TensorFile.read does.
        """
        found, half = self._needed(module)
        if found.expert is None:
            b, a = self._tensors.read(found.b), self._tensors.read(found.a)
        else:
            b, a = experts.of_one(*self._pair(found.b, found.a), found.expert)
        return Factors(b if half is None else np.ascontiguousarray(np.split(b, 2)[half]), a, found.scale)

    def _pair(self, b: str, a: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Kept until others are asked for: the experts of a layer share them."""
        if self._last is None or self._last[0] != b:
            self._last = b, self._tensors.read(b), self._tensors.read(a)
        return self._last[1], self._last[2]

    def _needed(self, module: str) -> tuple[_Module, int | None]:
        if (place := self._place(module)) is None:
            raise UserError(f"{self.folder}: no module {module!r}; there are {some(self.modules, 8)}")
        return place

    def _place(self, module: str) -> tuple[_Module, int | None] | None:
        """The module, and which half of its rows where it is only a part of one."""
        module = canonical(module)
        if module in self._modules:
            return self._modules[module], None
        whole = whole_of(module)
        return (self._modules[whole[0]], whole[1]) if whole and whole[0] in self._modules else None

    def _sorted_tensors(self) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
        """Each target, by PEFT's name, and its tensors by the factors' letters; and copies of the base's weights, each
        with its target."""
        factors: dict[str, dict[str, str]] = {}
        adapters: dict[str | None, str] = {}
        others = []
        for name in self._tensors.names:
            if (match := _KEY.fullmatch(name)) is None:
                others.append(name)
                continue
            adapters.setdefault(match["adapter"], name)
            factors.setdefault(match["target"], {})[match["factor"]] = name
        if len(adapters) > 1:
            raise UserError(
                f"{self.folder}: {' and '.join(adapters.values())} are of two adapters: "
                "save each with save_pretrained(folder, selected_adapters=[name])"
            )
        copies = {}
        for name in others:
            match = _COPY.fullmatch(name)
            if match is None or match["target"] not in factors:
                raise UserError(
                    f"{self._tensors.path(name)}: {name} is no LoRA factor, so B @ A would not be the whole update: "
                    "train without DoRA, biases, modules_to_save, embeddings and new tokens"
                )
            copies[name] = match["target"]
        self._check_empty(factors)
        return factors, copies

    def _check_empty(self, factors: dict[str, dict[str, str]]) -> None:
        if factors and all(0 not in self._tensors.shape(name) for names in factors.values() for name in names.values()):
            return
        what = f"{next(iter(next(iter(factors.values())).values()))} is empty" if factors else "it has no tensors"
        raise UserError(
            f"{self.folder}: {what}: DeepSpeed ZeRO-3 leaves this where the weights were not gathered: save the "
            "adapter again, with stage3_gather_16bit_weights_on_model_save or by zero_to_fp32.py"
        )

    def _note_of_copy(self, name: str, target: str, base: LinearWeights | None) -> str:
        """PEFT saves a targeted head's frozen weight beside its factors. Raises UserError if it is not the base's."""
        module = canonical(target)
        if base is not None and base.has(module):
            start, copy = base.read(module), self._tensors.read(name)
            dtype = self._tensors.dtype(name)
            if start.shape != copy.shape or not np.array_equal(rounded(start, dtype), copy):
                raise UserError(
                    f"{self._tensors.path(name)}: {name} is not the weight of {base.folder}, so B @ A is not the whole "
                    "update: it was trained too, or it is of another base or another vocabulary"
                )
            return f"{name} is the base's weight, as PEFT saves it: no part of the update"
        return f"{name} is taken for the base's own weight, as PEFT saves it: no part of the update"

    def _found(self, factors: dict[str, dict[str, str]], base: LinearWeights | None) -> dict[str, _Module]:
        by_module: dict[str, str] = {}
        for target, names in factors.items():
            name, module = next(iter(names.values())), canonical(target)
            if module in by_module:
                raise UserError(f"{self.folder}: {name} and {by_module[module]} would both be of one module")
            by_module[module] = name
        for target, names in factors.items():
            if set(names) != {"A", "B"}:
                raise UserError(
                    f"{self.folder}: module {canonical(target)} has only lora_{''.join(names)}, but needs A and B"
                )
        shapes = {target: self._shapes(names) for target, names in factors.items()}
        parameters = experts.by_target(self._config.path, list(factors), self._config.parameters)
        hidden = experts.hidden_size({target: of for target, of in shapes.items() if target not in parameters})
        found: dict[str, _Module] = {}
        taken: dict[str, str] = {}
        for target, names in factors.items():
            parameter, of_target = parameters.get(target), shapes[target]
            named = parameter.path if parameter else target  # as PEFT matches its patterns
            rank, scale = self._config.rank(named), self._config.scale(named)
            places: dict[str, experts.Place | None]
            if of_target.rank == rank and (parameter is None or parameter.name == "weight"):
                places = {canonical(parameter.module if parameter else target): None}
            elif parameter is None or of_target.rank % rank:
                path = self._tensors.path(names["A"])
                raise UserError(f"{path}: {names['A']} has rank {of_target.rank}, but {CONFIG} says {rank}")
            else:
                together = {
                    other.name: shapes[key] for key, other in parameters.items() if other.module == parameter.module
                }
                places = self._experts(
                    parameter, of_target.rank // rank, self._exchanged(parameter, together, hidden, base)
                )
            for module, place in places.items():
                if module in found:
                    raise UserError(
                        f"{self.folder}: {target} and {taken[module]} would both be of one module, {module}"
                    )
                shape = of_target.delta[::-1] if place and place.exchanged else of_target.delta
                found[module], taken[module] = _Module(names["A"], names["B"], scale, shape, place), target
        return found

    def _experts(self, parameter: experts.Parameter, count: int, exchanged: bool) -> dict[str, experts.Place | None]:
        return {canonical(parameter.of_expert(i)): experts.Place(i, count, exchanged) for i in range(count)}

    def _exchanged(
        self,
        parameter: experts.Parameter,
        shapes: dict[str, experts.Shapes],
        hidden: int | None,
        base: LinearWeights | None,
    ) -> bool:
        modules = {name: canonical(experts.Parameter(parameter.module, name).of_expert(0)) for name in shapes}
        known = {name: base.shape(module) for name, module in modules.items() if base and base.has(module)}
        exchanged = experts.sides_exchanged(shapes, known, hidden)
        if exchanged is None:
            raise UserError(
                f"{self.folder}: which side of {canonical(parameter.path)} is its input, the factors alone do not "
                "tell: compare with --base and --against-base, which may"
            )
        return exchanged

    def _shapes(self, names: dict[str, str]) -> experts.Shapes:
        shape_a, shape_b = self._tensors.shape(names["A"]), self._tensors.shape(names["B"])
        if len(shape_a) > 2:
            raise UserError(f"{self._tensors.path(names['A'])}: {names['A']} {shape_a} is of a convolution, no matrix")
        if len(shape_a) != 2 or len(shape_b) != 2 or shape_b[1] != shape_a[0]:
            raise UserError(
                f"{self._tensors.path(names['A'])}: {names['B']} {shape_b} times {names['A']} {shape_a} "
                "is no matrix product"
            )
        return experts.Shapes((shape_b[0], shape_a[1]), shape_a[0])
