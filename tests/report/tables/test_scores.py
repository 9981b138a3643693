"""Tables of the scores against hand counts; what a model writes stays in its cell."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltageom.display.against import against
from deltageom.display.table_files import read_table, write_table
from deltageom.errors import UserError
from deltageom.evaluation import power, scores, statistics
from deltageom.report.tables.scores import accuracy, comparisons, decontamination, disagreements, graders, pass_at_k
from deltageom.study.running import Statistics
from deltageom.text import plain
from tests.evaluation.graded import NO_OVERLAP, STATISTICS, answers


def told(family):
    return Statistics(family=family, resamples=500, seed=42)


# accuracy and pass@k


def test_accuracy_of_one_answer_a_problem():
    items = answers("1111111100")
    items[8] |= {"finish_reason": "length", "extracted": None, "length": 110}
    items[9] |= {"math_verify": None, "math_verify_failure": "timeout"}
    for number, other in ((0, False), (1, False), (8, True)):
        items[number] |= {"math_verify": other}
    row = accuracy({("base", "easy"): items}, STATISTICS).iloc[0]
    assert row[["n", "samples", "correct"]].tolist() == [10, 1, 8]
    assert row["accuracy"] == 0.8
    assert row[["answered_rate", "truncated_rate", "no_verdict_rate"]].tolist() == [0.9, 0.1, 0.1]
    assert row["math_verify_accuracy"] == 7 / 9
    assert row["mean_length"] == 20.0
    z, p, n = 1.959963984540054, 0.8, 10  # Wilson 1927
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert row["interval"] == "Wilson"
    assert row[["low", "high"]].tolist() == pytest.approx([centre - half, centre + half], rel=1e-9)
    assert row[["exact_low", "exact_high"]].tolist() == pytest.approx([0.44390, 0.97479], abs=1e-5)


def test_accuracy_of_several_samples_is_bootstrapped_over_problems():
    items = answers("111000", "110000", "100000", "111100")
    row = accuracy({("base", "hard"): items}, STATISTICS).iloc[0]
    assert row[["n", "samples", "correct"]].tolist() == [6, 4, 10]
    assert row["accuracy"] == pytest.approx(10 / 24, rel=1e-12)
    assert row["interval"] == "bootstrap over problems"
    expected = statistics.bootstrap([1, 0.75, 0.5, 0.25, 0, 0], 500, 42)
    assert tuple(row[["low", "high"]]) == pytest.approx(expected, rel=1e-12)
    assert row[["exact_low", "exact_high"]].isna().all()


def test_an_accuracy_without_spread_or_verdict_has_no_number_for_it():
    items = answers("000", "000", math_verify=None, math_verify_failure="crash")
    row = accuracy({("base", "hard"): items}, STATISTICS).iloc[0]
    assert row["accuracy"] == 0
    assert row[["low", "high", "math_verify_accuracy"]].isna().all()
    assert row["no_verdict_rate"] == 1


def test_pass_at_k_is_of_powers_of_two_up_to_the_samples():
    graded = {("base", "easy"): answers("10"), ("base", "hard"): answers("100", "100", "110", "000", "000", "000")}
    table = pass_at_k(graded, STATISTICS)
    assert table["benchmark"].tolist() == ["hard"] * 3
    assert table["k"].tolist() == [1, 2, 4]
    by_problem = {1: [3 / 6, 1 / 6, 0], 2: [1 - 3 / 15, 5 / 15, 0], 4: [1, 1 - 5 / 15, 0]}
    for row in table.itertuples():
        assert row.value == pytest.approx(np.mean(by_problem[row.k]), rel=1e-12)
        assert (row.low, row.high) == pytest.approx(statistics.bootstrap(by_problem[row.k], 500, 42), rel=1e-12)
    assert pass_at_k({("base", "easy"): answers("10")}, STATISTICS).empty


# comparisons


@pytest.fixture
def graded():
    """Three models in the study's order; `y` is the reference."""
    easy = {"base": "0000000011", "x": "1111110011", "y": "1111111101"}
    hard = {"base": ["000010", "000000"], "x": ["111110", "111101"], "y": ["000010", "000001"]}
    found = {(model, "easy"): answers(solved) for model, solved in easy.items()}
    return found | {(model, "hard"): answers(*solved) for model, solved in hard.items()}


def compared(graded, family):
    return comparisons(graded, told(family), "y").set_index(["benchmark", "a", "b"])


def test_comparisons_name_the_base_then_the_reference_second(graded):
    table = compared(graded, "base")
    pairs = [("y", "base"), ("x", "base"), ("x", "y")]
    assert table.index.tolist() == [(benchmark, *pair) for benchmark in ("easy", "hard") for pair in pairs]
    assert table[["only_a", "only_b"]].loc["easy"].to_numpy().tolist() == [[8, 1], [6, 0], [1, 2]]
    assert table["difference"].loc["easy"].tolist() == pytest.approx([0.7, 0.6, -0.1])  # a minus b
    assert table[["only_a", "only_b"]].loc["hard"].isna().all(axis=None)
    assert table["test"].loc["easy"].unique().tolist() == ["McNemar, exact"]
    assert table["test"].loc["hard"].unique().tolist() == ["sign-flip permutation"]
    assert table["p"].tolist() == pytest.approx([20 / 512, 2 / 64, 1.0, 1.0, 2 / 2**5, 2 / 2**4])
    row, found = (
        table.loc["hard", "x", "y"],
        scores.compare(graded["x", "hard"], graded["y", "hard"], 500, 42),
    )
    assert row[["low", "high", "minimum_detectable"]].tolist() == [found.low, found.high, found.minimum_detectable]
    assert table.loc["easy", "x", "base"]["minimum_detectable"] == power.detectable_by_mcnemar(10, 0.6)


@pytest.mark.parametrize(
    ("family", "declared"),
    [
        ("base", [True, True, False]),
        ("compare_with", [False, False, True]),
        ("all", [True, True, True]),
    ],
)
def test_holm_is_over_the_family_and_the_others_are_exploration_by_benchmark(graded, family, declared):
    table = compared(graded, family)
    assert table["family"].tolist() == declared * 2
    inside = table[table["family"]]
    assert inside["p_holm"].tolist() == pytest.approx(statistics.holm(inside["p"]))  # all benchmarks together
    assert inside["q_bh"].isna().all()
    outside = table[~table["family"]]
    assert outside["p_holm"].isna().all()
    for _, others in outside.groupby("benchmark"):
        assert others["q_bh"].tolist() == pytest.approx(statistics.benjamini_hochberg(others["p"]))


def test_holm_by_hand(graded):
    p_holm = compared(graded, "base")["p_holm"].dropna()
    # of 20/512, 2/64, 1, 2/32: the smallest by 4, then by 3, 2, 1, never falling
    assert p_holm.tolist() == pytest.approx([4 * 2 / 64, 4 * 2 / 64, 1, 4 * 2 / 64])


def test_a_mistake_names_the_file(graded):
    with pytest.raises(UserError, match=r"graded/x/easy\.jsonl and graded/base/easy\.jsonl have different problems"):
        compared(graded | {("x", "easy"): answers("111")}, "all")
    bare = [{k: v for k, v in item.items() if k != "math_verify"} for item in answers("1")]
    with pytest.raises(UserError, match=r"graded/x/easy\.jsonl: no 'math_verify' in a record: grade"):
        accuracy({("x", "easy"): bare}, STATISTICS)
    for failure in (None, "else"):
        items = answers("1", math_verify=None, math_verify_failure=failure)
        with pytest.raises(UserError, match=r"graded/x/easy\.jsonl: math_verify .* grade the answers with math-verify"):
            graders({("x", "easy"): items})


def test_turned_comparison_has_the_other_sign(graded):
    table = comparisons(graded, told("all"), "y")
    there = table[(table["a"] == "x") & (table["b"] == "base")].reset_index(drop=True)
    turned = against(table, "base", ["x", "y"]).query("run == 'x'").reset_index(drop=True)
    assert turned["difference"].tolist() == (-there["difference"]).tolist()
    assert turned["low"].tolist() == (-there["high"]).tolist()
    assert turned["high"].tolist() == (-there["low"]).tolist()
    assert turned["only_b"].tolist() == there["only_a"].tolist()
    assert turned["p"].tolist() == there["p"].tolist()


# the two graders


def differing():
    items = answers("1110000000")
    items[9] |= {"math_verify": True}
    items[2] |= {"math_verify": False}
    items[3] |= {"math_verify": True, "extracted": "1/2"}
    for number, failure in enumerate(("timeout", "timeout", "memory", "crash", "error"), start=4):
        items[number] |= {"math_verify": None, "math_verify_failure": failure}
    symbolic = answers("10", strict=None)
    symbolic[1] |= {"math_verify": None, "math_verify_failure": "error"}
    return items + [item | {"problem_id": f"s{number}"} for number, item in enumerate(symbolic)]


def test_graders_are_counted_against_each_other():
    table = graders({("base", "easy"): answers("110"), ("x", "easy"): differing()})
    assert table.columns.tolist() == [
        "model", "benchmark", "completions", "both_correct", "both_wrong", "strict_alone", "math_verify_alone",
        "symbolic_gold", "timeout", "memory", "crash", "error", "unread_gold",
    ]  # fmt: skip
    assert table.drop(columns=["model", "benchmark"]).to_numpy().tolist() == [
        [3, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [12, 2, 0, 1, 2, 1, 2, 1, 1, 1, 1],
    ]


def test_each_disagreement_is_a_row(tmp_path):
    items = [item | {"sample": 3} for item in differing()]
    items[4] |= {"extracted": None, "reason": "no answer"}
    table = disagreements({("base", "easy"): answers("10"), ("x", "easy"): items})
    write_table(table, tmp_path, "disagreements")
    for shown in (table, read_table(tmp_path, "disagreements")):
        assert shown["problem_id"].tolist() == [*(f"p{i}" for i in range(2, 10)), "s1"]
        assert set(zip(shown["model"], shown["benchmark"], shown["sample"], strict=True)) == {("x", "easy", 3)}
        assert shown["strict"].tolist()[:8] == [True] + [False] * 7
        assert pd.isna(shown["strict"][8])  # it does not read the gold
        assert shown["math_verify"].tolist()[:2] == [False, True]
        assert shown["math_verify"].isna().tolist() == [False] * 2 + [True] * 5 + [False, True]
        assert shown["failure"].isna().tolist() == [True] * 2 + [False] * 5 + [True, False]
        assert shown["failure"].tolist()[2:7] == ["timeout", "timeout", "memory", "crash", "error"]
        assert shown["extracted"].tolist()[:2] == ["1", "1/2"]
        assert pd.isna(shown["extracted"][2])
        assert shown["reason"][2] == "no answer"


def test_answers_and_ids_are_read_back_as_text(tmp_path):
    items = answers("0000", math_verify=True)
    for item, text in zip(items, ("007", "NA", "1e5", "True"), strict=True):
        item |= {"problem_id": text, "gold": text, "extracted": text}
    write_table(disagreements({("NA", "1"): items}), tmp_path, "disagreements")
    back = read_table(tmp_path, "disagreements")
    for column in ("problem_id", "gold", "extracted"):
        assert back[column].tolist() == ["007", "NA", "1e5", "True"]
    assert back["model"].tolist() == ["NA"] * 4


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=[])))  # lone surrogates, controls, marks of direction and all
def test_what_a_model_writes_stays_in_its_cell(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("tables")
    table = disagreements({("x", "easy"): answers("0", math_verify=True, extracted=text + "x" * 300)})
    shown = table["extracted"][0]
    assert len(shown) == 200
    write_table(table, folder, "t")
    assert read_table(folder, "t")["extracted"].tolist() == [shown]
    row = (folder / "t.md").read_text().splitlines()
    assert len(row) == 3
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row[2])) == 1 + len(table.columns)
    assert not re.search("[<>]", row[2])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a  b\n c", "a b c"),
        ("12345", "12345"),
        ("123456", "1234…"),
        ("12 " + " " * 50, "12…"),  # beyond what is looked at
        ("\x1b[2J", "\ufffd[2J"),
        ("\u202e\ud800", "\ufffd\ufffd"),
        ("日本", "日本"),
    ],
)
def test_plain_text(text, shown):
    assert plain(text, 5) == shown


def test_decontamination_has_a_row_a_benchmark():
    counts = {"problems": 7, "overlapping_problems": 2, "overlapping_training_problems": 3, "identical": 1}
    report = NO_OVERLAP | {"overlap": "drop", "training_problems": 50, "kept": 46}
    table = decontamination(report | {"benchmarks": [{"benchmark": "easy"} | counts]})
    shared = {"words": 13, "overlap": "drop", "training_problems": 50, "dropped": 4}
    assert table.to_dict("records") == [{"benchmark": "easy"} | counts | shared]
    assert decontamination(NO_OVERLAP).empty
