"""Derive a whole model from those of other runs: the same steps on every parameter, without thin factors."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import fsum, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltageom.deltas.folder import MODEL_CONFIG, MODEL_WEIGHTS
from deltageom.deltas.names import canonical, layer_of, some
from deltageom.deltas.tensors import ModelTensors
from deltageom.errors import UserError
from deltageom.files import whole_file, write_json
from deltageom.study.derived.recipe import Recipe

Array = NDArray[np.float64]
Read = Callable[[str], Array]
BESIDE = (MODEL_CONFIG, "generation_config.json")


@dataclass(frozen=True)
class Derived:
    """update: of a parameter by its name, computed when asked for; the rest as in derive.Derived."""

    update: Read
    coefficient: float | None
    scale: float | None
    norm: float


def derive(recipe: Recipe, folders: Mapping[str, Path], base: Path) -> Derived:
    """`folders` are the whole models of the recipe's runs; parameters are read one at a time, in float64.

    A projection with `project: module` is one per parameter; of `layers` the parameters in no layer are zero too.
    Raises UserError for models with other parameters than the base, `rank`, layers that are not there, and a zero
    update where a direction or a length is needed.
    """
    if recipe.rank is not None:
        raise UserError("rank: a whole model has parameters that are no matrices: leave it out")
    start = ModelTensors(base)
    updates = {name: _update(ModelTensors(folder), start) for name, folder in folders.items()}
    names = sorted(start.names)
    terms = [(coefficient, updates[name]) for name, coefficient in recipe.terms().items()]

    def combined(name: str) -> Array:
        return sum((c * read(name) for c, read in terms), np.zeros(start.shape(name)))

    update: Read = combined
    coefficient = scale = None
    if recipe.other is not None:
        update, coefficient = _projected(recipe, names, combined, updates[recipe.other])
    if recipe.layers is not None:
        update = _of_layers(names, update, recipe.layers)
    norm = _norm(names, update)
    if recipe.norm_of is not None:
        target = _norm(names, updates[recipe.norm_of])
        if not (norm and target):
            raise UserError(f"norm_of {recipe.norm_of!r}: of two updates one is zero, which no factor makes as long")
        scale, norm = target / norm, target
    return Derived(_scaled(update, scale), coefficient, scale, norm)


def write(derived: Derived, recipe: Recipe, base: Path, like: Path, folder: Path) -> int:
    """Writes base + update in the base's types, `like`'s configuration and selection.json; returns the parameters."""
    import torch
    from safetensors.torch import save_file

    start, tensors = ModelTensors(base), {}
    types = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    for name in start.names:
        values = torch.from_numpy(start.read(name) + derived.update(name)).to(types[start.dtype(name)])
        if not torch.isfinite(values).all():
            raise UserError(f"{name}: the derived update is too large for {start.dtype(name)}: lower its coefficients")
        tensors[name] = values
    with whole_file(folder / MODEL_WEIGHTS) as aside:
        save_file(tensors, aside, metadata={"format": "pt"})
    for name in BESIDE:
        if (like / name).is_file():
            shutil.copyfile(like / name, folder / name)
    record: dict[str, Any] = {
        "derived": recipe.model_dump(mode="json"),
        "parents": recipe.operands(),
        "recipe": recipe.words(),
        "rank": None,
        "delta_norm": derived.norm,
        "coefficient": derived.coefficient,
        "scale": derived.scale,
    }
    write_json(folder / "selection.json", record)
    return sum(value.numel() for value in tensors.values())


def _update(run: ModelTensors, base: ModelTensors) -> Read:
    """Raises UserError where the two have other parameters, shapes or types."""
    if apart := sorted(set(run.names) ^ set(base.names)):
        raise UserError(f"{run.folder} and {base.folder} have other parameters: {some(apart)} is in one of them only")
    for name in base.names:
        if (run.shape(name), run.dtype(name)) != (base.shape(name), base.dtype(name)):
            raise UserError(
                f"{run.folder}: {name} is {run.dtype(name)} {run.shape(name)}, but {base.dtype(name)} "
                f"{base.shape(name)} in {base.folder}: a derived model has the base's shapes and types"
            )
    return lambda name: run.read(name) - base.read(name)


def _projected(recipe: Recipe, names: list[str], update: Read, other: Read) -> tuple[Read, float | None]:
    """What `remove` leaves, or `keep` keeps; and the coefficient, if it is one."""
    inner = {name: float((update(name) * other(name)).sum()) for name in names}
    square = {name: float(np.square(other(name)).sum()) for name in names}
    if not any(square.values()):
        key = "remove" if recipe.remove is not None else "keep"
        raise UserError(f"{key} {recipe.other!r}: its update is zero, so it has no direction: name another run")
    if recipe.project == "module":
        each = {name: inner[name] / square[name] if square[name] else 0.0 for name in names}
        whole = None
    else:
        whole = fsum(inner.values()) / fsum(square.values())
        each = dict.fromkeys(names, whole)
    if recipe.keep is not None:
        return lambda name: each[name] * other(name), whole
    return lambda name: update(name) - each[name] * other(name), whole


def _of_layers(names: list[str], update: Read, layers: list[int]) -> Read:
    there = {layer for name in names if (layer := layer_of(canonical(name))) is not None}
    if unknown := sorted(set(layers) - there):
        raise UserError(f"layers: there is no layer {unknown[0]}; the model has {', '.join(map(str, sorted(there)))}")
    return lambda name: update(name) if layer_of(canonical(name)) in layers else np.zeros_like(update(name))


def _scaled(update: Read, factor: float | None) -> Read:
    return update if factor is None else lambda name: factor * update(name)


def _norm(names: list[str], update: Read) -> float:
    return sqrt(fsum(float(np.square(update(name)).sum()) for name in names))
