"""All numbers about one module: a row per run, a row per pair of runs, ready for JSON (None where undefined)."""

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltageom.deltas.delta import Dense, Factors
from deltageom.errors import UserError
from deltageom.geometry import factored, quantiles, random_factors
from deltageom.geometry.factored import Array
from deltageom.geometry.random_subspaces import ANGLES, DRAWS
from deltageom.geometry.stack import Stack, stack

Row = dict[str, Any]
Pair = tuple[str, str]
Indices = NDArray[np.intp]

ZERO = "zero delta"  # why a row has undefined values
# Products of factors are exact to 6e-11 at least, see `stack`: nearer to a cosine of 1 these would lose digits,
SMALL = 1e-2  # in radians the arccos, which would not be good to 1e-6 degrees,
NEARLY_PARALLEL = 0.99  # and sqrt(1 - cosine^2), which would not be good to 1e-9


def measure_module(
    module: str,
    deltas: Mapping[str, Factors | Dense],
    top_ks: Sequence[int],
    pairs: Collection[Pair] | None = None,
    draws: int | None = DRAWS,
) -> dict[str, list[Row]]:
    """{"runs": [...], "pairs": [...]} of one module, from each run's delta; `pairs` (a < b): those asked for, or all;
    `draws`: how many random B each run gets, at least 2, None for as few as `random_factors.few` says.

    Run row: norm (Frobenius), spectral_norm, stable_rank, effective_rank_sigma and effective_rank_sigma2 (exp
    entropy of the normalised sigma, of the normalised sigma^2), rank (numerical), singular_values (rank,);
    `errors`, of a large dense delta: see `DenseSvd`.
    Pair row: inner, cosine, coefficient_a_on_b (<a, b> / <b, b>, of a's projection on b) and _b_on_a,
    orthogonal_fraction (symmetric), u1_overlap and v1_overlap (|<u1, u1'>|, |<v1, v1'>|); `angles`, a row an asked
    k: top_k, k = min(top_k, both ranks), left and right (degrees, ascending, (k,)) between the top-k left (d_out)
    and right (d_in) singular subspaces; `chance`: the standard deviation of the cosine of random deltas, and of
    `draws` of the right side, see `random_factors`, the mean, sd and quantiles, see `quantiles`. `reason` is None, or
    says why the values are.
    Raises UserError, naming two runs, if their modules differ in shape.
    """
    if not top_ks or min(top_ks) < 1:
        raise ValueError(f"top_ks must be at least 1, not {top_ks}")
    names = sorted(deltas)
    shape = _one_shape(module, {name: deltas[name] for name in names})
    asked = sorted(combinations(names, 2) if pairs is None else pairs)
    of_module = stack([deltas[name] for name in names], max(top_ks))
    sigma = dict(zip(names, of_module.sigma, strict=True))
    defined = [(a, b) for a, b in asked if sigma[a].size and sigma[b].size]
    rows = {(a, b): _undefined(a, b) for a, b in asked}
    if defined:
        measured = _Pairs(of_module, module, names, defined, shape, draws)
        rows |= dict(zip(defined, measured.rows(sorted(set(top_ks))), strict=True))
    errors = [{"errors": of_run} if of_run else {} for of_run in of_module.errors]
    runs = [_run(name, sigma[name]) | of_run for name, of_run in zip(names, errors, strict=True)]
    return {"runs": runs, "pairs": [rows[pair] for pair in asked]}


def _one_shape(module: str, deltas: Mapping[str, Factors | Dense]) -> tuple[int, int]:
    shapes = {name: delta.shape for name, delta in deltas.items()}
    first = next(iter(shapes))
    for name, shape in shapes.items():
        if shape != shapes[first]:
            raise UserError(
                f"runs {first!r} {shapes[first]} and {name!r} {shape} differ in the shape of {module}: "
                "compare adapters of one base model"
            )
    return shapes[first]


def _run(name: str, sigma: Array) -> Row:
    zero = sigma.size == 0
    return {
        "run": name,
        "norm": float(np.linalg.norm(sigma)),
        "spectral_norm": 0.0 if zero else float(sigma[0]),
        "stable_rank": None if zero else factored.stable_rank(sigma),
        "effective_rank_sigma": None if zero else factored.effective_rank(sigma),
        "effective_rank_sigma2": None if zero else factored.effective_rank((sigma / sigma[0]) ** 2),
        "rank": sigma.size,
        "singular_values": sigma.tolist(),
        "reason": ZERO if zero else None,
    }


def _undefined(a: str, b: str) -> Row:
    numbers = ("cosine", "coefficient_a_on_b", "coefficient_b_on_a", "orthogonal_fraction", "u1_overlap", "v1_overlap")
    return {"a": a, "b": b, "inner": 0.0, **dict.fromkeys(numbers), "angles": [], "chance": None, "reason": ZERO}


class _Pairs:
    """Pairs of deltas that are not zero, measured together."""

    def __init__(
        self,
        of_module: Stack,
        module: str,
        names: list[str],
        pairs: list[Pair],
        shape: tuple[int, int],
        draws: int | None,
    ) -> None:
        self.stack, self.module, self.names, self.pairs, self.shape = of_module, module, names, pairs, shape
        self.draws = draws
        self.a, self.b = (np.array([names.index(pair[which]) for pair in pairs]) for which in (0, 1))
        self.ranks = np.array([sigma.size for sigma in of_module.sigma])
        self.norms = np.array([np.linalg.norm(sigma) for sigma in of_module.sigma])

    def rows(self, top_ks: list[int]) -> list[Row]:
        a, b, norm_a, norm_b = self.a, self.b, self.norms[self.a], self.norms[self.b]
        inner = self.stack.inner[a, b]
        cosine = np.clip(inner / norm_a / norm_b, -1.0, 1.0)
        columns = {
            "inner": inner,
            "cosine": cosine,
            "coefficient_a_on_b": cosine * norm_a / norm_b,
            "coefficient_b_on_a": cosine * norm_b / norm_a,
            "orthogonal_fraction": self._orthogonal_fraction(cosine),
            "u1_overlap": abs(self.stack.left[a, b, 0, 0]),
            "v1_overlap": abs(self.stack.right[a, b, 0, 0]),
        }
        values = zip(*(column.tolist() for column in columns.values()), strict=True)
        angles = zip(*(self._angles(top_k) for top_k in top_ks), strict=True)
        chance = self._chance(top_ks)
        return [
            {"a": pair[0], "b": pair[1], **dict(zip(columns, row, strict=True))}
            | {"angles": list(of_pair), "chance": drawn, "reason": None}
            for pair, row, of_pair, drawn in zip(self.pairs, values, angles, chance, strict=True)
        ]

    def _orthogonal_fraction(self, cosine: Array) -> Array:
        fraction: Array = np.sqrt(1 - cosine**2)
        for i in np.flatnonzero(abs(cosine) > NEARLY_PARALLEL):
            fraction[i] = self.stack.orthogonal_fraction(self.a[i], self.b[i])
        return fraction

    def _used(self, top_k: int) -> Indices:
        used: Indices = np.minimum(top_k, np.minimum(self.ranks[self.a], self.ranks[self.b]))
        return used

    def _angles(self, top_k: int) -> list[Row]:
        used = self._used(top_k)
        rows: list[Row] = [{} for _ in self.pairs]
        for k in np.unique(used).tolist():
            chosen = np.flatnonzero(used == k)
            left, right = (self._side(which, chosen, k).tolist() for which in (0, 1))
            for i, of_left, of_right in zip(chosen, left, right, strict=True):
                rows[i] = {"top_k": top_k, "k": k, "left": of_left, "right": of_right}
        return rows

    def _side(self, which: int, chosen: Indices, k: int) -> Array:
        """(chosen, k) angles in degrees of the left (0) or the right (1) side."""
        products = (self.stack.left, self.stack.right)[which]
        a, b = self.a[chosen], self.b[chosen]
        cosines = factored.cosines(products[a, b, :k, :k])
        angles = np.degrees(np.arccos(cosines))
        for i in np.flatnonzero(cosines[:, 0] > np.cos(SMALL)):
            vectors = (self.stack.leading(run, k)[which] for run in (a[i], b[i]))
            angles[i] = factored.principal_angles(*vectors)
        return angles

    def _chance(self, top_ks: list[int]) -> list[Row]:
        d_out, d_in = self.shape
        fresh = 1 / sqrt(d_out * d_in)  # exact, for a direction that no rotation of either side changes
        nothing = {"cosine_sd_own": None, "draws": None, "own": None, "own_v1_overlap": None}
        rows: list[Row] = [{"cosine_sd_fresh": fresh, **nothing} for _ in self.pairs]
        adapters, into = self.stack.adapters, self.stack.into
        both = np.flatnonzero(np.isin(self.a, adapters) & np.isin(self.b, adapters))
        if into is None or not both.size:
            return rows
        a, b = (np.searchsorted(adapters, runs[both]) for runs in (self.a, self.b))
        seeds = [random_factors.seed(self.module, self.names[run]) for run in adapters]
        ranks = [triangle.shape[1] for triangle in into.triangles]
        draws = np.array([random_factors.few(rank) if self.draws is None else self.draws for rank in ranks])
        used = [self._used(top_k)[both] for top_k in top_ks]
        angles, overlaps = random_factors.right_side(into, d_out, a, b, used, seeds, draws)
        sds = random_factors.cosine_sd(into, d_out)[a, b].tolist()
        counts = np.minimum(draws[a], draws[b])
        v1 = _in_short(overlaps, counts, median=False)
        own = [
            {f"right_{which}": _in_short(values, counts, which in ANGLES) for which, values in of_k.items()}
            for of_k in angles
        ]
        for place, i in enumerate(both):
            of_ks = [
                {"top_k": top_k} | {which: values[place] for which, values in of_k.items()}
                for top_k, of_k in zip(top_ks, own, strict=True)
            ]
            rows[i] |= {"cosine_sd_own": sds[place], "draws": int(counts[place])}
            rows[i] |= {"own": of_ks, "own_v1_overlap": v1[place]}
        return rows


def _in_short(draws: Array, counts: Indices, median: bool) -> list[Row]:
    """Of each pair, `quantiles.in_short` of its draws (pairs, most draws), of which it has so many."""
    rows: list[Row] = [{} for _ in counts]
    for count in np.unique(counts).tolist():
        chosen = np.flatnonzero(counts == count)
        for row, found in zip(chosen, quantiles.in_short(draws[chosen, :count], median), strict=True):
            rows[row] = found
    return rows
