"""The numbers of single runs, in each module and over modules."""

import numpy as np
from numpy.typing import NDArray

from deltageom.geometry.aggregate.arrays import ENERGIES, RUN, Modules
from deltageom.geometry.aggregate.chance import mean

Array = NDArray[np.float64]
# A measure with its columns: (runs or pairs, modules) in modules, (runs or pairs,) over them.
Number = tuple[str, dict[str, Array]]


def in_modules(modules: Modules) -> list[Number]:
    found: list[Number] = [(key, {"value": modules.run[key]}) for key in RUN]
    for (measure, k), value in modules.base.items():
        columns = {"value": value, "k": np.full(value.shape, float(k))}
        if measure in ENERGIES:
            columns["chance_fresh_mean"] = modules.base_chance[measure, k]
        found.append((measure, columns))
    if modules.unchanged is not None:
        found.append(("unchanged_bf16", {"value": modules.unchanged}))
    return [(name, _with_zero(columns, modules.run["norm"])) for name, columns in found]


def over_modules(modules: Modules) -> list[Number]:
    norms = modules.run["norm"]
    total = norm(norms)
    found: list[Number] = [("norm", {"value": total, "n_defined": _count(norms > 0)})]
    for key in ("stable_rank", "effective_rank_sigma", "effective_rank_sigma2"):
        value = modules.run[key]
        found.append((f"{key}_mean", {"value": mean(value), "n_defined": _count(~np.isnan(value))}))
    weights = shares(norms, total) ** 2
    for (measure, k), value in modules.base.items():
        name, columns = measure, {"k": np.full(len(total), float(k)), "n_defined": _count(~np.isnan(value))}
        if measure in ENERGIES:  # of the stacked delta: |P D|^2 / |D|^2
            columns["value"] = _weighted(value, weights)
            columns["chance_fresh_mean"] = _weighted(modules.base_chance[measure, k], weights)
        elif measure == "intruders":
            name, columns["value"] = "intruders_sum", mean(value) * columns["n_defined"]
        else:
            name, columns["value"] = f"{measure}_mean", mean(value)
        found.append((name, columns))
    if modules.unchanged is not None:
        value = _weighted(modules.unchanged, np.broadcast_to(modules.shapes.prod(1), norms.shape))
        found.append(("unchanged_bf16", {"value": value, "n_defined": _count(~np.isnan(modules.unchanged))}))
    many = np.full(len(total), float(norms.shape[1]))
    return [(name, _with_zero(columns, total) | {"n_modules": many}) for name, columns in found]


def norm(x: Array) -> Array:
    """Euclidean norm over the last axis, without over- or underflow of squares."""
    top = x.max(-1)
    top = np.where(top == 0, 1.0, top)
    found: Array = top * np.sqrt(((x / top[..., None]) ** 2).sum(-1))
    return found


def shares(norms: Array, total: Array) -> Array:
    """Each module's part of the stacked norm; 0 where all are 0."""
    found: Array = norms / np.where(total == 0, 1.0, total)[:, None]
    return found


def _with_zero(columns: dict[str, Array], norms: Array) -> dict[str, Array]:
    return columns | {"zero": (norms == 0).astype(float)}


def _count(defined: NDArray[np.bool_]) -> Array:
    found: Array = defined.sum(-1).astype(float)
    return found


def _weighted(values: Array, weights: Array) -> Array:
    """Weighted mean over the modules where there is a value; NaN where these have no weight."""
    weights = np.where(np.isnan(values), 0.0, weights)
    with np.errstate(invalid="ignore"):
        found: Array = np.where(weights > 0, values * weights, 0.0).sum(-1) / weights.sum(-1)
    return found
