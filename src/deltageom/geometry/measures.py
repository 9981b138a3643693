"""All numbers about one module: a row a run, a row a pair of runs, ready for JSON (None where undefined)."""

from itertools import combinations
from typing import Any

import numpy as np

from deltageom.adapters import Factors
from deltageom.errors import UserError
from deltageom.geometry import factored
from deltageom.geometry.factored import ThinSvd

ZERO = "zero delta"  # why a row has undefined values


def measure_module(factors: dict[str, Factors], top_k: int) -> dict[str, Any]:
    """{"runs": [...], "pairs": [...]} of one module, from each run's factors; pairs with a < b, sorted.

    Run row: norm (Frobenius), spectral_norm, stable_rank, effective_rank_sigma and effective_rank_sigma2 (exp
    entropy of the normalised sigma, of the normalised sigma^2), rank (numerical), singular_values (rank,).
    Pair row: inner, cosine, orthogonal_fraction (symmetric), k = min(top_k, both ranks), left_angles and
    right_angles (degrees, ascending, (k,)) between the top-k left (d_out) and right (d_in) singular
    subspaces, left_overlap and right_overlap (mean cos^2 of those), u1_overlap and v1_overlap (|<u1, u1'>|,
    |<v1, v1'>|). `reason` is None, or says why the values are.
    Raises UserError, naming two runs, if their modules differ in shape.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    names = sorted(factors)
    _same_shape({name: factors[name] for name in names})
    deltas = {name: factored.thin_svd(factors[name]) for name in names}
    common = dict(zip(names, factored.in_common_basis([deltas[name] for name in names]), strict=True))
    return {
        "runs": [_run(name, deltas[name]) for name in names],
        "pairs": [_pair(a, b, common[a], common[b], top_k) for a, b in combinations(names, 2)],
    }


def _same_shape(factors: dict[str, Factors]) -> None:
    shapes = {name: (f.b.shape[0], f.a.shape[1]) for name, f in factors.items()}
    first = next(iter(shapes), None)
    for name, shape in shapes.items():
        if first is not None and shape != shapes[first]:
            raise UserError(
                f"runs {first!r} {shapes[first]} and {name!r} {shape} differ in the shape of this module: "
                "compare adapters of one base model"
            )


def _run(name: str, delta: ThinSvd) -> dict[str, Any]:
    sigma, zero = delta.sigma, delta.rank == 0
    return {
        "run": name,
        "norm": factored.norm(delta),
        "spectral_norm": 0.0 if zero else float(sigma[0]),
        "stable_rank": None if zero else factored.stable_rank(sigma),
        "effective_rank_sigma": None if zero else factored.effective_rank(sigma),
        "effective_rank_sigma2": None if zero else factored.effective_rank((sigma / sigma[0]) ** 2),
        "rank": delta.rank,
        "singular_values": sigma.tolist(),
        "reason": ZERO if zero else None,
    }


def _pair(a: str, b: str, delta_a: ThinSvd, delta_b: ThinSvd, top_k: int) -> dict[str, Any]:
    k = min(top_k, delta_a.rank, delta_b.rank)
    row: dict[str, Any] = {"a": a, "b": b, "inner": factored.inner(delta_a, delta_b)}
    if k == 0:
        undefined = ("left_overlap", "right_overlap", "u1_overlap", "v1_overlap")
        row |= {"cosine": None, "orthogonal_fraction": None, "k": 0, "left_angles": [], "right_angles": []}
        return row | dict.fromkeys(undefined) | {"reason": ZERO}
    left = factored.principal_angles(delta_a.u[:, :k], delta_b.u[:, :k])
    right = factored.principal_angles(delta_a.v[:, :k], delta_b.v[:, :k])
    return row | {
        "cosine": factored.cosine(delta_a, delta_b),
        "orthogonal_fraction": factored.orthogonal_fraction(delta_a, delta_b),
        "k": k,
        "left_angles": left.tolist(),
        "right_angles": right.tolist(),
        "left_overlap": float((np.cos(np.radians(left)) ** 2).mean()),
        "right_overlap": float((np.cos(np.radians(right)) ** 2).mean()),
        "u1_overlap": float(abs(delta_a.u[:, 0] @ delta_b.u[:, 0])),
        "v1_overlap": float(abs(delta_a.v[:, 0] @ delta_b.v[:, 0])),
        "reason": None,
    }
