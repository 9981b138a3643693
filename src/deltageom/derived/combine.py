"""Sums, projections and scalings of weight updates in float64, from thin factors: no d_out x d_in matrix is formed.

An update is its modules' singular value decompositions, each cut at its numerical rank; a zero module has rank 0.
"""

from collections.abc import Callable, Mapping, Sequence
from math import fsum, sqrt

import numpy as np

from deltageom.deltas.delta import Factors
from deltageom.geometry import factored
from deltageom.geometry.factored import ThinSvd

Update = dict[str, ThinSvd]
Read = Callable[[str], ThinSvd]  # the update of a run in one module


def summed(terms: Sequence[tuple[float, ThinSvd]]) -> ThinSvd:
    """The sum of c * dW over (c, dW), from the stacked factors, of the sum of their ranks, by QR and a small SVD.

    The factors that are stacked are u sigma and v, which are of one scale in all terms whatever scales their own b and
    a had. So what is dropped as rounding is below a few eps times the norm of the largest term.
    """
    b = np.hstack([coefficient * term.u * term.sigma for coefficient, term in terms])
    a = np.hstack([term.v for _, term in terms]).T
    return factored.thin_svd(Factors(b, a, 1.0)) if b.shape[1] else terms[0][1]


def scaled(update: ThinSvd, factor: float) -> ThinSvd:
    if not factor:
        return zero(update)
    return ThinSvd(update.u * np.copysign(1.0, factor), update.sigma * abs(factor), update.v)


def zero(update: ThinSvd) -> ThinSvd:
    """Nothing, of the same shape."""
    return truncated(update, 0)


def truncated(update: ThinSvd, rank: int) -> ThinSvd:
    """The best approximation of at most this rank (Eckart & Young 1936)."""
    return ThinSvd(update.u[:, :rank], update.sigma[:rank], update.v[:, :rank])


def norm(update: Mapping[str, ThinSvd]) -> float:
    """Frobenius norm of all modules together."""
    return sqrt(fsum(factored.norm(module) ** 2 for module in update.values()))


def coefficients(update: Mapping[str, ThinSvd], other: Read, by_module: bool) -> dict[str, float]:
    """<a, b> / <b, b> in each module: with `by_module` of that module, else of all modules stacked and the same in all.

    Where b is zero there is nothing to project on, and the coefficient is 0.
    """
    inner, square = {}, {}
    for module, of in update.items():
        b = other(module)
        inner[module], square[module] = factored.inner(of, b), factored.norm(b) ** 2
    if by_module:
        return {module: _ratio(inner[module], square[module]) for module in update}
    return dict.fromkeys(update, _ratio(fsum(inner.values()), fsum(square.values())))


def _ratio(inner: float, square: float) -> float:
    return inner / square if square else 0.0
