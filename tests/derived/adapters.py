"""Adapters of random factors in PEFT's form, their dense updates, and recipes applied to them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from deltageom.deltas.open import open_run
from deltageom.derived.derive import Derived, derive
from deltageom.study.derived.recipe import Recipe

Array = NDArray[np.float64]
Dense = dict[str, Array]
Factors = dict[str, tuple[Array, Array]]  # b and a by module

SHAPES = {f"layers.{layer}.{name}": shape for layer in (0, 1, 2) for name, shape in (("q", (12, 9)), ("down", (7, 20)))}


def factors(seed: int, rank: int, shapes: Mapping[str, tuple[int, int]] = SHAPES) -> Factors:
    """Each module of its own size, so that one coefficient for all is not the same as one each."""
    rng = np.random.default_rng(seed)
    return {
        module: (rng.normal(size=(d_out, rank)) * rng.uniform(0.2, 3), rng.normal(size=(rank, d_in)))
        for module, (d_out, d_in) in shapes.items()
    }


def save(folder: Path, of: Factors, alpha: float = 2.0, dtype: Any = np.float64, **config: Any) -> Path:
    """As PEFT saves it, but in float64, which leaves every digit; the scale is alpha / rank."""
    folder.mkdir(parents=True)
    rank = next(iter(of.values()))[0].shape[1]
    tensors = {}
    for module, (b, a) in of.items():
        name = f"base_model.model.model.{module}"
        tensors |= {f"{name}.lora_B.weight": b.astype(dtype), f"{name}.lora_A.weight": a.astype(dtype)}
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": ["q", "down"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(said | {"base_model_name_or_path": "some/base"} | config))
    return folder


def made(folders: Mapping[str, Path], **steps: Any) -> Derived:
    recipe = Recipe(**steps)
    return derive(recipe, {name: open_run(folders[name]) for name in recipe.operands()})


def dense(derived: Derived) -> Dense:
    return {module: (of.u * of.sigma) @ of.v.T for module, of in derived.update.items()}


def dense_of(folder: Path) -> Dense:
    delta = open_run(folder)
    return {module: delta.read(module).dense() for module in delta.modules}


def inner(a: Dense, b: Dense) -> float:
    return float(sum(np.sum(a[module] * b[module]) for module in a))


def norm(a: Dense) -> float:
    return float(np.sqrt(inner(a, a)))


def assert_close(found: Dense, expected: Dense, relative: float = 1e-12) -> None:
    """To `relative` of the expected norm, all modules together."""
    assert list(found) == list(expected)
    apart = norm({module: found[module] - expected[module] for module in found})
    assert apart <= relative * max(norm(expected), 1e-300), apart
