"""Tables against dense computation and a known path; what is written is what is read."""

import math
import re
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltageom.deltas.delta import Factors
from deltageom.display.against import against
from deltageom.display.columns import MATRIX_KEY
from deltageom.display.markdown import cell, markdown
from deltageom.display.table_files import MARKDOWN_ROWS, read_table, write_table
from deltageom.files import write_json, write_jsonl
from deltageom.geometry.module_numbers import measure_module
from deltageom.measures.cka import cka
from deltageom.measures.shared.losses.path_tables import barriers, losses
from deltageom.report.tables.build import build_tables, collect, training, training_curves
from deltageom.report.tables.geometry import cosine_matrix, of_pairs, of_runs
from deltageom.study.load import load_study
from deltageom.study.settings import TableSettings
from deltageom.text import escape
from tests.conftest import ROOT
from tests.evaluation.graded import NO_OVERLAP, STATISTICS, answers

SETTINGS = {"adapter": "lora", "learning_rate": 1e-3, "schedule": "cosine", "warmup": 0.25, "steps": 64}
SETTINGS |= {"report_step": None, "batch_size": 16, "reduction": "token", "weight_decay": 0.01, "max_grad_norm": 1.5}
SETTINGS |= {"max_length": 256, "match_norm": None, "order": "own", "rollouts_of": None, "seed": 42}
LORA = {"init_seed": 7, "rank": 8, "alpha": 16.0, "rslora": False, "dropout": 0.125}
ANGLES = ["left_smallest", "left_largest", "right_smallest", "right_largest"]
OVERLAPS = ["left_overlap", "right_overlap", "u1_overlap", "v1_overlap"]


def run(method, **options):
    return {"method": method, "options": options, "training": SETTINGS | {"lora": LORA | {"target_modules": ["q"]}}}


def build(runs=None, graded=None, deltas=None, metrics=None):
    """Every table of these records; of what is not given, nothing."""
    made = modules(deltas or {})
    points = losses({})
    measured = {"connectivity": points, "barriers": barriers(points, {}), "cka": cka({})}
    return build_tables(runs or {}, {}, metrics or {}, graded or {}, made, measured, NO_OVERLAP, STATISTICS, "x")


def modules(updates):
    """Geometry records from dense deltas {module: {run: (d_out, d_in)}}: B the delta, A the identity."""
    return [
        {"module": name, "layer": int(name.split(".")[1])}
        | {"shape": next(iter(deltas.values())).shape}
        | measure_module(name, {r: Factors(b=w, a=np.eye(w.shape[1]), scale=1.0) for r, w in deltas.items()}, [1, 2])
        for name, deltas in updates.items()
    ]


@pytest.fixture(scope="module")
def updates():
    """Two layers; `y` is `x` in a small module and opposed in a large one; `zero` never moved."""
    rng = np.random.default_rng(0)
    small, large = rng.normal(size=(5, 4)), 10 * rng.normal(size=(6, 4))
    noise = rng.normal(size=(6, 4))
    return {
        "layers.0.self_attn.q_proj": {"x": small, "y": small, "zero": 0 * small},
        "layers.1.self_attn.q_proj": {"x": large, "y": -large + noise, "zero": 0 * large},
    }


def stacked(updates, name):
    return np.concatenate([deltas[name].ravel() for deltas in updates.values()])


# geometry


def test_global_cosine_is_of_the_stacked_updates_not_a_mean(updates):
    built = build(deltas=updates)
    x, y = stacked(updates, "x"), stacked(updates, "y")
    expected = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    by_module = of_pairs(built["geometry_module"]).query("a == 'x' and b == 'y'")["cosine"]
    assert by_module.iloc[0] == pytest.approx(1)
    assert abs(by_module.mean() - expected) > 0.5  # the trap that this test is about
    row = of_pairs(built["geometry_global"]).set_index(["a", "b"]).loc[("x", "y")]
    assert row["cosine"] == pytest.approx(expected, rel=1e-12)
    assert row["orthogonal_fraction_stacked"] == pytest.approx(math.sqrt(1 - expected**2))
    norms = of_runs(built["geometry_global"]).set_index("run")["norm"]
    assert norms["x"] == pytest.approx(np.linalg.norm(x))
    layer = of_pairs(built["geometry_layer"]).set_index(["layer", "a", "b"])["cosine"]
    assert layer[0, "x", "y"] == pytest.approx(1)


def test_angles_are_the_smallest_and_the_largest_in_degrees():
    angle = np.radians(25.0)
    x, y = np.zeros((4, 3)), np.zeros((4, 3))
    x[0, 0], x[1, 1] = 3, 2
    y[0, 0], y[1, 1], y[2, 1] = 3, 2 * np.cos(angle), 2 * np.sin(angle)  # the second output direction turns
    built = build(deltas={"layers.0.q": {"x": x, "y": y}})
    row = of_pairs(built["geometry_module"]).iloc[0]  # of the larger k
    assert row["k"] == 2
    assert row[ANGLES].tolist() == pytest.approx([0, 25, 0, 0], abs=1e-6)


def test_zero_update_is_missing_not_zero(updates):
    built = build(deltas=updates)
    pairs = of_pairs(built["geometry_module"]).query("b == 'zero'")
    assert len(pairs) == 4
    assert pairs[["cosine", "orthogonal_fraction", *ANGLES, *OVERLAPS]].isna().all(axis=None)
    assert (pairs["reason"] == "zero delta").all()
    runs = of_runs(built["geometry_module"]).set_index("run")
    assert (runs.loc["zero", "norm"] == 0).all()
    assert "singular_values" not in runs
    matrix = cosine_matrix(built["geometry_global"], ["zero", "y", "x"])
    assert matrix.columns.tolist() == [MATRIX_KEY, "zero", "y", "x"]
    values = matrix.set_index(MATRIX_KEY)
    assert values.loc["zero"].isna().all()
    assert values["zero"].isna().all()
    assert values.loc["y", "y"] == 1
    assert values.loc["x", "y"] == values.loc["y", "x"] < -0.9


# paths and similarities


def path(nll, tokens=(1, 3)):
    """nll: alpha -> one number a problem."""
    return pd.DataFrame(
        [
            {"alpha": alpha, "problem_id": f"p{i}", "nll": value, "tokens": tokens[i], "uniform": 6.0}
            for alpha, values in nll.items()
            for i, value in enumerate(values)
        ]
    )


def test_loss_is_per_token_over_all_problems_and_barrier_of_a_known_path():
    paths = {("x", "y"): path({1.0: (2, 6), 0.0: (4, 0), 0.5: (3, 9)})}
    points = losses(paths)
    assert points["alpha"].tolist() == [0, 0.5, 1]
    assert points["loss"].tolist() == [1, 3, 2]  # (4 + 0) / 4, not the mean of 4 / 1 and 0 / 3
    assert points["n"].tolist() == [2, 2, 2]
    row = barriers(points, paths).iloc[0]
    assert (row["loss_a"], row["loss_b"], row["uniform"]) == (2, 1, 6)
    # resampled, the path has one problem twice, or both: barriers 2, 0.5 and 1.5 of (4, 3, 2), (0, 9, 6) / 3 and both
    assert (row["chord_low"], row["chord_high"]) == (0, 2)
    assert (row["mean_of_ends"], row["chord"], row["worst_alpha"]) == (1.5, 1.5, 0.5)


def test_points_past_the_ends_are_in_the_table_and_in_no_barrier():
    inside = {1.0: (2, 6), 0.0: (4, 0), 0.5: (3, 9)}
    within, beyond = ({("x", "y"): path(points)} for points in (inside, inside | {-0.5: (99, 9), 1.5: (9, 99)}))
    assert losses(beyond)["alpha"].tolist() == [-0.5, 0, 0.5, 1, 1.5]
    pd.testing.assert_frame_equal(barriers(losses(beyond), beyond), barriers(losses(within), within))


def test_missing_loss_leaves_the_barrier_missing():
    paths = {("x", "y"): path({0.0: (1, 1), 0.5: (math.nan, 1), 1.0: (1, 1)})}
    points = losses(paths)
    assert points["loss"].isna().tolist() == [False, True, False]
    row = barriers(points, paths).iloc[0]
    assert row[["chord_low", "mean_of_ends", "chord", "worst_alpha"]].isna().all()
    assert row["loss_a"] == 0.5


def test_cka_names_the_pair():
    frame = pd.DataFrame({"layer": [0, 1], "estimator": "debiased", "similarity": [math.nan, 0.9], "n": 100})
    table = cka({("x", "y"): frame, ("x", "z"): frame})
    assert table[["a", "b"]].to_numpy().tolist() == [["x", "y"]] * 2 + [["x", "z"]] * 2
    assert table["similarity"].isna().tolist() == [True, False] * 2


def test_against_turns_what_has_a_direction():
    pairs = pd.DataFrame(
        {"a": ["k", "m", "k"], "b": ["m", "z", "z"], "alpha": [0.1, 0.1, 0.1], "worst_alpha": [0.2, 0.2, 0.2]}
        | {"loss_a": [1, 2, 9], "loss_b": [3, 4, 9], "only_a": [5, 6, 9], "only_b": [7, 8, 9]}
        | {"part_a_of_b": [10, 11, 9], "part_b_of_a": [12, 13, 9], "cosine": [0.5, 0.6, 9]}
    )
    turned = against(pairs, "m", ["z", "m", "k"])
    assert turned.to_dict("list") == {
        "run": ["z", "k"], "alpha": [0.1, 0.9], "worst_alpha": [0.2, 0.8], "loss_a": [2, 3], "loss_b": [4, 1],
        "only_a": [6, 7], "only_b": [8, 5], "part_a_of_b": [11, 12], "part_b_of_a": [13, 10],
        "cosine": [0.6, 0.5],
    }  # fmt: skip


# training, files, Markdown


def test_training_holds_the_study_and_the_counts():
    runs = {"x": run("sft"), "y": run("dpo", beta=0.1, max_pairs=4)}
    counts = {
        "x": {"selected": 3, "unit": "rows"},
        "y": {"selected": 2, "mixed": 1, "epochs": 1.5, "ids": []},
    }
    table = training(runs, counts).set_index("run")
    assert table.loc["y", ["method", "options"]].tolist() == ["dpo", "beta=0.1, max_pairs=4"]
    assert table["selected"].tolist() == [3, 2]
    assert table["mixed"].isna().tolist() == [True, False]
    assert table.loc["y", "epochs"] == 1.5
    assert table.loc["x", ["seed", "init_seed", "steps", "unit"]].tolist() == [42, 7, 64, "rows"]
    assert table["report_step"].isna().all()
    assert "ids" not in table
    assert table.loc["x", list(LORA)].to_dict() == LORA
    assert table.loc["x", list(SETTINGS)].dropna().to_dict() == {k: v for k, v in SETTINGS.items() if v is not None}


def test_training_of_a_run_without_adapter_and_of_one_that_matches_a_norm(tmp_path):
    whole, matched = run("sft"), run("dft")
    whole["training"] = whole["training"] | {"adapter": "none"}
    matched["training"] = matched["training"] | {"match_norm": {"run": "x", "how": "scale"}}
    ends = {
        "whole": {"steps_done": 64, "stopped": "steps", "delta_norm": None, "matched_norm": None, "scale": 1.0},
        "matched": {"steps_done": 63, "stopped": "norm", "delta_norm": 2.5, "matched_norm": 3.5, "scale": 4.5},
    }
    table = training({"whole": whole, "matched": matched}, ends)
    write_table(table, tmp_path, "training")
    for shown in (table.set_index("run"), read_table(tmp_path, "training").set_index("run")):
        assert shown.loc["whole", list(LORA)].isna().all()
        assert shown.loc["matched", list(LORA)].to_dict() == LORA
        assert shown.loc["matched", list(ends["matched"])].to_dict() == ends["matched"]
        assert shown.loc["whole", ["delta_norm", "matched_norm"]].isna().all()
        assert shown.loc["matched", "match_norm"] == "x, scale"
        assert pd.isna(shown.loc["whole", "match_norm"])


def test_curves_are_each_runs_metrics_in_the_order_of_the_study(updates):
    one = pd.DataFrame({"step": [1, 1, 2], "metric": ["loss", "grad_norm", "loss"], "value": [0.5, 7.0, math.nan]})
    runs = {"y": run("sft"), "x": run("dft")}
    built = build(runs, deltas=updates, metrics={"x": one.assign(value=9.0), "y": one})
    curves = built["training_curves"]
    assert curves.columns.tolist() == ["run", "step", "metric", "value"]
    assert curves["run"].tolist() == ["y"] * 3 + ["x"] * 3
    assert curves["step"].tolist() == [1, 1, 2] * 2
    assert curves["metric"].tolist() == ["loss", "grad_norm", "loss"] * 2
    assert curves["value"].isna().tolist() == [False, False, True, False, False, False]
    assert curves["value"].dropna().tolist() == [0.5, 7.0, 9.0, 9.0, 9.0]


def test_curves_survive_the_file_with_their_types(tmp_path):
    curves = training_curves(
        {"1": pd.DataFrame({"value": [1 / 3], "metric": ["loss"], "step": pd.array([7], "int32")})}
    )
    write_table(curves, tmp_path, "training_curves")
    for shown in (curves, read_table(tmp_path, "training_curves")):
        assert shown.to_dict("records") == [{"run": "1", "step": 7, "metric": "loss", "value": 1 / 3}]
    assert training_curves({}).columns.tolist() == curves.columns.tolist()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(), min_size=1), st.integers(-(2**53), 2**53))
def test_read_gives_back_every_bit(tmp_path_factory, values, whole):
    folder = tmp_path_factory.mktemp("tables")
    names = ["NA", "1", "007", "run", "null"]
    frame = pd.DataFrame({"run": [names[i % 5] for i in range(len(values))], "p": values, "seed": whole})
    write_table(frame, folder, "t")
    back = read_table(folder, "t")
    assert back["run"].tolist() == frame["run"].tolist()
    assert back["seed"].tolist() == frame["seed"].tolist()
    np.testing.assert_array_equal(back["p"].to_numpy(float), frame["p"].to_numpy(float))


def test_matrix_of_runs_named_like_columns_survives_the_file(tmp_path):
    names = ["run", "a", "model", "1"]
    rows = [(run, None, "norm", 1.0) for run in names]
    rows += [(*pair, "cosine", 0.25) for pair in combinations(names, 2)]
    table = pd.DataFrame(rows, columns=["a", "b", "measure", "value"]).assign(k=math.nan)
    write_table(cosine_matrix(table, names), tmp_path, "cosine_matrix")
    back = read_table(tmp_path, "cosine_matrix").set_index(MATRIX_KEY)
    assert back.index.tolist() == back.columns.tolist() == names
    assert back.to_numpy().tolist() == (0.25 + 0.75 * np.eye(4)).tolist()


def test_long_table_says_what_it_leaves_out(tmp_path):
    write_table(pd.DataFrame({"n": range(MARKDOWN_ROWS + 1)}), tmp_path, "long")
    text = (tmp_path / "long.md").read_text()
    assert text.count("\n|") == MARKDOWN_ROWS + 1
    assert text.endswith(f"The first {MARKDOWN_ROWS} of {MARKDOWN_ROWS + 1} rows; all are in long.csv.\n")
    assert len(read_table(tmp_path, "long")) == MARKDOWN_ROWS + 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.123456, "0.1235"),
        (5e-6, "5e-06"),
        (12345.6, "12346"),
        (None, "–"),
        (math.nan, "–"),
        (pd.NA, "–"),
        (7, "7"),
        ("a|b", r"a\|b"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("rift_linear", "rift_linear"),
        ("_x_", r"\_x\_"),
    ],
)
def test_cell(value, shown):
    assert cell(value) == shown


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_any_text_stays_in_its_cell(text):
    rows = markdown(pd.DataFrame({"reason": [text], "other": ["x"]})).splitlines()
    assert len(rows) == 3
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", rows[2])) == 3
    assert not re.search("[<>]", escape(text))


def test_study_of_one_run_has_every_table_and_no_pair(updates):
    alone = {name: {"x": deltas["x"]} for name, deltas in updates.items()}
    built = build({"x": run("sft")}, {("x", "easy"): answers("10")}, alone)
    empty = {name for name, table in built.items() if table.empty}
    assert empty == {
        "training_curves", "connectivity", "barriers", "cka",
        "comparisons", "pass_at_k", "disagreements", "decontamination",
    }  # fmt: skip
    for name in ("comparisons", "connectivity", "barriers", "cka"):
        assert against(built[name], "x", ["x"]).empty
    for level in ("module", "layer", "global"):
        assert against(of_pairs(built[f"geometry_{level}"]), "x", ["x"]).empty
    assert built["cosine_matrix"].to_numpy().tolist() == [["x", 1.0]]


# the records of a study


@pytest.fixture
def records(tmp_path, updates):
    """A results folder as the rules leave it: runs `x` and `b` (the study's order), one benchmark, two modules."""
    from deltageom.training.output.metrics import write_metrics

    ends = {"steps_done": 2, "stopped": "norm", "delta_norm": 2.5, "matched_norm": 3.5, "scale": 4.5}
    for number, name in enumerate(["x", "b"]):
        counts = ends | {"rows": 8, "selected": 4 + number, "epochs": 0.5}
        write_json(tmp_path / f"runs/{name}/selection.json", counts)
        history = [
            {"step": step, "loss": 10.0 * number + step, "grad_norm": 0.5, "logps/chosen": -4.0} for step in (1, 2)
        ]
        write_metrics(tmp_path / f"runs/{name}/metrics.parquet", [*history, {"step": 2, "train_loss": 9.0}], counts)
    for number, model in enumerate(["base", "x", "b"]):
        write_jsonl(tmp_path / f"graded/{model}/easy.jsonl", answers("0" * (3 - number) + "1" * number))
    overlaps = {"benchmark": "easy", "problems": 3, "overlapping_problems": 1}
    overlaps |= {"overlapping_training_problems": 2, "identical": 1}
    write_json(tmp_path / "decontamination/report.json", NO_OVERLAP | {"benchmarks": [overlaps]})
    deltas = {name: {"x": of["x"], "b": of["y"]} for name, of in updates.items()}
    for module in modules(deltas):
        write_json(tmp_path / f"geometry/{module['module']}.json", module)
    (tmp_path / "connectivity").mkdir()
    path({1.0: (2, 6), 0.0: (4, 0)}).assign(b="x").to_csv(tmp_path / "connectivity/b.csv", index=False)
    (tmp_path / "cka").mkdir()
    similar = pd.DataFrame({"b": "x", "layer": [0], "estimator": "biased", "similarity": [math.nan], "n": 4})
    similar.to_csv(tmp_path / "cka/b.csv", index=False)
    return tmp_path


def test_collect_reads_what_the_rules_have_written(records, updates):
    study = load_study({}, ROOT)
    told = {"runs": {"b": study.runs["dft"], "x": study.runs["sft"]}, "order": ["x", "b"]}
    told |= {"benchmarks": ["easy"], "modules": list(updates), "measures": ["cka", "connectivity"], "compare_with": "x"}
    told |= {"statistics": STATISTICS.model_copy(update={"family": "compare_with"})}
    built = collect(records, TableSettings(**told))
    curves = built["training_curves"]
    assert curves["run"].drop_duplicates().tolist() == ["x", "b"]
    assert curves[curves["metric"] == "loss"].drop(columns="metric").to_numpy().tolist() == [
        ["x", 1, 1.0],
        ["x", 2, 2.0],
        ["b", 1, 11.0],
        ["b", 2, 12.0],
    ]
    assert sorted(set(curves["metric"])) == ["epoch", "grad_norm", "log_prob_chosen", "loss"]
    assert curves.loc[curves["metric"] == "epoch", "value"].tolist() == [0.25, 0.5] * 2
    trained = built["training"].set_index("run")
    assert trained["selected"].to_dict() == {"x": 4, "b": 5}
    assert trained["method"].to_dict() == {"x": "sft", "b": "dft"}
    assert trained.loc["x", ["stopped", "delta_norm", "matched_norm", "scale"]].tolist() == ["norm", 2.5, 3.5, 4.5]
    assert built["accuracy"].set_index("model")["correct"].to_dict() == {"base": 0, "x": 1, "b": 2}
    assert built["comparisons"][["a", "b", "family"]].to_numpy().tolist() == [
        ["x", "base", False],
        ["b", "base", False],
        ["b", "x", True],
    ]
    assert built["decontamination"][["benchmark", "overlapping_training_problems"]].to_numpy().tolist() == [["easy", 2]]
    assert built["cosine_matrix"][MATRIX_KEY].tolist() == ["x", "b"]
    assert built["connectivity"][["a", "b", "loss"]].to_numpy().tolist() == [["b", "x", 1.0], ["b", "x", 2.0]]
    assert built["cka"][["a", "b", "n"]].to_numpy().tolist() == [["b", "x", 4]]
