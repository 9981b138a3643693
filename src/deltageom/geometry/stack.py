"""All runs' deltas of one module at once, so that their cross products are one tall product a side."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Protocol

import numpy as np

from deltageom.deltas.delta import Dense, Factors
from deltageom.geometry import factored
from deltageom.geometry.dense_svd import DenseSvd, dense_svd
from deltageom.geometry.factored import Array, ThinSvd

# The basis that a Cholesky factor makes orthonormal is so to eps * cond^2: at most 6e-11 below this condition number.
WELL_CONDITIONED = 500.0


class Stack(Protocol):
    """What the measures need of n deltas. Singular vectors are known up to a common sign of u_i and v_i, and of
    equal singular values up to a rotation among them; no measure depends on the sign."""

    @property
    def sigma(self) -> Sequence[Array]:
        """n times (rank,), > 0, descending."""

    @property
    def errors(self) -> Sequence[dict[str, float]]:
        """n times those of `DenseSvd`; empty where sigma and the vectors are exact to rounding."""

    @property
    def inner(self) -> Array:
        """(n, n): <dW_i, dW_j>."""

    @property
    def left(self) -> Array:
        """(n, n, K, K): the products of the leading left singular vectors u_i^T u_j, zero beyond a rank."""

    @property
    def right(self) -> Array:
        """(n, n, K, K): the same of v."""

    @property
    def adapters(self) -> list[int]:
        """The runs that have an A, ascending: those that are no checkpoints."""

    @property
    def into(self) -> "Side | None":
        """The A of those runs, in that order; None if there are none."""

    def leading(self, run: int, k: int) -> tuple[Array, Array]:
        """The first k left (d_out, k) and right (d_in, k) singular vectors."""

    def orthogonal_fraction(self, a: int, b: int) -> float:
        """|dW_b - Proj_a dW_b| / |dW_b| from the residual itself: sound where the cosine is near 1 or -1."""


@dataclass(frozen=True)
class Side:
    """One factor of each of n runs, (d, r_i), in an orthonormal basis basis_i @ coefficients_i of its own.

    bases: n times (d, r_i), the factor itself or an orthonormal one; coefficients: n times (r_i, r_i);
    triangles: n times (r_i, c_i), factor_i = basis_i @ coefficients_i @ triangle_i;
    gram: (n, n, r, r), basis_i^T basis_j, zero beyond a rank r_i.
    """

    bases: list[Array]
    coefficients: list[Array]
    triangles: list[Array]
    gram: Array

    def products(self, coefficients: Sequence[Array]) -> Array:
        """(n, n, k, k): (basis_i c_i)^T (basis_j c_j) for coefficients c_i (r_i, k_i), zero-padded."""
        padded = _padded(coefficients, self.gram.shape[-1])
        products: Array = padded.transpose(0, 2, 1)[:, None] @ self.gram @ padded[None]
        return products


def side(factors: Sequence[Array]) -> Side:
    """From one tall product of all factors, d x (n r): Cholesky-QR of each, or Householder's where that would lose
    digits, which is several times as slow."""
    bases, gram = list(factors), _gram(factors)
    found = [_cholesky(gram[i, i, :w, :w]) for i, w in enumerate(_widths(factors))]
    by_reflection = [i for i, cholesky in enumerate(found) if cholesky is None]
    for i in by_reflection:
        bases[i], triangle = factored.householder(factors[i])
        found[i] = np.eye(bases[i].shape[1]), triangle
    coefficients, triangles = zip(*(pair for pair in found if pair is not None), strict=True)
    return Side(bases, list(coefficients), list(triangles), _gram(bases) if by_reflection else gram)


def _widths(factors: Sequence[Array]) -> list[int]:
    return [factor.shape[1] for factor in factors]


def _gram(factors: Sequence[Array]) -> Array:
    """(n, n, r, r): factor_i^T factor_j, zero beyond r_i."""
    n, d, width = len(factors), factors[0].shape[0], max(_widths(factors))
    # laid out in memory as the factors are: B row by row, A^T column by column
    joint = np.zeros((d, n * width), order="C" if factors[0].flags.c_contiguous else "F")
    for i, factor in enumerate(factors):
        joint[:, i * width : i * width + factor.shape[1]] = factor
    return np.ascontiguousarray((joint.T @ joint).reshape(n, width, n, width).transpose(0, 2, 1, 3))


def _cholesky(gram: Array) -> tuple[Array, Array] | None:
    """c and t (r, r), upper, with t^T t = gram and c = t^-1; None where the columns behind gram, scaled to norm 1,
    are not well-conditioned."""
    norms = np.sqrt(gram.diagonal())
    if not (norms.min() > 0 and np.isfinite(norms).all()):
        return None
    try:
        lower = np.asarray(np.linalg.cholesky(gram / norms[:, None] / norms), np.float64)
    except np.linalg.LinAlgError:
        return None
    inverse = np.asarray(np.linalg.inv(lower), np.float64).T
    well = np.linalg.norm(inverse) * sqrt(norms.size) < WELL_CONDITIONED
    return (inverse / norms[:, None], lower.T * norms) if well else None


def _padded(blocks: Sequence[Array], rows: int) -> Array:
    columns = max(block.shape[1] for block in blocks)
    padded = np.zeros((len(blocks), rows, columns))
    for i, block in enumerate(blocks):
        padded[i, : block.shape[0], : block.shape[1]] = block
    return padded


class FactoredStack:
    """Deltas scale * b @ a, by the thin factors alone: no d_out x d_in matrix is formed."""

    def __init__(self, deltas: Sequence[Factors]) -> None:
        self.out, self.into = side([delta.b for delta in deltas]), side([delta.a.T for delta in deltas])
        self.adapters = list(range(len(deltas)))
        self.errors: list[dict[str, float]] = [{} for _ in deltas]
        self.sigma: list[Array] = []
        self._left: list[Array] = []  # (r_i, rank_i): the singular vectors in the bases of out and into
        self._right: list[Array] = []
        for i, delta in enumerate(deltas):
            u, sigma, vt = factored.core_svd(delta, self.out.triangles[i], self.into.triangles[i])
            self.sigma.append(sigma)
            self._left.append(self.out.coefficients[i] @ u)
            self._right.append(self.into.coefficients[i] @ vt.T)
        self.left, self.right = self.out.products(self._left), self.into.products(self._right)
        sigma = np.zeros((len(deltas), self.left.shape[-1]))
        for i, values in enumerate(self.sigma):
            sigma[i, : values.size] = values
        self.inner: Array = ((self.left * self.right) @ sigma[None, :, :, None])[..., 0] @ sigma[:, :, None]
        self.inner = self.inner[..., 0]

    def leading(self, run: int, k: int) -> tuple[Array, Array]:
        return self.out.bases[run] @ self._left[run][:, :k], self.into.bases[run] @ self._right[run][:, :k]

    def orthogonal_fraction(self, a: int, b: int) -> float:
        svds = (ThinSvd(u, self.sigma[run], v) for run in (a, b) for u, v in [self.leading(run, self.sigma[run].size)])
        return factored.orthogonal_fraction(*factored.in_common_basis(list(svds)))


class DenseStack:
    """Deltas of which one at least is a whole checkpoint's: dense, d_out x d_in, and their `k` leading directions."""

    def __init__(self, deltas: Sequence[Factors | Dense], k: int) -> None:
        self._dense = [delta.dense() for delta in deltas]
        svds = [dense_svd(d.weight, k) if isinstance(d, Dense) else factored.thin_svd(d) for d in deltas]
        self.sigma = [svd.sigma for svd in svds]
        self.errors = [svd.errors if isinstance(svd, DenseSvd) else {} for svd in svds]
        self._leading = [(svd.u[:, :k], svd.v[:, :k]) for svd in svds]
        self.left, self.right = (side_products([vectors[which] for vectors in self._leading]) for which in (0, 1))
        self.adapters = [i for i, delta in enumerate(deltas) if isinstance(delta, Factors)]
        inputs = [delta.a.T for delta in deltas if isinstance(delta, Factors)]
        self.into = side(inputs) if inputs else None
        flat = [dense.ravel() for dense in self._dense]
        self.inner: Array = np.array([[one @ other for other in flat] for one in flat])

    def leading(self, run: int, k: int) -> tuple[Array, Array]:
        u, v = self._leading[run]
        return u[:, :k], v[:, :k]

    def orthogonal_fraction(self, a: int, b: int) -> float:
        one, other = (self._dense[run] / np.linalg.norm(self.sigma[run]) for run in (a, b))
        return float(np.linalg.norm(other - np.vdot(one, other) * one))


def side_products(vectors: Sequence[Array]) -> Array:
    """(n, n, k, k): vectors_i^T vectors_j of (d, k_i), zero-padded."""
    padded = _padded(vectors, vectors[0].shape[0])
    products: Array = padded.transpose(0, 2, 1)[:, None] @ padded[None]
    return products


def stack(deltas: Sequence[Factors | Dense], k: int) -> Stack:
    """The deltas of one module, of at least `k` leading directions each where they have so many."""
    if all(isinstance(delta, Factors) for delta in deltas):
        return FactoredStack([delta for delta in deltas if isinstance(delta, Factors)])
    return DenseStack(deltas, k)
