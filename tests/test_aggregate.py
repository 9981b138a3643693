"""Aggregation against the dense vector of all modules stacked."""

import json

import numpy as np
import pytest

from deltageom.adapters import Factors
from deltageom.errors import UserError
from deltageom.geometry.aggregate import aggregate
from deltageom.geometry.measures import measure_module

SHAPES = {"layers.0.q": (9, 7), "layers.0.v": (4, 7), "layers.10.q": (9, 7), "layers.2.q": (12, 5)}
ZERO = {("layers.0.v", "b"), ("layers.2.q", "a")}  # (module, run) without an update


def factors_of(noise=1.0, zero=ZERO):
    """{module: {run: Factors}}; b is a times a factor for each module, plus noise."""
    rng = np.random.default_rng(0)
    result = {}
    for number, (module, (d_out, d_in)) in enumerate(SHAPES.items()):
        b, a = rng.normal(size=(d_out, 3)), rng.normal(size=(3, d_in))
        other = Factors(
            np.hstack([b * (1 + noise * number), noise * rng.normal(size=(d_out, 2))]),
            np.vstack([a, rng.normal(size=(2, d_in))]),
            0.5,
        )
        runs = {"a": Factors(b, a, 1.0), "b": other, "c": Factors(rng.normal(size=(d_out, 3)), a, 1.0)}
        for run in runs:
            if (module, run) in zero:
                runs[run] = Factors(0 * runs[run].b, runs[run].a, 1.0)
        result[module] = runs
    return result


def modules_of(factors):
    rows = [
        {"module": name, "layer": int(name.split(".")[1]), **measure_module(runs, 2)} for name, runs in factors.items()
    ]
    return json.loads(json.dumps(rows))


def stacked(factors, run):
    return np.concatenate([(f[run].scale * f[run].b @ f[run].a).ravel() for f in factors.values()])


def residual_by_module(factors, of, onto):
    """What is left of `of`, each module projected on that of `onto`: its norm, as a fraction."""
    left = []
    for f in factors.values():
        x, y = (f[run].scale * f[run].b @ f[run].a for run in (of, onto))
        left.append(x - (np.vdot(x, y) / np.vdot(y, y) * y if y.any() else 0))
    return np.sqrt(sum((part**2).sum() for part in left)) / np.linalg.norm(stacked(factors, of))


def check(factors, rows):
    for row in rows["runs"]:
        assert row["norm"] == pytest.approx(np.linalg.norm(stacked(factors, row["run"])))
        assert row["n_modules"] == len(factors)
    for row in rows["pairs"]:
        x, y = stacked(factors, row["a"]), stacked(factors, row["b"])
        if not x.any() or not y.any():
            assert row["cosine"] is row["orthogonal_fraction_stacked"] is None
            assert row["orthogonal_fraction_by_module_a_of_b"] is row["orthogonal_fraction_by_module_b_of_a"] is None
            assert row["reason"] == "zero delta"
            continue
        assert row["inner"] == pytest.approx(x @ y)
        assert row["cosine"] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-12)
        alone = np.linalg.norm(y - (x @ y) / (x @ x) * x) / np.linalg.norm(y)
        assert row["orthogonal_fraction_stacked"] == pytest.approx(alone, abs=1e-12)
        a_of_b, b_of_a = (
            row["orthogonal_fraction_by_module_a_of_b"],
            row["orthogonal_fraction_by_module_b_of_a"],
        )
        assert a_of_b == pytest.approx(residual_by_module(factors, of=row["b"], onto=row["a"]), abs=1e-12)
        assert b_of_a == pytest.approx(residual_by_module(factors, of=row["a"], onto=row["b"]), abs=1e-12)
        assert max(a_of_b, b_of_a) <= row["orthogonal_fraction_stacked"] + 1e-12


@pytest.mark.parametrize("noise", [1.0, 0.1, 1e-3])  # cosines .5 to nearly 1
@pytest.mark.parametrize("zero", [ZERO, set()])
def test_global_is_the_stacked_vector(noise, zero):
    factors = factors_of(noise, zero)
    rows = aggregate(modules_of(factors), by="global")
    assert [row["run"] for row in rows["runs"]] == ["a", "b", "c"]
    assert [(row["a"], row["b"]) for row in rows["pairs"]] == [("a", "b"), ("a", "c"), ("b", "c")]
    check(factors, rows)


def test_a_layer_is_the_stacked_vector_of_its_modules_in_numeric_order():
    factors = factors_of()
    rows = aggregate(modules_of(factors), by="layer")
    assert [row["layer"] for row in rows["runs"]] == [0, 0, 0, 2, 2, 2, 10, 10, 10]
    for layer in (0, 2, 10):
        of_layer = {name: f for name, f in factors.items() if name.startswith(f"layers.{layer}.")}
        check(of_layer, {key: [row for row in rows[key] if row["layer"] == layer] for key in rows})


def test_a_module_alone_keeps_its_numbers():
    factors = {"layers.10.q": factors_of()["layers.10.q"]}
    module = modules_of(factors)[0]
    row, pair = aggregate([module], by="global")["pairs"][0], module["pairs"][0]
    assert row["cosine"] == pytest.approx(pair["cosine"])
    for key in ("stacked", "by_module_a_of_b", "by_module_b_of_a"):
        assert row[f"orthogonal_fraction_{key}"] == pytest.approx(pair["orthogonal_fraction"])
    assert row["left_smallest_median"] == pair["left_angles"][0]
    assert row["right_largest_median"] == pair["right_angles"][-1]


def test_a_nearly_parallel_stack_keeps_its_digits():
    """cos = 1 - 5e-21 is 1 in float64; the orthogonal fraction is 1e-10."""
    eye = np.eye(4)
    runs = [
        {"a": Factors(eye[:, :1], eye[:1], 1.0), "b": Factors(eye[:, :2] * [1, 1e-10], eye[:2], 1.0)},
        {"a": Factors(eye[:, :1], eye[:1], 1.0), "b": Factors(eye[:, :2] * [1, 1e-10], eye[:2], 1.0)},
    ]
    modules = [{"module": str(i), "layer": 0, **measure_module(run, 1)} for i, run in enumerate(runs)]
    row = aggregate(modules, by="global")["pairs"][0]
    assert row["orthogonal_fraction_stacked"] == pytest.approx(1e-10, rel=1e-5)
    for still in "ab":  # two modules more, in which only one of the runs moves, and hardly
        run = {name: Factors(eye[:, :1], eye[:1], 0.0 if name == still else 1e-10) for name in "ab"}
        modules.append({"module": still, "layer": 0, **measure_module(run, 1)})
    row = aggregate(modules, by="global")["pairs"][0]
    assert row["orthogonal_fraction_stacked"] == pytest.approx(2**0.5 * 1e-10, rel=1e-5)


def test_one_coefficient_and_one_a_module_differ():
    """b doubles a in one module and drops it in another: parallel to a in every module, yet not over all."""
    eye = np.eye(3)
    a = Factors(eye[:, :1], eye[:1], 1.0)
    modules = [
        {"module": str(scale), "layer": 0, **measure_module({"a": a, "b": Factors(a.b, a.a, scale)}, 1)}
        for scale in (2.0, 0.0)
    ]
    row = aggregate(modules, by="global")["pairs"][0]
    assert row["cosine"] == pytest.approx(0.5**0.5)
    assert row["orthogonal_fraction_stacked"] == pytest.approx(0.5**0.5)
    assert row["orthogonal_fraction_by_module_a_of_b"] == pytest.approx(0, abs=1e-12)
    assert row["orthogonal_fraction_by_module_b_of_a"] == pytest.approx(0.5**0.5)
    assert (row["n_modules"], row["n_defined"], row["reason"]) == (2, 1, None)


def test_medians_and_means_are_over_the_modules_where_they_are_defined():
    modules = modules_of(factors_of())
    rows = aggregate(modules, by="global")
    pairs = [module["pairs"][0] for module in modules]
    defined = [pair for pair in pairs if pair["reason"] is None]
    row = rows["pairs"][0]
    assert (row["n_modules"], row["n_defined"], row["k_min"]) == (4, 2, 2)
    for side in ("left", "right"):
        for which, at in (("smallest", 0), ("largest", -1)):
            values = [pair[f"{side}_angles"][at] for pair in defined]
            assert row[f"{side}_{which}_median"] == pytest.approx(np.median(values))
        assert row[f"{side}_overlap"] == pytest.approx(np.mean([pair[f"{side}_overlap"] for pair in defined]))
    for key in ("u1_overlap", "v1_overlap"):
        assert row[key] == pytest.approx(np.mean([pair[key] for pair in defined]))
    run = rows["runs"][0]
    own = [module["runs"][0] for module in modules if module["runs"][0]["reason"] is None]
    assert run["n_defined"] == len(own) == 3
    for key in ("stable_rank", "effective_rank_sigma", "effective_rank_sigma2"):
        assert run[key] == pytest.approx(np.mean([row[key] for row in own]))
    three = aggregate([module for module in modules if module["layer"] != 2], by="global")["pairs"][1]
    values = [module["pairs"][1]["left_angles"][0] for module in modules if module["layer"] != 2]
    assert three["left_smallest_median"] == sorted(values)[1]  # the median, not the mean


def test_a_run_that_did_not_move_is_undefined_and_says_so():
    factors = factors_of(zero={(module, "b") for module in SHAPES})
    rows = aggregate(modules_of(factors), by="global")
    json.dumps(rows, allow_nan=False)
    check(factors, rows)
    run, pair = rows["runs"][1], rows["pairs"][0]
    assert (run["norm"], run["stable_rank"], run["n_defined"], run["reason"]) == (0, None, 0, "zero delta")
    assert pair["left_smallest_median"] is pair["u1_overlap"] is pair["k_min"] is None
    assert rows["pairs"][1]["reason"] is None


def test_modules_with_unlike_runs_are_refused():
    factors = factors_of()
    del factors["layers.2.q"]["c"]
    with pytest.raises(UserError, match=r"layers\.2\.q holds runs \['a', 'b'\]"):
        aggregate(modules_of(factors), by="global")


def test_nothing_gives_nothing_and_an_unknown_level_is_refused():
    assert aggregate([], by="global") == aggregate([], by="layer") == {"runs": [], "pairs": []}
    with pytest.raises(ValueError, match="layer"):
        aggregate([], by="module")
