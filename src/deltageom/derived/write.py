"""Write an update as PEFT saves a LoRA adapter, and beside it what it was derived from. Needs no torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from deltageom.deltas.folder import CONFIG, WEIGHTS
from deltageom.deltas.lora_config import LoraConfig
from deltageom.deltas.names import canonical
from deltageom.deltas.tensors import AdapterTensors
from deltageom.derived import combine
from deltageom.derived.combine import Update
from deltageom.derived.derive import Derived
from deltageom.errors import UserError
from deltageom.files import whole_file, write_json
from deltageom.geometry.factored import ThinSvd
from deltageom.study.derived.recipe import Recipe

PREFIX, FACTOR = "base_model.model.", ".lora_A"


def write(derived: Derived, recipe: Recipe, like: Path, folder: Path) -> int:
    """Writes the adapter and selection.json into `folder`, and returns its rank; `like` is a parent's folder.

    Every module has that one rank, the largest that is needed (at least 1), and factors with zeros beyond its own: B is
    u sigma and A is v^T in float32, and lora_alpha is the rank, so that dW = B A. What the configuration says of where
    the factors go and of the base is the parent's. Raises UserError for a parent that adapts parameters that are no
    linear layers, and for numbers that float32 does not hold.
    """
    rank = max(1, *(module.sigma.size for module in derived.update.values()))
    targets = _targets(like, derived.update)
    tensors: dict[str, NDArray[np.float32]] = {}
    for module, of in derived.update.items():
        b, a = _factors(of, rank)
        if not (np.isfinite(b).all() and np.isfinite(a).all()):
            raise UserError(f"{module}: the derived update is too large for float32: lower its coefficients")
        tensors |= {f"{PREFIX}{targets[module]}.lora_B.weight": b, f"{PREFIX}{targets[module]}.lora_A.weight": a}
    config = json.loads((like / CONFIG).read_text(encoding="utf-8")) | {
        **{"r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}},
        **{"lora_dropout": 0.0, "init_lora_weights": True, "inference_mode": True},
    }
    with whole_file(folder / WEIGHTS) as aside:
        save_file(tensors, aside, metadata={"format": "pt"})
    write_json(folder / CONFIG, config)
    write_json(folder / "selection.json", _record(derived, recipe, rank))
    return rank


def _record(derived: Derived, recipe: Recipe, rank: int) -> dict[str, Any]:
    """What a trained run's selection.json has of its selection and its end, this has of its parents."""
    return {
        "derived": recipe.model_dump(mode="json"),
        "parents": recipe.operands(),
        "recipe": recipe.words(),
        "rank": rank,
        "delta_norm": combine.norm(derived.update),
        "coefficient": derived.coefficient,
        "scale": derived.scale,
    }


def _factors(update: ThinSvd, rank: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """B (d_out, rank) and A (rank, d_in)."""
    b = np.zeros((update.u.shape[0], rank), np.float32)
    a = np.zeros((rank, update.v.shape[0]), np.float32)
    own = update.sigma.size
    with np.errstate(over="ignore"):
        b[:, :own], a[:own] = update.u * update.sigma, update.v.T
    return b, a


def _targets(like: Path, update: Update) -> dict[str, str]:
    """Each module's name as the parent's file has it, which is PEFT's."""
    if LoraConfig(like).parameters:
        raise UserError(f"{like}: adapts target_parameters: runs are derived from adapters of linear layers")
    names = [name for name in AdapterTensors(like).names if FACTOR in name]
    targets = [name.partition(FACTOR)[0].removeprefix(PREFIX) for name in names]
    found = {canonical(target): target for target in targets}
    return {module: found[module] for module in update}
