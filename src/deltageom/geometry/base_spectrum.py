"""The leading singular triplets of a base's weight, and of a weight that is near it, without a full SVD."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deltageom.errors import UserError
from deltageom.geometry.factored import EPS, Array

RANK = 64  # of the base's triplets: a top 10 whose vectors come from among the base's first 64 is told from intruders
TOLERANCE = 1e-8  # of a triplet's residual relative to sigma_1; the error of a singular value is of its square
DENSE = 512  # up to this smaller side LAPACK is as quick
GUARD = 16  # oversampling: triplets carried beyond those asked
STEPS = 100
SEED = 0

Product = Callable[[Array], Array]


@dataclass(frozen=True)
class BaseSpectrum:
    """W ~ u diag(sigma) v^T of the K largest singular values of a weight W (d_out, d_in), float64.

    u (d_out, K), sigma (K,) descending, v (d_in, K); residual: the largest |W v_i - sigma_i u_i| or
    |W^T u_i - sigma_i v_i| over sigma_1, as attained; frobenius: |W|_F; exact: K = min(d_out, d_in), by LAPACK.
    """

    u: Array
    sigma: Array
    v: Array
    residual: float
    frobenius: float
    exact: bool


def base_spectrum(weight: Array, rank: int = RANK, seed: int = SEED) -> BaseSpectrum:
    """The `rank` leading singular triplets of weight (d_out, d_in), float64.

    All of them, by LAPACK, where the smaller side is at most DENSE or 4 rank; else by the block Krylov iteration of
    `leading_triplets` from a Gaussian start of rank + GUARD columns (Halko, Martinsson & Tropp 2011). The same seed
    gives the same triplets. A residual above TOLERANCE means that STEPS did not do: it is kept, not hidden.
    Raises UserError if weight is no matrix of finite numbers or rank is not positive.
    """
    if weight.ndim != 2 or not weight.size or not np.isfinite(weight).all():
        raise UserError(f"a weight must be a matrix of finite numbers, not of shape {weight.shape} or with NaN")
    if rank < 1:
        raise UserError(f"rank must be at least 1, not {rank}")
    exact = min(weight.shape) <= max(DENSE, 4 * rank)
    if exact:
        u, sigma, vt = np.linalg.svd(weight, full_matrices=False)
        v = np.ascontiguousarray(vt.T)
    else:
        start = np.random.default_rng(seed).standard_normal((weight.shape[1], rank + GUARD))
        u, sigma, v = leading_triplets(weight.__matmul__, weight.T.__matmul__, start, rank)
    attained = relative_residual(weight.__matmul__, weight.T.__matmul__, u, sigma, v)
    return BaseSpectrum(u, sigma, v, attained, float(np.linalg.norm(weight)), exact)


def leading_triplets(
    apply: Product, transposed: Product, start: Array, count: int, tolerance: float = TOLERANCE
) -> tuple[Array, Array, Array]:
    """u (d_out, count), sigma (count,) descending and v (d_in, count) of a matrix W known by its products.

    apply: (d_in, n) -> W x (d_out, n); transposed: (d_out, n) -> W^T x; start (d_in, >= count): columns whose span is
    near the leading right singular vectors, random ones among them, for what is orthogonal to start is never found.
    Block Krylov iteration (Musco & Musco 2015): Rayleigh-Ritz on a basis to which the residuals W^T u - sigma v of
    the leading count + GUARD pairs are added until those of the first `count` are at most tolerance sigma_1; the
    basis is cut back to its leading pairs when it is full. Plain subspace iteration would need the square of the
    steps on a spectrum that decays slowly.
    """
    basis = np.linalg.qr(start)[0]
    image = apply(basis)
    room = basis.shape[1] + 4 * (count + GUARD)
    for _ in range(STEPS):
        left, sigma, mix = np.linalg.svd(image, full_matrices=False)
        carried = min(count + GUARD, sigma.size)
        u, sigma, v = left[:, :carried], sigma[:carried], basis @ mix[:carried].T
        rest = transposed(u) - v * sigma
        norms = np.linalg.norm(rest, axis=0)
        open_ = norms > tolerance * sigma[0]
        if not open_[:count].any():
            break
        if basis.shape[1] + open_.sum() > min(room, basis.shape[0]):
            basis, image = v, u * sigma
        added = _orthonormal_beyond(basis, rest[:, open_] / norms[open_])
        basis, image = np.hstack([basis, added]), np.hstack([image, apply(added)])
    return u[:, :count].copy(), sigma[:count].copy(), v[:, :count].copy()


def _orthonormal_beyond(basis: Array, block: Array) -> Array:
    """An orthonormal basis of what block's columns, of norm 1, add to the span of basis; twice is enough."""
    block = block - basis @ (basis.T @ block)
    left, sizes, _ = np.linalg.svd(block, full_matrices=False)
    left = left[:, sizes > np.sqrt(EPS)]
    added: Array = np.linalg.qr(left - basis @ (basis.T @ left))[0]
    return added


def relative_residual(apply: Product, transposed: Product, u: Array, sigma: Array, v: Array) -> float:
    """max_i of |W v_i - sigma_i u_i| and |W^T u_i - sigma_i v_i|, over sigma_1; 0 for a zero matrix."""
    rest = np.linalg.norm(apply(v) - u * sigma, axis=0), np.linalg.norm(transposed(u) - v * sigma, axis=0)
    return float(np.max(rest) / sigma[0]) if sigma[0] > 0 else 0.0
