"""What a delta does to its base: energy in the leading subspaces, spectral drift, intruders, unchanged weights."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deltageom.deltas.delta import Dense, Factors
from deltageom.deltas.tensors import rounded
from deltageom.errors import UserError
from deltageom.geometry.base_spectrum import (
    DENSE,
    GUARD,
    SEED,
    BaseSpectrum,
    Product,
    leading_triplets,
    relative_residual,
)
from deltageom.geometry.factored import Array, thin_svd

EPSILON = 0.5  # |cosine| below which a singular vector is an intruder: PEFT's default, within the paper's range
BLOCK = 2**20  # weights that are rounded at once


def against_base(
    weight: Array, spectrum: BaseSpectrum, delta: Factors | Dense, top_ks: Sequence[int]
) -> dict[str, Any]:
    """The measures of a delta dW against the base's W (d_out, d_in), float64, for every asked k; JSON-ready.

    `spectrum` is that of W. Each list holds one entry an asked k, ascending, with "top_k" (asked), "k" = min(asked,
    d_out, d_in) (used) and "value":
    output_energy |U_k^T dW|_F^2 / |dW|_F^2 and input_energy |dW V_k|_F^2 / |dW|_F^2, for W's leading singular
    vectors U_k, V_k, with "chance": k / d_out and k / d_in, what a dW of isotropic directions has on average;
    spectral_drift |s_k(W + dW) - s_k(W)|_2 / |s_k(W)|_2 of the k largest singular values (2511.08567), None for a
    W of zeros; intruders: see `intruders` (2410.21228), with "certain".
    unchanged_bf16: see there (2505.11711). spectral_residual: the attained residual of the triplets of W + dW,
    relative to their sigma_1; drift is limited by it, at worst linearly and, away from equal sigma, by its square.
    A zero dW has no energies (None); its drift and intruders are 0, since W's vectors are all its own.
    Raises UserError if delta or spectrum is of another shape than W, or a k is not 1 or more or above the triplets
    known.
    """
    used = _used(weight, spectrum, delta, top_ks)
    is_zero, output, into = _energies(spectrum, delta, max(used.values()))
    if is_zero:
        u, sigma, residual = spectrum.u, spectrum.sigma, spectrum.residual
    else:
        u, sigma, residual = _merged_triplets(weight, spectrum, delta, max(used.values()))

    def rows(measure: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"top_k": top_k, "k": k} | measure(k) for top_k, k in sorted(used.items())]

    def energy(shares: Array, d: int) -> list[dict[str, Any]]:
        return rows(lambda k: {"value": None if is_zero else float(shares[k - 1]), "chance": k / d})

    return {
        "input_energy": energy(into, weight.shape[1]),
        "output_energy": energy(output, weight.shape[0]),
        "spectral_drift": rows(lambda k: {"value": _drift(spectrum.sigma[:k], sigma[:k])}),
        "intruders": rows(lambda k: intruders(spectrum, u[:, :k])),
        "unchanged_bf16": unchanged_bf16(weight, delta),
        "spectral_residual": residual,
    }


def intruders(spectrum: BaseSpectrum, u: Array) -> dict[str, Any]:
    """Intruder dimensions (Shuttleworth et al. 2024) among the leading left singular vectors u (d_out, k) of W + dW.

    "value": how many have an absolute cosine below EPSILON with each left singular vector of W that is known, so an
    upper bound on the count over all of them. "certain": whether it is the count itself: all are known (exact), or
    each vector counted keeps less than EPSILON of its length outside the span of those known. Within equal singular
    values of W vectors are no property of W, and neither are cosines with them.
    """
    cosines = spectrum.u.T @ u
    counted = np.abs(cosines).max(axis=0) < EPSILON
    outside = np.linalg.norm(u - spectrum.u @ cosines, axis=0)
    certain = spectrum.exact or not (counted & (outside >= EPSILON)).any()
    return {"value": int(counted.sum()), "certain": bool(certain)}


def unchanged_bf16(weight: Array, delta: Factors | Dense) -> float:
    """The share of weights with bf16(W + dW) = bf16(W), summed in float64, rounded as torch casts (2505.11711)."""
    same, rows = 0, max(1, BLOCK // weight.shape[1])
    for first in range(0, weight.shape[0], rows):
        block = slice(first, first + rows)
        step = delta.weight[block] if isinstance(delta, Dense) else (delta.scale * delta.b[block]) @ delta.a
        same += int(np.count_nonzero(rounded(weight[block] + step, "BF16") == rounded(weight[block], "BF16")))
    return same / weight.size


def _used(weight: Array, spectrum: BaseSpectrum, delta: Factors | Dense, top_ks: Sequence[int]) -> dict[int, int]:
    """Each asked k and the k used."""
    known = (spectrum.u.shape[0], spectrum.v.shape[0])
    if not delta.shape == known == weight.shape:
        raise UserError(f"the base's weight is {weight.shape}, but its spectrum {known} and the delta {delta.shape}")
    if not top_ks or min(top_ks) < 1:
        raise UserError(f"top_k must be whole numbers from 1, not {list(top_ks)}")
    if max(top_ks) > spectrum.sigma.size and not spectrum.exact:
        raise UserError(
            f"top_k {max(top_ks)} is above the {spectrum.sigma.size} triplets of the base's spectrum: "
            "ask for fewer, or compute the spectrum with a higher rank"
        )
    return {k: min(k, *weight.shape) for k in top_ks}


def _energies(spectrum: BaseSpectrum, delta: Factors | Dense, k: int) -> tuple[bool, Array, Array]:
    """Whether dW is zero; and the energy in the first 1 ... k left and right vectors, (k,) each."""
    u, v = spectrum.u[:, :k], spectrum.v[:, :k]
    if isinstance(delta, Dense):
        output, into, norm = u.T @ delta.weight, v.T @ delta.weight.T, np.linalg.norm(delta.weight)
    else:
        svd = thin_svd(delta)
        output, into, norm = (u.T @ svd.u) * svd.sigma, (v.T @ svd.v) * svd.sigma, np.linalg.norm(svd.sigma)
    if norm == 0:
        return True, np.zeros(k), np.zeros(k)
    shares = [np.cumsum((np.linalg.norm(side, axis=1) / norm) ** 2) for side in (output, into)]
    return False, np.minimum(shares[0], 1.0), np.minimum(shares[1], 1.0)


def _merged_triplets(
    weight: Array, spectrum: BaseSpectrum, delta: Factors | Dense, k: int
) -> tuple[Array, Array, float]:
    """The first k left singular vectors (d_out, k) and singular values of W + dW, and their residual."""
    apply, transposed = _products(weight, delta)
    if min(weight.shape) <= DENSE:
        u, sigma, vt = np.linalg.svd(weight + delta.dense(), full_matrices=False)
        u, sigma, v = u[:, :k], sigma[:k], vt[:k].T
    else:
        # what is orthogonal to all that dW and W's leading vectors span comes in by random combinations of W + dW
        random = np.random.default_rng(SEED).standard_normal((weight.shape[0], GUARD))
        own = [] if isinstance(delta, Dense) else [delta.a.T]
        start = np.hstack([spectrum.v[:, : k + GUARD], *own, transposed(random)])
        u, sigma, v = leading_triplets(apply, transposed, start, k)
    return u, sigma, relative_residual(apply, transposed, u, sigma, v)


def _products(weight: Array, delta: Factors | Dense) -> tuple[Product, Product]:
    """x -> (W + dW) x and y -> (W + dW)^T y; thin factors are applied apart."""
    if isinstance(delta, Dense):
        merged = weight + delta.weight
        return merged.__matmul__, merged.T.__matmul__
    b, a = delta.scale * delta.b, delta.a
    return (lambda x: weight @ x + b @ (a @ x)), (lambda y: weight.T @ y + a.T @ (b.T @ y))


def _drift(before: Array, after: Array) -> float | None:
    size = np.linalg.norm(before)
    return float(np.linalg.norm(after - before) / size) if size > 0 else None
