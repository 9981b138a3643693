"""From modules to layers and to the whole update.

Norms, cosines and orthogonal fractions are those of the stacked vector of all modules' deltas, not means over
modules; angles are medians, overlaps and ranks means, over the modules where they are defined.
"""

from collections import defaultdict
from collections.abc import Iterator
from math import fsum, hypot, sqrt
from statistics import fmean, median
from typing import Any, Literal

from deltageom.errors import UserError

Row = dict[str, Any]


def aggregate(modules: list[Row], by: Literal["layer", "global"]) -> dict[str, list[Row]]:
    """{"runs": [...], "pairs": [...]} from dicts {"module", "layer", "runs", "pairs"} (see `measure_module`).

    Rows are one a run or pair, and with by="layer" one a layer, which their "layer" names.
    Run row: norm (stacked), stable_rank, effective_rank_sigma, effective_rank_sigma2 (means).
    Pair row: inner (sum), cosine (stacked), and three orthogonal fractions:
    - orthogonal_fraction_stacked = sqrt(1 - cosine^2): what is left of b after its projection on the stacked
      a, one coefficient for all modules; symmetric.
    - orthogonal_fraction_by_module_a_of_b: the fraction of b that is orthogonal to a when b is projected on
      a in each module apart, a coefficient a module, and residuals are stacked. Never above the stacked one.
    - orthogonal_fraction_by_module_b_of_a: the same with a and b exchanged.
    left_smallest_median, left_largest_median, right_...: medians of the smallest and largest principal
    angle in degrees; left_overlap, right_overlap, u1_overlap, v1_overlap: means; k_min: the smallest k
    behind these. Both: n_modules, and n_defined, how many have a delta (both deltas) that is not zero. What
    is undefined is None, and `reason` says why.
    Raises UserError, naming the module, if modules hold different runs.
    """
    if by not in ("layer", "global"):
        raise ValueError(f"by must be 'layer' or 'global', not {by!r}")
    _same_runs(modules)
    rows: dict[str, list[Row]] = {"runs": [], "pairs": []}
    for label, group in _groups(modules, by):
        for same_run in zip(*(module["runs"] for module in group), strict=True):
            rows["runs"].append(label | _run(list(same_run)))
        norms = [{run["run"]: run["norm"] for run in module["runs"]} for module in group]
        for same_pair in zip(*(module["pairs"] for module in group), strict=True):
            rows["pairs"].append(label | _pair(list(same_pair), norms))
    return rows


def _groups(modules: list[Row], by: str) -> Iterator[tuple[Row, list[Row]]]:
    if by == "global":
        if modules:
            yield {}, modules
        return
    layers: dict[int, list[Row]] = defaultdict(list)
    for module in modules:
        layers[module["layer"]].append(module)
    for layer in sorted(layers):
        yield {"layer": layer}, layers[layer]


def _same_runs(modules: list[Row]) -> None:
    runs = [[run["run"] for run in module["runs"]] for module in modules]
    for module, names in zip(modules, runs, strict=True):
        if names != runs[0]:
            raise UserError(
                f"module {module['module']} holds runs {names}, but {modules[0]['module']} holds {runs[0]}: "
                "measure all modules again with the same runs"
            )


def _run(rows: list[Row]) -> Row:
    defined = [row for row in rows if row["reason"] is None]
    means = ("stable_rank", "effective_rank_sigma", "effective_rank_sigma2")
    return {
        "run": rows[0]["run"],
        "norm": hypot(*(row["norm"] for row in rows)),
        **{key: _mean(defined, key) for key in means},
        "n_modules": len(rows),
        "n_defined": len(defined),
        "reason": None if defined else "zero delta",
    }


def _pair(rows: list[Row], norms: list[dict[str, float]]) -> Row:
    a, b = rows[0]["a"], rows[0]["b"]
    norms_a, norms_b = [norm[a] for norm in norms], [norm[b] for norm in norms]
    defined = [row for row in rows if row["reason"] is None]
    angles = {
        f"{side}_{which}_median": median(row[f"{side}_angles"][at] for row in defined) if defined else None
        for side in ("left", "right")
        for which, at in (("smallest", 0), ("largest", -1))
    }
    overlaps = ("left_overlap", "right_overlap", "u1_overlap", "v1_overlap")
    zero = not any(norms_a) or not any(norms_b)
    return {
        "a": a,
        "b": b,
        "inner": fsum(row["inner"] for row in rows),
        **_stacked(rows, norms_a, norms_b, zero),
        **angles,
        **{key: _mean(defined, key) for key in overlaps},
        "k_min": min((row["k"] for row in defined), default=None),
        "n_modules": len(rows),
        "n_defined": len(defined),
        "reason": "zero delta" if zero or not defined else None,
    }


def _stacked(rows: list[Row], norms_a: list[float], norms_b: list[float], zero: bool) -> Row:
    """Cosine and orthogonal fractions of the stacked deltas."""
    suffixes = ("stacked", "by_module_a_of_b", "by_module_b_of_a")
    if zero:
        return {"cosine": None} | {f"orthogonal_fraction_{suffix}": None for suffix in suffixes}
    norm_a, norm_b = hypot(*norms_a), hypot(*norms_b)
    cosine = fsum(row["inner"] / norm_a / norm_b for row in rows)
    cosine = min(1.0, max(-1.0, cosine))
    # Where either delta is zero nothing of the other is projected away.
    fractions = [1.0 if row["reason"] else row["orthogonal_fraction"] for row in rows]
    of_b = [of * b / norm_b for of, b in zip(fractions, norms_b, strict=True)]
    of_a = [of * a / norm_a for of, a in zip(fractions, norms_a, strict=True)]
    # b/|b| - cosine a/|a|, module by module: its part orthogonal to a's module is of_b, its part along it
    # this. Sound where the cosine is near 1, unlike sqrt(1 - cosine^2).
    along = [
        (row["cosine"] or 0.0) * b / norm_b - cosine * a / norm_a
        for row, a, b in zip(rows, norms_a, norms_b, strict=True)
    ]
    stacked = hypot(*of_b, *along) if abs(cosine) >= 0.9 else sqrt(1 - cosine**2)
    fractions_out = (min(1.0, stacked), min(1.0, hypot(*of_b)), min(1.0, hypot(*of_a)))
    return {"cosine": cosine} | {
        f"orthogonal_fraction_{suffix}": value for suffix, value in zip(suffixes, fractions_out, strict=True)
    }


def _mean(rows: list[Row], key: str) -> float | None:
    return fmean(row[key] for row in rows) if rows else None
