"""The numbers of pairs of runs and what chance gives, per module and over modules (see `table.numbers`)."""

import numpy as np
from numpy.typing import NDArray

from deltageom.geometry.aggregate import chance
from deltageom.geometry.aggregate.arrays import PAIR, SIDES, VECTORS, Angles, Modules
from deltageom.geometry.aggregate.bootstrap import median_interval
from deltageom.geometry.aggregate.chance import FLAT, Moments
from deltageom.geometry.aggregate.runs import Number, norm, shares
from deltageom.geometry.random_subspaces import ANGLES

Array = NDArray[np.float64]
Columns = dict[str, Array]

BY_MODULE = "orthogonal_fraction_by_module"
# Which of two runs is a is no property of a pair of seeds.
DIRECTIONAL = ("coefficient_a_on_b", "coefficient_b_on_a", f"{BY_MODULE}_b_outside_a", f"{BY_MODULE}_a_outside_b")
NEARLY_PARALLEL = 0.9  # above this cosine sqrt(1 - cosine^2) would lose digits


def in_modules(modules: Modules) -> list[Number]:
    norm_a, norm_b = modules.norms
    with np.errstate(invalid="ignore", divide="ignore"):
        scales = {
            "inner": norm_a * norm_b,
            "coefficient_a_on_b": norm_a / norm_b,
            "coefficient_b_on_a": norm_b / norm_a,
        }
    sds = (modules.sd_own, modules.sd_fresh)
    found: list[Number] = []
    for name in PAIR:
        if name == "orthogonal_fraction":
            own, fresh = (chance.orthogonal_fraction(sd[..., None]) for sd in sds)
        else:
            own, fresh = (_centred(sd * scales.get(name, 1.0)) for sd in sds)
        found.append((name, {"value": modules.pair[name], **_chance(own, fresh)}))
    smaller = None
    for angles in modules.angles:
        repeated = np.zeros(angles.k.shape) if smaller is None else (angles.k == smaller.k).astype(float)
        common = {"k": np.where(np.isnan(angles.k), angles.top_k, angles.k), "repeated": repeated}
        available = ~np.isnan(angles.own["overlap"].mean)
        for side, d in zip(SIDES, modules.shapes.T, strict=True):
            for which, haar in chance.subspaces(d, angles.k).items():
                own = haar if side == "left" else chance.drawn(angles.own[which], FLAT[which])
                columns = {"value": angles.values[f"{side}_{which}"], **_chance(_where(available, own), haar)}
                found.append((f"{side}_{which}", columns | common))
        smaller = angles
    available = ~np.isnan(modules.own_v1.mean)
    for name, side, d in zip(VECTORS, SIDES, modules.shapes.T, strict=True):
        fresh = _first_vectors(d, modules.pair[name])
        own = fresh if side == "left" else chance.drawn(modules.own_v1, FLAT["overlap"])
        found.append((name, {"value": modules.pair[name], **_chance(_where(available, own), fresh)}))
    return found


def over_modules(modules: Modules) -> list[Number]:
    defined = ~np.isnan(modules.pair["cosine"])
    found = _stacked(modules, defined)
    found.append(("cosine_median", _median_cosine(modules)))
    smaller = None
    for angles in modules.angles:
        found += _angles_over(angles, modules.shapes, smaller)
        smaller = angles
    complete = _complete(modules.own_v1.mean, defined)
    for name, side, d in zip(VECTORS, SIDES, modules.shapes.T, strict=True):
        value = modules.pair[name]
        fresh = chance.mean_moments(_first_vectors(d, value))
        own = fresh if side == "left" else chance.drawn_mean(modules.own_v1, FLAT["overlap"])
        found.append((f"{name}_mean", {"value": chance.mean(value), **_chance(_where(complete, own), fresh)}))
    counts = {
        "n_modules": np.full(len(defined), float(defined.shape[1])),
        "n_defined": defined.sum(-1).astype(float),
    }
    return [(name, columns | counts) for name, columns in found]


def _stacked(modules: Modules, defined: NDArray[np.bool_]) -> list[Number]:
    """Of the stacked deltas: inner product, cosine, coefficients and orthogonal fractions."""
    norms_a, norms_b = modules.norms
    norm_a, norm_b = norm(norms_a), norm(norms_b)
    a, b = shares(norms_a, norm_a), shares(norms_b, norm_b)
    zero = (norm_a == 0) | (norm_b == 0)
    cosines = np.where(defined, modules.pair["cosine"], 0.0)
    cosine = np.clip((cosines * a * b).sum(-1), -1.0, 1.0)
    # Where either delta is zero nothing of the other is projected away.
    fractions = np.where(defined, modules.pair["orthogonal_fraction"], 1.0)
    of_b, of_a = norm(fractions * b), norm(fractions * a)
    # b/|b| - cosine a/|a|, module by module: its part orthogonal to a's module is of_b, its part along it this.
    along = norm(abs(cosines * b - cosine[:, None] * a))
    stacked = np.where(abs(cosine) >= NEARLY_PARALLEL, np.hypot(of_b, along), np.sqrt(1 - cosine**2))
    sds = [np.where(defined, sd, 0.0) for sd in (modules.sd_own, modules.sd_fresh)]
    stacked_sds = [norm(a * b * sd) for sd in sds]

    def scaled(value: Array, scale: Array) -> Columns:
        own, fresh = (_centred(np.where(zero, np.nan, sd * scale)) for sd in stacked_sds)
        return {"value": value, **_chance(own, fresh)}

    def orthogonal(value: Array, spread: list[Array]) -> Columns:
        own, fresh = (_where(~zero, chance.orthogonal_fraction(parts)) for parts in spread)
        return {"value": np.where(zero, np.nan, np.minimum(value, 1.0)), **_chance(own, fresh)}

    with np.errstate(invalid="ignore", divide="ignore"):
        a_on_b, b_on_a = norm_a / norm_b, norm_b / norm_a
        cosine = np.where(zero, np.nan, cosine)
        return [
            ("inner", scaled(modules.pair["inner"].sum(-1), norm_a * norm_b)),
            ("cosine", scaled(cosine, np.ones_like(cosine))),
            ("coefficient_a_on_b", scaled(cosine * a_on_b, a_on_b)),
            ("coefficient_b_on_a", scaled(cosine * b_on_a, b_on_a)),
            ("orthogonal_fraction_stacked", orthogonal(stacked, [sd[:, None] for sd in stacked_sds])),
            (f"{BY_MODULE}_b_outside_a", orthogonal(of_b, [b * sd for sd in sds])),
            (f"{BY_MODULE}_a_outside_b", orthogonal(of_a, [a * sd for sd in sds])),
        ]


def _median_cosine(modules: Modules) -> Columns:
    own, fresh = (_centred(chance.median_cosine_sd(sd)) for sd in (modules.sd_own, modules.sd_fresh))
    own = _where(_complete(modules.sd_own, ~np.isnan(modules.pair["cosine"])), own)
    return _median(modules.pair["cosine"]) | _chance(own, fresh)


def _angles_over(angles: Angles, shapes: Array, smaller: Angles | None) -> list[Number]:
    """Medians of angles and means of overlaps, of one asked k."""
    defined = ~np.isnan(angles.k)
    any_defined = defined.any(-1)
    used = np.where(any_defined, np.where(defined, angles.k, np.inf).min(-1), angles.top_k)
    repeated = np.zeros(len(used))
    if smaller is not None:
        repeated = (any_defined & (~defined | (angles.k == smaller.k)).all(-1)).astype(float)
    complete = _complete(angles.own["overlap"].mean, defined)
    found: list[Number] = []
    for side, d in zip(SIDES, shapes.T, strict=True):
        haar = chance.median_angles(d, angles.k)
        for which in ANGLES:
            own = haar[which] if side == "left" else chance.drawn_median(angles.own[which], FLAT[which])
            columns = _median(angles.values[f"{side}_{which}"]) | _chance(_where(complete, own), haar[which])
            found.append((f"{side}_{which}_median", columns))
        fresh = chance.mean_moments(chance.subspaces(d, angles.k)["overlap"])
        own = fresh if side == "left" else chance.drawn_mean(angles.own["overlap"], FLAT["overlap"])
        columns = {"value": chance.mean(angles.values[f"{side}_overlap"]), **_chance(_where(complete, own), fresh)}
        found.append((f"{side}_overlap_mean", columns))
    return [(name, columns | {"k": used, "repeated": repeated}) for name, columns in found]


def _median(values: Array) -> Columns:
    low, high = median_interval(values)
    return {"value": chance.median(values), "low": low, "high": high}


def _first_vectors(d: Array, values: Array) -> Moments:
    """In the modules where the pair is defined, (pairs, modules)."""
    center, sd = (np.where(np.isnan(values), np.nan, of_module) for of_module in chance.first_vectors(d))
    return center, sd


def _complete(own: Array, defined: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(pairs,): whether every module where the pair is defined knows what the runs' own A gives (pairs, modules)."""
    known = ~np.isnan(own) | ~defined
    found: NDArray[np.bool_] = np.all(known, axis=-1)
    return found


def _where(condition: NDArray[np.bool_], moments: Moments) -> Moments:
    center, sd = (np.where(condition, values, np.nan) for values in moments)
    return center, sd


def _centred(sd: Array) -> Moments:
    return np.where(np.isnan(sd), np.nan, 0.0), sd


def _chance(own: Moments, fresh: Moments) -> Columns:
    return {
        "chance_own_mean": own[0],
        "chance_own_sd": own[1],
        "chance_fresh_mean": fresh[0],
        "chance_fresh_sd": fresh[1],
    }
