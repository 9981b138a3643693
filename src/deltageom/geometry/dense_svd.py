"""The singular values of a dense delta and its leading singular vectors, with their errors, without a whole SVD."""

from dataclasses import dataclass, replace
from math import pi, sqrt

import numpy as np

from deltageom.geometry.base_spectrum import DENSE, GUARD, SEED, leading_triplets, relative_residual
from deltageom.geometry.factored import EPS, Array

PROBES = 10  # the error of the squares is under its bound but for a probability of 10^-PROBES
RESOLVED = 1e-2  # a singular value's bound relative to itself, above which LAPACK finds it without squares


@dataclass(frozen=True)
class DenseSvd:
    """The singular values sigma (rank,) of dW, > 0, descending, and its first K = min(k, rank) singular vectors,
    u (d_out, K) and v (d_in, K).

    errors: empty if LAPACK decomposed dW whole; else "singular_value": a bound of every |error| of sigma, absolute;
    "residual": the largest |dW v_i - sigma_i u_i| or |dW^T u_i - sigma_i v_i|, over sigma_1. It bounds the angle
    between the first j found vectors and the true ones, in radians, by some residual sigma_1 / (sigma_j -
    sigma_(j+1)) (Wedin 1972).
    """

    u: Array
    sigma: Array
    v: Array
    errors: dict[str, float]


def dense_svd(weight: Array, k: int) -> DenseSvd:
    """Of a delta (d_out, d_in), float64, cut at its numerical rank sigma_1 max(d_out, d_in) eps.

    LAPACK decomposes it whole where the smaller side is at most DENSE or 4 k. Else sigma are the square roots of the
    eigenvalues of dW^T dW, or of dW dW^T, whichever is smaller. These are known to a beta of some 1e-12 sigma_1^2
    (`_error`), and so sigma to beta / sigma. If that is too much for the smallest, LAPACK finds all sigma from dW
    itself, though no vectors. The leading eigenvectors are where `leading_triplets` starts, so that the triplets are
    dW's own, to a residual of rounding. If they are not, or not those of the first sigma, LAPACK decomposes it whole.
    """
    if min(weight.shape) <= max(DENSE, 4 * k):
        return _whole(weight, k)
    if weight.shape[0] < weight.shape[1]:
        found = dense_svd(weight.T, k)
        return replace(found, u=found.v, v=found.u)
    if not weight.any():
        return DenseSvd(weight[:, :0], np.zeros(0), weight[:0].T, {})
    rounding = max(weight.shape) * EPS
    gram = weight.T @ weight
    squares, start = _eigen(gram, k + GUARD)
    beta = _error(gram, weight) + rounding * squares[0]
    if squares[-1] * RESOLVED > beta:
        sigma = np.sqrt(squares)
        error = beta / sigma[-1]
    else:
        sigma = np.linalg.svd(np.linalg.qr(weight, mode="r"), compute_uv=False)
        error = rounding * sigma[0]
        sigma = sigma[sigma > error]
    products = weight.__matmul__, weight.T.__matmul__
    u, leading, v = leading_triplets(*products, start, min(k, sigma.size), rounding)
    residual = relative_residual(*products, u, leading, v)
    if residual > rounding or (abs(leading - sigma[: leading.size]) > error).any():  # no triplets, or not the first
        return _whole(weight, k)
    return DenseSvd(u, sigma, v, {"singular_value": float(error), "residual": residual})


def _whole(weight: Array, k: int) -> DenseSvd:
    u, sigma, vt = np.linalg.svd(weight, full_matrices=False)
    rank = int((sigma > sigma[0] * max(weight.shape) * EPS).sum())
    return DenseSvd(u[:, :rank][:, :k], sigma[:rank], vt[:rank].T[:, :k], {})


def _eigen(gram: Array, count: int) -> tuple[Array, Array]:
    """All eigenvalues of a symmetric matrix (d, d), descending, and eigenvectors (d, count) of the first, from one
    reduction to tridiagonal form; eigenvectors of all would take twice as long. Where LAPACK does not tell some of
    them apart, as happens if many are equal but for rounding, columns at random in their place."""
    # here, since it takes longer to import than all else, and adapters never need it
    from scipy.linalg import eigh_tridiagonal, eigvalsh_tridiagonal, lapack

    d = len(gram)
    work = int(lapack.dsytrd_lwork(d, lower=1)[0])
    reflections, diagonal, beside, tau, _ = lapack.dsytrd(gram, lower=1, lwork=work)
    values = np.asarray(eigvalsh_tridiagonal(diagonal, beside), np.float64)
    last = d - count, d - 1  # LAPACK's eigenvalues ascend
    try:
        found = eigh_tridiagonal(diagonal, beside, select="i", select_range=last, lapack_driver="stemr")
    except np.linalg.LinAlgError:
        return values[::-1], np.random.default_rng(SEED).standard_normal((d, count))
    vectors = np.asarray(found[1], np.float64)
    vectors[1:] = lapack.dormqr("L", "N", reflections[1:, :-1], tau, vectors[1:], 64 * count)[0]
    return values[::-1], vectors[:, ::-1]


def _error(gram: Array, weight: Array) -> float:
    """A bound of the spectral norm of gram - weight^T weight, from Gaussian vectors (Halko, Martinsson & Tropp 2011,
    eq. 4.3, alpha = 10)."""
    probes = np.random.default_rng(SEED).standard_normal((len(gram), PROBES))
    missed = np.linalg.norm(gram @ probes - weight.T @ (weight @ probes), axis=0)
    return 10 * sqrt(2 / pi) * float(missed.max())
