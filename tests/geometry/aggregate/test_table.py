"""The tables of numbers against the dense vector of all modules stacked, and chance against brute force."""

import json
from itertools import combinations

import numpy as np
import pytest

from deltageom.errors import UserError
from deltageom.geometry import quantiles, random_subspaces
from deltageom.geometry.aggregate.table import COLUMNS, numbers

SHAPES = {"layers.0.q": (9, 7), "layers.0.v": (5, 7), "layers.10.q": (9, 7), "layers.2.q": (12, 5)}
ZERO = {("layers.0.v", "b"), ("layers.2.q", "a")}  # (module, run) without an update
ANGLES = ("smallest", "median", "largest")
DRAWS = 50
OWN = (*ANGLES, "overlap")


def record(module, layer, deltas, ks=(2,), own=True, base=False):
    """The record of one module from dense deltas {run: (d_out, d_in)}; draws of own A are made up."""
    rng = np.random.default_rng([len(module), *module.encode()])
    svd = {run: factors(delta) for run, delta in deltas.items()}
    shape = next(iter(deltas.values())).shape
    runs = [run_row(run, svd[run][1]) for run in sorted(deltas)]
    if base:
        for row in runs:
            row["base"] = base_row(rng, shape, row["reason"])
    pairs = []
    for a, b in combinations(sorted(deltas), 2):
        of_own = made_up(rng, ks) if own is True or (own and {a, b} <= set(own)) else None
        pairs.append(pair_row((a, b), deltas, svd, ks, of_own))
    made = {"module": module, "layer": layer, "shape": list(shape), "runs": runs, "pairs": pairs}
    return json.loads(json.dumps(made, allow_nan=False))


def factors(delta):
    u, s, vt = np.linalg.svd(delta, full_matrices=False)
    rank = int((s > 1e-12 * max(s[0], 1e-300)).sum()) if delta.any() else 0
    return u[:, :rank], s[:rank], vt[:rank].T


def run_row(run, s):
    zero = s.size == 0
    p = s / s.sum() if not zero else s
    return {
        "run": run,
        "norm": float(np.linalg.norm(s)),
        "spectral_norm": 0.0 if zero else s[0],
        "stable_rank": None if zero else (s**2).sum() / s[0] ** 2,
        "effective_rank_sigma": None if zero else float(np.exp(-(p * np.log(p)).sum())),
        "effective_rank_sigma2": None if zero else 1.5,
        "rank": s.size,
        "singular_values": s.tolist(),
        "reason": "zero delta" if zero else None,
    }


def base_row(rng, shape, reason):
    if reason:
        return dict.fromkeys(("input_energy", "output_energy", "spectral_drift", "intruders")) | {"unchanged_bf16": 1.0}
    return {
        "input_energy": [{"top_k": k, "value": rng.random(), "chance": k / shape[1]} for k in (1, 2)],
        "output_energy": [{"top_k": k, "value": rng.random(), "chance": k / shape[0]} for k in (1, 2)],
        "spectral_drift": [{"top_k": 2, "value": rng.random()}],
        "intruders": [{"top_k": 2, "value": int(rng.integers(5))}],
        "unchanged_bf16": rng.random(),
    }


def pair_row(pair, deltas, svd, ks, of_own):
    (a, b), (x, y) = pair, (deltas[run] for run in pair)
    numbers = ("cosine", "coefficient_a_on_b", "coefficient_b_on_a", "orthogonal_fraction", "u1_overlap", "v1_overlap")
    if not x.any() or not y.any():
        undefined = {"angles": [], "chance": None, "reason": "zero delta"}
        return {"a": a, "b": b, "inner": 0.0, **dict.fromkeys(numbers), **undefined}
    inner, norm_x, norm_y = float((x * y).sum()), np.linalg.norm(x), np.linalg.norm(y)
    (u, _, v), (u2, _, v2) = svd[a], svd[b]
    angles = []
    for k in ks:
        used = min(k, u.shape[1], u2.shape[1])
        left, right = (degrees(p[:, :used], q[:, :used]).tolist() for p, q in ((u, u2), (v, v2)))
        angles.append({"top_k": k, "k": used, "left": left, "right": right})
    fresh = 1 / np.sqrt(x.size)
    return {
        "a": a,
        "b": b,
        "inner": inner,
        "cosine": inner / norm_x / norm_y,
        "coefficient_a_on_b": inner / norm_y**2,
        "coefficient_b_on_a": inner / norm_x**2,
        "orthogonal_fraction": float(np.linalg.norm(y - inner / norm_x**2 * x) / norm_y),
        "u1_overlap": abs(u[:, 0] @ u2[:, 0]),
        "v1_overlap": abs(v[:, 0] @ v2[:, 0]),
        "angles": angles,
        "chance": {
            "cosine_sd_fresh": fresh,
            **(of_own or {"cosine_sd_own": None, "draws": None, "own": None, "own_v1_overlap": None}),
        },
        "reason": None,
    }


def degrees(p, q):
    return np.degrees(np.arccos(np.clip(np.linalg.svd(p.T @ q, compute_uv=False), 0, 1)))


def made_up(rng, ks):
    return own_row(rng.uniform(0.1, 0.3), {k: {w: 90 * rng.random(DRAWS) for w in OWN} for k in ks}, rng.random(DRAWS))


def own_row(cosine_sd, right, v1):
    """From draws of the right side, by k and measure, and of |<v1, v1'>|."""
    own = [
        {"top_k": k} | {f"right_{which}": in_short(draws, which != "overlap") for which, draws in of_k.items()}
        for k, of_k in right.items()
    ]
    return {"cosine_sd_own": cosine_sd, "draws": v1.size, "own": own, "own_v1_overlap": in_short(v1, median=False)}


def in_short(draws, median):
    return quantiles.in_short(draws[None], median)[0]


def deltas_of(noise=1.0, zero=ZERO):
    """{module: {run: delta}}; b is a times a factor for each module, plus noise."""
    rng = np.random.default_rng(0)
    result = {}
    for number, (module, (d_out, d_in)) in enumerate(SHAPES.items()):
        a = rng.normal(size=(d_out, 3)) @ rng.normal(size=(3, d_in))
        b = a * (1 + noise * number) / 2 + noise * rng.normal(size=(d_out, 2)) @ rng.normal(size=(2, d_in))
        c = rng.normal(size=(d_out, 4)) @ rng.normal(size=(4, d_in))
        result[module] = {run: 0 * x if (module, run) in zero else x for run, x in zip("abc", (a, b, c), strict=True)}
    return result


def records_of(deltas, **options):
    return [record(name, int(name.split(".")[1]), of_module, **options) for name, of_module in deltas.items()]


def rows_of(columns):
    columns = {key: column if isinstance(column, list) else column.tolist() for key, column in columns.items()}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def pick(columns, measure, a="a", b="b", **more):
    """The one row of these values."""
    wanted = {"measure": measure, "a": a, "b": b, **more}
    (row,) = (row for row in rows_of(columns) if all(row[key] == value for key, value in wanted.items()))
    return row


def stacked(deltas, run):
    return np.concatenate([of_module[run].ravel() for of_module in deltas.values()])


def residual_by_module(deltas, of, onto):
    """What is left of `of`, each module projected on that of `onto`: its norm, as a fraction."""
    left = []
    for of_module in deltas.values():
        x, y = of_module[of], of_module[onto]
        left.append(x - ((x * y).sum() / (y * y).sum() * y if y.any() else 0))
    return np.sqrt(sum((part**2).sum() for part in left)) / np.linalg.norm(stacked(deltas, of))


def check(deltas, table, **place):
    """The rows of stacked vectors, by dense vectors."""
    for run in "abc":
        row = pick(table, "norm", run, None, **place)
        assert row["value"] == pytest.approx(np.linalg.norm(stacked(deltas, run)))
        assert row["n_modules"] == len(deltas)
    for a, b in combinations("abc", 2):
        x, y = stacked(deltas, a), stacked(deltas, b)
        inner, left = x @ y, y - (x @ y) / (x @ x) * x if x.any() else y
        expected = {"inner": inner}
        fraction = "orthogonal_fraction_by_module"
        if x.any() and y.any():
            expected |= {
                "cosine": inner / np.linalg.norm(x) / np.linalg.norm(y),
                "coefficient_a_on_b": inner / (y @ y),
                "coefficient_b_on_a": inner / (x @ x),
                "orthogonal_fraction_stacked": np.linalg.norm(left) / np.linalg.norm(y),
                f"{fraction}_b_outside_a": residual_by_module(deltas, of=b, onto=a),
                f"{fraction}_a_outside_b": residual_by_module(deltas, of=a, onto=b),
            }
        for measure in ("inner", "cosine", "coefficient_a_on_b", "coefficient_b_on_a", "orthogonal_fraction_stacked"):
            row = pick(table, measure, a, b, **place)
            assert row["value"] == pytest.approx(expected.get(measure, np.nan), abs=1e-12, nan_ok=True)
            assert row["reason"] == (None if measure in expected else "zero delta")
        for measure in (f"{fraction}_b_outside_a", f"{fraction}_a_outside_b"):
            value = pick(table, measure, a, b, **place)["value"]
            assert value == pytest.approx(expected.get(measure, np.nan), abs=1e-12, nan_ok=True)
            assert not value > pick(table, "orthogonal_fraction_stacked", a, b, **place)["value"] + 1e-12


@pytest.mark.parametrize("noise", [1.0, 0.1, 1e-3])  # cosines .5 to nearly 1
@pytest.mark.parametrize("zero", [ZERO, set()])
def test_global_is_the_stacked_vector(noise, zero):
    deltas = deltas_of(noise, zero)
    check(deltas, numbers(records_of(deltas), "global", {}))


def test_a_layer_is_the_stacked_vector_of_its_modules_in_numeric_order():
    deltas = deltas_of()
    deltas["head"] = deltas["layers.0.q"]
    records = records_of({name: x for name, x in deltas.items() if name != "head"})
    table = numbers([*records, record("head", None, deltas["head"])], "layer", {})
    layers = table["layer"].tolist()
    assert list(dict.fromkeys(layers)) == [0, 2, 10]  # and none for the head
    for layer in (0, 2, 10):
        check({k: x for k, x in deltas.items() if k.startswith(f"layers.{layer}.")}, table, layer=layer)
    assert {row["n_modules"] for row in rows_of(table) if row["layer"] == 0} == {2}


def test_columns_and_order_of_rows():
    records = [*records_of(deltas_of(), base=True), record("head", None, deltas_of()["layers.0.q"], base=True)]
    baselines = [f"chance_{of}_{what}" for of in ("own", "fresh") for what in ("mean", "sd", "z")]
    baselines += ["seed_n", "seed_mean", "seed_sd", "seed_z"]
    tail = ["a", "b", "measure", "k", "value", "low", "high", "n_modules", "n_defined", "reason", *baselines]
    tables = {level: numbers(records, level, {}) for level in ("module", "layer", "global")}
    assert list(tables["module"]) == ["module", "layer", "a", "b", "measure", "k", "value", "reason", *baselines]
    assert list(tables["layer"]) == ["layer", *tail]
    assert list(tables["global"]) == tail
    for table in tables.values():
        for key, column in table.items():
            if key in ("module", "a", "b", "measure", "reason"):
                assert isinstance(column, list)
                assert {type(value) for value in column} <= {str, type(None)}
            else:
                assert column.dtype == np.float64
                assert column.shape == (len(table["a"]),)
    units = [("a", None), ("b", None), ("c", None), ("a", "b"), ("a", "c"), ("b", "c")]
    assert list(dict.fromkeys(zip(tables["global"]["a"], tables["global"]["b"], strict=True))) == units
    module = tables["module"]
    places = [(r["module"], r["a"], r["b"]) for r in rows_of(module)]
    names = [r["module"] for r in records]
    assert list(dict.fromkeys(places)) == [(n, *u) for of in (units[:3], units[3:]) for n in names for u in of]
    measures = [r["measure"] for r in rows_of(module) if (r["module"], r["a"], r["b"]) == ("layers.0.q", "a", "b")]
    angles = [f"{side}_{which}" for side in ("left", "right") for which in (*ANGLES, "overlap")]
    head = ["inner", "cosine", "coefficient_a_on_b", "coefficient_b_on_a", "orthogonal_fraction"]
    assert measures == [*head, *angles, "u1_overlap", "v1_overlap"]
    assert np.isnan([r["layer"] for r in rows_of(module) if r["module"] == "head"]).all()
    assert pick(module, "cosine", module="layers.10.q")["layer"] == 10


def test_the_numbers_of_modules_are_those_of_the_records():
    records = records_of(deltas_of(), ks=(2, 9))  # 9 is 3 for a (rank 3) and 4 or 5 for b and c
    table = numbers(records, "module", {})
    for made in records:
        at = {"module": made["module"]}
        for run in made["runs"]:
            for key in (
                "norm",
                "spectral_norm",
                "stable_rank",
                "effective_rank_sigma",
                "effective_rank_sigma2",
                "rank",
            ):
                row = pick(table, key, run["run"], None, **at)
                assert row["value"] == pytest.approx(np.nan if run[key] is None else run[key], nan_ok=True)
                assert row["reason"] == ("zero delta" if run[key] is None else None)
                assert np.isnan(row["k"])
        for pair in made["pairs"]:
            at |= {"a": pair["a"], "b": pair["b"]}
            for key in ("inner", "cosine", "coefficient_b_on_a", "orthogonal_fraction", "u1_overlap", "v1_overlap"):
                row = pick(table, key, **at)
                assert row["value"] == pytest.approx(np.nan if pair[key] is None else pair[key], nan_ok=True)
                assert row["reason"] == pair["reason"] or key == "inner"
            for angles in pair["angles"]:
                for side in ("left", "right"):
                    values = np.array(angles[side])
                    expected = {"smallest": values[0], "median": np.median(values), "largest": values[-1]}
                    expected["overlap"] = (np.cos(np.radians(values)) ** 2).mean()
                    for which, value in expected.items():
                        found = pick(table, f"{side}_{which}", k=angles["k"], **at)["value"]
                        assert found == pytest.approx(value, abs=1e-12)
            if not pair["angles"]:  # a row for each asked k all the same
                assert [pick(table, "left_median", k=k, **at)["reason"] for k in (2, 9)] == ["zero delta"] * 2


def test_medians_and_means_are_over_the_modules_where_they_are_defined():
    records = records_of(deltas_of())
    table = numbers(records, "global", {})
    for number, (a, b) in enumerate(combinations("abc", 2)):
        pairs = [made["pairs"][number] for made in records if made["pairs"][number]["reason"] is None]
        for side in ("left", "right"):
            for which, of in (("smallest", min), ("median", np.median), ("largest", max)):
                row = pick(table, f"{side}_{which}_median", a, b, k=2)
                assert row["value"] == pytest.approx(np.median([of(pair["angles"][0][side]) for pair in pairs]))
                assert row["low"] <= row["value"] <= row["high"]
                assert (row["n_modules"], row["n_defined"]) == (4, len(pairs))
            overlaps = [(np.cos(np.radians(pair["angles"][0][side])) ** 2).mean() for pair in pairs]
            assert pick(table, f"{side}_overlap_mean", a, b)["value"] == pytest.approx(np.mean(overlaps))
        for key in ("u1_overlap", "v1_overlap"):
            assert pick(table, f"{key}_mean", a, b)["value"] == pytest.approx(np.mean([pair[key] for pair in pairs]))
        row = pick(table, "cosine_median", a, b)
        assert row["value"] == pytest.approx(np.median([pair["cosine"] for pair in pairs]))
        assert row["low"] < row["value"] < row["high"]
    bounded = {r["measure"] for r in rows_of(table) if not np.isnan(r["low"])}
    assert bounded == {m for m in table["measure"] if m.endswith("_median")}
    own = [made["runs"][0] for made in records if made["runs"][0]["reason"] is None]
    for key in ("stable_rank", "effective_rank_sigma", "effective_rank_sigma2"):
        row = pick(table, f"{key}_mean", "a", None)
        assert row["value"] == pytest.approx(np.mean([run[key] for run in own]))
        assert (row["n_defined"], row["n_modules"]) == (3, 4)


def test_numbers_of_the_base():
    records = records_of(deltas_of(), base=True)
    table, modules = numbers(records, "global", {}), numbers(records, "module", {})
    runs = [made["runs"][0] for made in records]  # run a, zero in one module
    defined = [run for run in runs if run["reason"] is None]
    weights = np.array([run["norm"] ** 2 for run in defined])
    for measure in ("input_energy", "output_energy"):
        for k in (1, 2):
            row = pick(table, measure, "a", None, k=k)
            values, chances = ([run["base"][measure][k - 1][key] for run in defined] for key in ("value", "chance"))
            assert row["value"] == pytest.approx(np.average(values, weights=weights))
            assert row["chance_fresh_mean"] == pytest.approx(np.average(chances, weights=weights))
            assert np.isnan([row["chance_own_mean"], row["chance_fresh_sd"], row["chance_fresh_z"]]).all()
            at = pick(modules, measure, "a", None, k=k, module="layers.0.q")
            assert (at["value"], at["chance_fresh_mean"]) == (values[0], chances[0])
            assert pick(modules, measure, "a", None, k=k, module="layers.2.q")["reason"] == "zero delta"
    drift = [run["base"]["spectral_drift"][0]["value"] for run in defined]
    assert pick(table, "spectral_drift_mean", "a", None, k=2)["value"] == pytest.approx(np.mean(drift))
    intruders = [run["base"]["intruders"][0]["value"] for run in defined]
    assert pick(table, "intruders_sum", "a", None, k=2)["value"] == sum(intruders)
    sizes = [np.prod(made["shape"]) for made in records]
    unchanged = pick(table, "unchanged_bf16", "a", None)
    assert unchanged["value"] == pytest.approx(
        np.average([run["base"]["unchanged_bf16"] for run in runs], weights=sizes)
    )
    assert (unchanged["n_defined"], pick(table, "spectral_drift_mean", "a", None)["n_defined"]) == (4, 3)
    assert pick(modules, "unchanged_bf16", "a", None, module="layers.2.q")["value"] == 1  # a zero delta changes nothing
    del records[0]["runs"][0]["base"]
    lacking = pick(numbers(records, "module", {}), "intruders", "a", None, module="layers.0.q")
    assert lacking["reason"] == "not measured"


def test_a_module_alone_keeps_its_numbers():
    deltas = {"layers.10.q": deltas_of()["layers.10.q"]}
    records = records_of(deltas)
    table, alone = numbers(records, "global", {}), numbers(records, "module", {})
    names = [
        "inner",
        "cosine",
        "coefficient_a_on_b",
        "coefficient_b_on_a",
        "left_overlap",
        "v1_overlap",
        "right_smallest",
    ]
    same = {name: name for name in names}
    same |= {name: f"{name}_mean" for name in ("left_overlap", "right_overlap", "u1_overlap", "v1_overlap")}
    same |= {name: f"{name}_median" for name in ("cosine", "left_largest", "right_smallest", "right_median")}
    same |= {"orthogonal_fraction": "orthogonal_fraction_stacked"}
    for module_measure, measure in same.items():
        row, expected = pick(table, measure), pick(alone, module_measure)
        for key in (
            "value",
            "chance_own_mean",
            "chance_own_sd",
            "chance_own_z",
            "chance_fresh_mean",
            "chance_fresh_sd",
        ):
            assert row[key] == pytest.approx(expected[key]), (measure, key)
        if measure.endswith("_median"):
            assert row["low"] == row["value"] == row["high"]


def test_a_nearly_parallel_stack_keeps_its_digits():
    """cos = 1 - 5e-21 is 1 in float64; the orthogonal fraction is 1e-10."""

    def made(name, a, b):
        return record(name, 0, {"a": np.diag([a, 0, 0]), "b": np.diag([1.0, b, 0]) if b else np.zeros((3, 3))}, ks=(1,))

    records = [made(str(i), 1.0, 1e-10) for i in range(2)]
    for of_module in records:
        of_module["pairs"][0]["cosine"] = 1.0
        of_module["pairs"][0]["orthogonal_fraction"] = 1e-10
    row = pick(numbers(records, "global", {}), "orthogonal_fraction_stacked")
    assert row["value"] == pytest.approx(1e-10, rel=1e-5)
    for still in "ab":  # two modules more, in which only one of the runs moves, and hardly
        deltas = {run: (run != still) * np.diag([1e-10, 0, 0]) for run in "ab"}
        records.append(record(f"still {still}", 0, deltas, ks=(1,)))
    row = pick(numbers(records, "global", {}), "orthogonal_fraction_stacked")
    assert row["value"] == pytest.approx(2**0.5 * 1e-10, rel=1e-5)


def test_norms_whose_squares_underflow():
    plain, tiny = (records_of(deltas_of()) for _ in range(2))
    for made in tiny:
        for run in made["runs"]:
            run["norm"] *= 1e-170
        for pair in made["pairs"]:
            pair["inner"] = 0.0
    table, expected = (numbers(records, "global", {}) for records in (tiny, plain))
    assert pick(table, "norm", "b", None)["value"] == pytest.approx(1e-170 * pick(expected, "norm", "b", None)["value"])
    for measure in ("cosine", "orthogonal_fraction_stacked", "orthogonal_fraction_by_module_b_outside_a"):
        assert pick(table, measure) == pytest.approx(pick(expected, measure), nan_ok=True)


def test_the_order_of_modules_does_not_matter():
    records = records_of(deltas_of(), base=True)
    table, other = (numbers(some, "global", {}) for some in (records, records[::-1]))
    for key in ("value", "low", "high", "k", "n_defined", "chance_fresh_mean"):
        np.testing.assert_allclose(table[key], other[key], rtol=1e-12, atol=1e-14)


def test_one_coefficient_and_one_a_module_differ():
    """b doubles a in one module and drops it in another: parallel to a in every module, yet not over all."""
    a = np.diag([1.0, 0, 0])
    table = numbers([record(str(scale), 0, {"a": a, "b": scale * a}, ks=(1,)) for scale in (2.0, 0.0)], "global", {})
    assert pick(table, "cosine")["value"] == pytest.approx(0.5**0.5)
    assert pick(table, "orthogonal_fraction_stacked")["value"] == pytest.approx(0.5**0.5)
    assert pick(table, "orthogonal_fraction_by_module_b_outside_a")["value"] == pytest.approx(0, abs=1e-12)
    row = pick(table, "orthogonal_fraction_by_module_a_outside_b")
    assert row["value"] == pytest.approx(0.5**0.5)
    assert (row["n_modules"], row["n_defined"], row["reason"]) == (2, 1, None)


def test_a_run_that_did_not_move_is_undefined_and_says_so():
    deltas = deltas_of(zero={(module, "b") for module in SHAPES})
    table = numbers(records_of(deltas), "global", {})
    check(deltas, table)
    assert pick(table, "norm", "b", None)["value"] == 0
    row = pick(table, "stable_rank_mean", "b", None)
    assert (row["n_defined"], row["reason"]) == (0, "zero delta")
    for measure in ("cosine_median", "left_smallest_median", "right_overlap_mean", "u1_overlap_mean", "cosine"):
        row = pick(table, measure)
        assert (row["reason"], row["n_defined"]) == ("zero delta", 0)
        numeric = ("value", "low", "high", "chance_own_mean", "chance_fresh_sd", "chance_fresh_z")
        assert np.isnan([row[key] for key in numeric]).all()
    assert pick(table, "left_smallest_median", k=2)["reason"] == "zero delta"
    assert pick(table, "left_smallest_median", "a", "c")["reason"] is None


def test_runs_that_move_in_different_modules_are_orthogonal():
    x = deltas_of()["layers.0.q"]["a"]
    table = numbers([record("m", 0, {"a": x, "b": 0 * x}), record("n", 0, {"a": 0 * x, "b": x})], "global", {})
    values = [pick(table, measure)["value"] for measure in ("cosine", "inner", "orthogonal_fraction_stacked")]
    assert values == [0, 0, 1]
    assert np.isnan(pick(table, "cosine")["chance_fresh_z"])  # chance has no spread here either
    assert "left_smallest_median" not in table["measure"]  # nowhere an angle, so no k is known
    assert pick(table, "u1_overlap_mean")["reason"] == "zero delta"


def test_asked_k_above_the_ranks():
    """Ranks 3 (a and b) and 4 (c): an asked 9 uses what the asked 3 uses for a and c, so it has no row there."""
    rng = np.random.default_rng(1)
    low = {run: rng.normal(size=(9, r)) @ rng.normal(size=(r, 7)) for run, r in zip("abc", (3, 4, 5), strict=True)}
    records = [record("m", 0, low, ks=(2, 3, 9))]
    for level, measure in (("module", "left_median"), ("global", "left_median_median")):
        table = numbers(records, level, {})
        of = {
            pair: [r["k"] for r in rows_of(table) if (r["a"], r["b"], r["measure"]) == (*pair, measure)]
            for pair in ("ab", "bc")
        }
        assert of == {"ab": [2, 3], "bc": [2, 3, 4]}
    two = [*records, record("n", 0, {run: x[:, :2] @ np.ones((2, 7)) for run, x in low.items()}, ks=(2, 3, 9))]
    ks = [r["k"] for r in rows_of(numbers(two, "global", {})) if (r["b"], r["measure"]) == ("c", "left_overlap_mean")]
    assert set(ks) == {1}  # the smallest over modules


# Chance


def test_chance_of_cosines_and_of_what_scales_with_them():
    deltas = deltas_of(zero=set())
    records = records_of(deltas)
    table = numbers(records, "module", {})
    for made in records:
        pair, norms = made["pairs"][0], {run["run"]: run["norm"] for run in made["runs"]}
        scales = {
            "cosine": 1,
            "inner": norms["a"] * norms["b"],
            "coefficient_a_on_b": norms["a"] / norms["b"],
            "coefficient_b_on_a": norms["b"] / norms["a"],
        }
        for measure, scale in scales.items():
            row = pick(table, measure, module=made["module"])
            for of in ("own", "fresh"):
                sd = pair["chance"][f"cosine_sd_{of}"]
                assert row[f"chance_{of}_mean"] == 0
                assert row[f"chance_{of}_sd"] == pytest.approx(scale * sd)
                assert row[f"chance_{of}_z"] == pytest.approx(pair["cosine"] / sd)
    over = numbers(records, "global", {})
    zs = [pick(over, m)["chance_own_z"] for m in ("cosine", "inner", "coefficient_a_on_b", "coefficient_b_on_a")]
    assert zs == pytest.approx([zs[0]] * 4)


def random_stacks(draws=4000):
    """Cosines (draws, modules) of B A and B' A' with kept A, A'; the modules' own standard deviations and norms."""
    rng = np.random.default_rng(5)
    cosines, sds = [], []
    for d_out, d_in in ((40, 30), (60, 20), (50, 50), (80, 30)):
        a = rng.normal(size=(4, d_in))
        a2 = a + 0.5 * rng.normal(size=(4, d_in))  # most of the initial A is left
        x, y = (rng.normal(size=(draws, d_out, 4)) @ part for part in (a, a2))
        norms = np.linalg.norm(x, axis=(1, 2)) * np.linalg.norm(y, axis=(1, 2))
        cosines.append((x * y).sum((1, 2)) / norms)
        sds.append(np.linalg.norm(a @ a2.T) / (np.linalg.norm(a) * np.linalg.norm(a2) * np.sqrt(d_out)))
    return np.array(cosines).T, np.array(sds), np.array([1.0, 3, 0.5, 2]), np.array([2.0, 1, 0.5, 3])


def test_chance_over_modules_is_that_of_random_deltas_of_the_same_norms():
    cosines, sds, a, b = random_stacks()
    share_a, share_b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    records = []
    for i, (norm_a, norm_b, sd) in enumerate(zip(a, b, sds, strict=True)):
        made = record(str(i), 0, {"a": norm_a * np.eye(3) / 3**0.5, "b": norm_b * np.eye(3)[::-1] / 3**0.5})
        made["pairs"][0]["chance"]["cosine_sd_own"] = sd
        records.append(made)
    table = numbers(records, "global", {})
    cosine = cosines @ (share_a * share_b)
    of_b, of_a = (np.sqrt(((1 - cosines**2) * share**2).sum(1)) for share in (share_b, share_a))
    inner = cosine * np.linalg.norm(a) * np.linalg.norm(b)
    expected = {
        "cosine": cosine,
        "inner": inner,
        "coefficient_a_on_b": inner / (b @ b),
        "coefficient_b_on_a": inner / (a @ a),
        "cosine_median": np.median(cosines, axis=1),
        "orthogonal_fraction_stacked": np.sqrt(1 - cosine**2),
        "orthogonal_fraction_by_module_b_outside_a": of_b,
        "orthogonal_fraction_by_module_a_outside_b": of_a,
    }
    for measure, draws in expected.items():
        row = pick(table, measure)
        assert row["chance_own_sd"] == pytest.approx(draws.std(), rel=0.08), measure
        assert row["chance_own_mean"] == pytest.approx(draws.mean(), abs=0.1 * draws.std()), measure
        assert row["chance_own_z"] == pytest.approx((row["value"] - row["chance_own_mean"]) / row["chance_own_sd"])


def test_chance_of_a_fresh_cosine_is_that_of_random_matrices():
    rng = np.random.default_rng(2)
    x, y = (rng.normal(size=(4000, 9, 3)) @ rng.normal(size=(4000, 3, 7)) for _ in range(2))
    cosines = (x * y).sum((1, 2)) / np.linalg.norm(x, axis=(1, 2)) / np.linalg.norm(y, axis=(1, 2))
    table = numbers([record("m", 0, deltas_of()["layers.0.q"])], "module", {})
    assert pick(table, "cosine")["chance_fresh_sd"] == pytest.approx(cosines.std(), rel=0.05)
    made = pick(table, "orthogonal_fraction")
    fractions = np.sqrt(1 - cosines**2)
    assert made["chance_fresh_mean"] == pytest.approx(fractions.mean(), abs=2e-3)
    assert made["chance_fresh_sd"] == pytest.approx(fractions.std(), rel=0.15)  # to leading order


def haar(d, k, draws, seed):
    rng = np.random.default_rng([9, seed])
    p, q = (np.linalg.qr(rng.standard_normal((draws, d, k)))[0] for _ in range(2))
    return np.linalg.svd(p.transpose(0, 2, 1) @ q, compute_uv=False).clip(0, 1)


@pytest.mark.parametrize("level", ["module", "global"])
def test_chance_of_random_subspaces(level):
    """Left and fresh right sides, of one module and of the medians and means over four, by brute force."""
    deltas = deltas_of(zero=set())
    table = numbers(records_of(deltas), level, {})
    modules = ["layers.0.v"] if level == "module" else list(deltas)
    place = {"module": "layers.0.v"} if level == "module" else {}
    for side, at in (("left", 0), ("right", 1)):
        cosines = [haar(SHAPES[name][at], 2, 5000, seed) for seed, name in enumerate(modules)]
        angles = np.degrees(np.arccos(cosines))
        first = [haar(SHAPES[name][at], 1, 5000, 10 + seed)[:, 0] for seed, name in enumerate(modules)]
        expected = {
            f"{side}_smallest": np.median(angles[..., 0], axis=0),
            f"{side}_median": np.median(angles.mean(-1), axis=0),
            f"{side}_largest": np.median(angles[..., 1], axis=0),
            f"{side}_overlap": np.mean(np.square(cosines).mean(-1), axis=0),
            f"{'uv'[at]}1_overlap": np.mean(first, axis=0),
        }
        for measure, draws in expected.items():
            name = measure if level == "module" else f"{measure}_{'mean' if 'overlap' in measure else 'median'}"
            row = pick(table, name, **place)
            assert row["chance_fresh_mean"] == pytest.approx(draws.mean(), abs=0.12 * draws.std()), name
            assert row["chance_fresh_sd"] == pytest.approx(draws.std(), rel=0.1), name
            same = [row[f"chance_own_{key}"] == row[f"chance_fresh_{key}"] for key in ("mean", "sd", "z")]
            assert same == [side == "left"] * 3


def test_medians_of_random_angles_are_over_the_modules_where_a_pair_is_defined():
    table = numbers(records_of(deltas_of()), "global", {})
    defined = {"ab": ["layers.0.q", "layers.10.q"], "ac": ["layers.0.q", "layers.10.q", "layers.0.v"]}
    for pair, modules in defined.items():
        shapes = [SHAPES[name][0] for name in modules]
        counts = tuple((d, 2, shapes.count(d)) for d in sorted(set(shapes)))
        for which, draws in random_subspaces.median_angles(counts).items():
            row = pick(table, f"left_{which}_median", *pair)
            found = (row["chance_fresh_mean"], row["chance_fresh_sd"])
            assert found == pytest.approx((draws.mean(), draws.std(ddof=1)))


def test_overlaps_have_the_exact_chance():
    table = numbers(records_of(deltas_of(zero=set())), "module", {})
    for name, (d_out, d_in) in SHAPES.items():
        for side, first, d in (("left", "u1", d_out), ("right", "v1", d_in)):
            row = pick(table, f"{side}_overlap", module=name)
            sd = random_subspaces.overlap_sd(d, 2)
            assert (row["chance_fresh_mean"], row["chance_fresh_sd"]) == pytest.approx((2 / d, sd))
            row = pick(table, f"{first}_overlap", module=name)
            assert row["chance_fresh_mean"] == pytest.approx(random_subspaces.first_vector_mean(d))


def test_chance_of_the_right_side_with_own_a_is_that_of_the_draws():
    records = records_of(deltas_of(), ks=(2, 3))
    table, over = numbers(records, "module", {}), numbers(records, "global", {})
    chances = [made["pairs"][0]["chance"] for made in records if made["pairs"][0]["reason"] is None]
    place = next(made["module"] for made in records if made["pairs"][0]["chance"] is chances[1])
    for i, k in enumerate((2, 3)):
        for which in OWN:
            row, found = pick(table, f"right_{which}", k=k, module=place), chances[1]["own"][i][f"right_{which}"]
            assert (row["chance_own_mean"], row["chance_own_sd"]) == (found["mean"], found["sd"])
            assert row["chance_own_z"] == pytest.approx((row["value"] - found["mean"]) / found["sd"])
        means_have(over, "right_overlap_mean", [chance["own"][i]["right_overlap"] for chance in chances], k=k)
    means_have(over, "v1_overlap_mean", [chance["own_v1_overlap"] for chance in chances])


def means_have(table, measure, found, **place):
    """Independent numbers' mean: their variances add up."""
    row = pick(table, measure, **place)
    assert row["chance_own_mean"] == pytest.approx(np.mean([one["mean"] for one in found]))
    assert row["chance_own_sd"] == pytest.approx(np.sqrt(sum(one["sd"] ** 2 for one in found)) / len(found))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 36])
def test_medians_and_means_over_modules_are_those_of_modules_drawn_together(n):
    """By brute force: other draws of skewed angles, each module's of its own law, combined draw by draw."""
    rng = np.random.default_rng(n)
    laws = [(rng.uniform(5, 20), rng.uniform(2, 5), rng.uniform(1, 6)) for _ in range(n)]

    def drawn(draws):
        angles = [np.minimum(90, start + size * rng.gamma(shape, size=draws)) for start, size, shape in laws]
        return np.array(angles)

    records = []
    for i, values in enumerate(drawn(4000)):
        made = record(str(i), 0, deltas_of(zero=set())["layers.0.q"])
        overlaps = np.cos(np.radians(values))
        right = {2: {which: overlaps if which == "overlap" else values for which in OWN}}
        made["pairs"][0]["chance"] |= own_row(0.1, right, overlaps)
        records.append(made)
    table, values = numbers(records, "layer", {}), drawn(20000)
    overlaps = np.cos(np.radians(values)).mean(0)
    expected = {f"right_{which}_median": np.median(values, axis=0) for which in ANGLES}
    for measure, draws in (expected | {"right_overlap_mean": overlaps, "v1_overlap_mean": overlaps}).items():
        row = pick(table, measure)
        assert row["chance_own_mean"] == pytest.approx(draws.mean(), abs=0.08 * draws.std()), measure
        assert row["chance_own_sd"] == pytest.approx(draws.std(), rel=0.06), measure


def test_a_checkpoint_has_no_own_a():
    deltas = deltas_of(zero=set())
    for own in ("ac", "a"):  # b is a checkpoint; two of the three are
        records = records_of(deltas, own=own)
        for level in ("module", "global"):
            rows = [row for row in rows_of(numbers(records, level, {})) if row["b"]]
            for row in rows:
                known = [not np.isnan(row[f"chance_own_{key}"]) for key in ("mean", "sd", "z")]
                assert known == [{row["a"], row["b"]} <= set(own)] * 3, row
                assert not np.isnan(row["chance_fresh_z"])


def test_draws_of_own_a_in_some_modules_alone_give_nothing_over_modules():
    deltas = deltas_of(zero=set())
    records = records_of(deltas)
    records[1] = record("layers.0.v", 0, deltas["layers.0.v"], own=False)
    rows = [row for row in rows_of(numbers(records, "layer", {})) if row["b"]]
    for row in rows:
        known = [not np.isnan(row[f"chance_own_{key}"]) for key in ("mean", "sd", "z")]
        assert known == [row["layer"] != 0] * 3, row


def test_draws_that_differ_by_rounding_alone_have_no_z():
    records = records_of(deltas_of(zero=set()))
    rounded = np.arange(DRAWS) / DRAWS
    for made in records:
        right = {2: dict.fromkeys(OWN, 1e-06 * rounded)}
        made["pairs"][0]["chance"] |= own_row(0.1, right, 1 - 1e-16 * rounded)
    for level, over in (("module", ""), ("global", "_median")):
        table = numbers(records[:1], level, {})
        for measure in (f"right_smallest{over}", f"right_median{over}", f"v1_overlap{'_mean' if over else ''}"):
            row = pick(table, measure)
            assert row["chance_own_sd"] == 0
            assert np.isnan(row["chance_own_z"])


# Seeds


def test_seed_columns():
    deltas = deltas_of(zero={("layers.0.v", "c")})
    records = records_of(deltas)
    noise = {("a", "b"): [("a", "c"), ("b", "c")], ("a", "c"): [("b", "c")]}
    for level in ("module", "layer", "global"):
        table = numbers(records, level, noise)
        places = [key for key in ("module", "layer") if key in table]
        rows = {tuple(r[key] for key in (*places, "a", "b", "measure")): r for r in rows_of(table)}
        for (*place, a, b, measure), row in rows.items():
            seeds = [row[f"seed_{key}"] for key in ("n", "mean", "sd", "z")]
            if b is None or measure.startswith(("coefficient", "orthogonal_fraction_by_module")):
                assert np.isnan(seeds).all(), measure
                continue
            theirs = [rows[(*place, *pair, measure)]["value"] for pair in noise.get((a, b), [])]
            theirs = [value for value in theirs if not np.isnan(value)]
            mean = np.mean(theirs) if theirs else np.nan
            sd = np.std(theirs, ddof=1) if len(theirs) > 1 else np.nan
            z = (row["value"] - mean) / sd if sd else np.nan
            assert seeds == pytest.approx([len(theirs), mean, sd, z], rel=1e-6, abs=1e-9, nan_ok=True), measure
    assert {r["seed_n"] for r in rows.values() if (r["a"], r["b"], r["measure"]) == ("a", "b", "cosine")} == {2}


def test_seeds_of_another_k_do_not_count():
    rng = np.random.default_rng(1)
    low = {run: rng.normal(size=(9, r)) @ rng.normal(size=(r, 7)) for run, r in zip("abc", (3, 4, 5), strict=True)}
    table = numbers([record("m", 0, low, ks=(2, 9))], "global", {("a", "b"): [("a", "c"), ("b", "c")]})
    assert pick(table, "left_largest_median", k=2)["seed_n"] == 2
    assert pick(table, "left_largest_median", k=3)["seed_n"] == 1  # b and c use 4


# Refusals


def test_modules_with_unlike_runs_are_refused():
    deltas = deltas_of()
    del deltas["layers.2.q"]["c"]
    with pytest.raises(UserError, match=r"layers\.2\.q does not hold the runs of layers\.0\.q: it lacks \['c'\]"):
        numbers(records_of(deltas), "global", {})


def test_modules_with_unlike_pairs_or_k_are_refused():
    records = records_of(deltas_of())
    del records[1]["pairs"][0]
    with pytest.raises(UserError, match=r"layers\.0\.v does .* lacks \[\('a', 'b'\)\] .* measure all modules again"):
        numbers(records, "module", {})
    records = records_of(deltas_of())
    records[2] = record("layers.10.q", 10, deltas_of()["layers.10.q"], ks=(2, 3))
    with pytest.raises(UserError, match=r"layers\.10\.q does not .* top_k of layers\.0\.q.* holds \[3\] besides"):
        numbers(records, "layer", {})


def test_nothing_gives_nothing_and_an_unknown_level_is_refused():
    for level in COLUMNS:
        table = numbers([], level, {})
        assert tuple(table) == COLUMNS[level]
        assert {len(column) for column in table.values()} == {0}
    head = record("head", None, deltas_of()["layers.0.q"])
    assert {len(column) for column in numbers([head], "layer", {}).values()} == {0}
    with pytest.raises(ValueError, match="layer"):
        numbers([], "layers", {})


def test_one_run_has_no_pairs():
    table = numbers([record("m", 0, {"a": np.eye(3)})], "global", {})
    assert set(table["b"]) == {None}
    assert table["measure"] == ["norm", "stable_rank_mean", "effective_rank_sigma_mean", "effective_rank_sigma2_mean"]
