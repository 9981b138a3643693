"""Linear algebra of low-rank matrices in float64, from thin factors: no d_out x d_in matrix is formed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deltageom.deltas.delta import Factors

Array = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class ThinSvd:
    """dW = u diag(sigma) v^T: u (d_out, rank), v (d_in, rank) orthonormal, sigma (rank,) > 0, descending."""

    u: Array
    sigma: Array
    v: Array


def householder(matrix: Array) -> tuple[Array, Array]:
    """The QR decomposition of (d, r): orthonormal (d, min(d, r)) and upper triangular."""
    q: Array
    r: Array
    q, r = np.linalg.qr(matrix)
    return q, r


def thin_svd(factors: Factors) -> ThinSvd:
    """The SVD of scale * b @ a, cut at its numerical rank, from QR of b and of a^T and an SVD of r x r."""
    q_b, r_b = householder(factors.b)
    q_a, r_a = householder(factors.a.T)
    u, sigma, vt = core_svd(factors, r_b, r_a)
    return ThinSvd(q_b @ u, sigma, q_a @ vt.T)


def core_svd(factors: Factors, r_b: Array, r_a: Array) -> tuple[Array, Array, Array]:
    """The SVD of scale * r_b @ r_a^T, cut at the numerical rank of the delta: u (r, rank), sigma, vt (rank, r).

    Counted as zero: singular values up to sigma_1 max(d_out, d_in) eps, and up to the rounding error
    scale r eps |b| |a| of the product, which is larger where b and a nearly cancel.
    """
    u, sigma, vt = np.linalg.svd(factors.scale * (r_b @ r_a.T), full_matrices=False)
    rounding = abs(factors.scale) * np.linalg.norm(r_b) * np.linalg.norm(r_a) * factors.b.shape[1] * EPS
    zero = max(sigma[0] * max(factors.b.shape[0], factors.a.shape[1]) * EPS, rounding)
    rank = int((sigma > zero).sum())
    return u[:, :rank], sigma[:rank], vt[:rank]


def in_common_basis(deltas: Sequence[ThinSvd]) -> list[ThinSvd]:
    """The same deltas in coordinates of one orthonormal basis a side, of at most the sum of their ranks.

    Every inner product and angle stays as it is, and d_out and d_in no longer enter the cost of a pair.
    """
    u = _coordinates([delta.u for delta in deltas])
    v = _coordinates([delta.v for delta in deltas])
    return [ThinSvd(a, delta.sigma, b) for a, delta, b in zip(u, deltas, v, strict=True)]


def _coordinates(blocks: list[Array]) -> list[Array]:
    joint = np.linalg.qr(np.hstack(blocks), mode="r")
    return np.split(joint, np.cumsum([block.shape[1] for block in blocks])[:-1], axis=1)


def norm(delta: ThinSvd) -> float:
    """Frobenius norm."""
    return float(np.linalg.norm(delta.sigma))


def inner(a: ThinSvd, b: ThinSvd) -> float:
    """<dW_a, dW_b> = tr(dW_a^T dW_b) by the r x r trace formula, on orthonormal factors."""
    return float(a.sigma @ ((a.u.T @ b.u) * (a.v.T @ b.v)) @ b.sigma)


def cosine(a: ThinSvd, b: ThinSvd) -> float:
    """<dW_a, dW_b> / (|dW_a| |dW_b|), for deltas that are not zero."""
    return min(1.0, max(-1.0, inner(a, b) / (norm(a) * norm(b))))


def orthogonal_fraction(a: ThinSvd, b: ThinSvd) -> float:
    """|dW_b - Proj_a dW_b| / |dW_b| = sqrt(1 - cosine^2), symmetric in a and b; for deltas not zero.

    From the residual itself: near a cosine of 1 the square root keeps only half the digits.
    """
    cos = cosine(a, b)
    unit_a, unit_b = ((delta.u * (delta.sigma / norm(delta))) @ delta.v.T for delta in (a, b))
    return float(np.linalg.norm(unit_b - cos * unit_a))


def cosines(products: Array) -> Array:
    """Cosines of the principal angles, descending, (..., k), from a^T b (..., k, k) of orthonormal a and b."""
    values: Array = np.clip(np.linalg.svd(products, compute_uv=False), 0.0, 1.0)
    return values


def rough_cosines(products: Array) -> Array:
    """As `cosines`, to 1e-8 alone, in half the time."""
    squares = np.linalg.eigvalsh(products.swapaxes(-1, -2) @ products)[..., ::-1]
    values: Array = np.sqrt(np.clip(squares, 0.0, 1.0))
    return values


def principal_angles(a: Array, b: Array) -> Array:
    """Angles in degrees, ascending, (k,), between the spans of orthonormal a and b, both (d, k).

    Björck & Golub 1973: cosines are the singular values of a^T b, sines those of b - a a^T b. Both together
    are accurate to rounding at every angle; the arccos alone would lose half the digits near 0.
    """
    cross = a.T @ b
    cosines = np.linalg.svd(cross, compute_uv=False)
    sines = np.linalg.svd(b - a @ cross, compute_uv=False)[::-1]
    angles: Array = np.degrees(np.arctan2(sines, cosines))
    return angles


def effective_rank(weights: Array) -> float:
    """exp of the entropy of weights / sum(weights), weights > 0 (Roy & Vetterli 2007 for weights = sigma)."""
    p = weights / weights.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def stable_rank(sigma: Array) -> float:
    """|dW|_F^2 / |dW|_2^2."""
    return float(((sigma / sigma[0]) ** 2).sum())
