"""The summary says what the tables say, embeds each figure and escapes every name."""

import math
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deltageom import figures, tables
from deltageom.adapters import Factors
from deltageom.geometry.measures import measure_module
from deltageom.methods import interface
from deltageom.study import load_study
from deltageom.summary import full_name, summary

RUNS = ["sft", "dft", "dpo"]


@pytest.fixture(scope="module")
def study():
    """The toy study, as the command line hands it over, with three of its runs."""
    resolved = load_study({}, Path(__file__).parent.parent).model_dump(mode="json")
    return resolved | {"runs": {name: resolved["runs"][name] for name in RUNS}}


def answers(solved):
    return [
        {"problem_id": i, "correct": c == "1", "finish_reason": "stop", "extracted": c, "length": 9}
        for i, c in enumerate(solved)
    ]


@pytest.fixture(scope="module")
def built(study):
    """base, sft and dft solve as much on `easy`, dpo nothing; nobody differs on `hard`; dpo never moved in layer 0."""
    rng = np.random.default_rng(0)
    solved = {"base": "1" * 12, "sft": "1" * 12, "dft": "1" * 11 + "0", "dpo": "0" * 12}
    evaluations = {(m, "easy"): answers(s) for m, s in solved.items()}
    evaluations |= {(m, "hard"): answers("10") for m in solved}
    modules = []
    for layer in range(2):
        b, eye = rng.normal(size=(6, 4)), np.eye(4)
        deltas = {"sft": b, "dft": b + rng.normal(size=(6, 4)), "dpo": (0 if layer == 0 else -1) * b}
        factors = {run: Factors(b=delta, a=eye, scale=1.0) for run, delta in deltas.items()}
        modules.append({"module": f"layers.{layer}.q", "layer": layer} | measure_module(factors, 2))
    pairs = list(combinations(sorted(RUNS), 2))
    height = {("dft", "dpo"): 3.0, ("dft", "sft"): 0.5, ("dpo", "sft"): math.nan}
    paths = {
        pair: pd.DataFrame(
            {"alpha": [0.0, 0.25, 1.0], "problem_id": "p", "nll": [1.0, 1 + height[pair], 1.0], "tokens": 1}
        )
        for pair in pairs
    }
    cka = pd.DataFrame(
        [(0, math.nan, math.nan), (1, 0.5, 0.7), (2, 0.8, 0.9)], columns=["layer", "debiased", "biased"]
    ).melt("layer", var_name="estimator", value_name="similarity")
    selections = {run: {"problems": 512, "selected": 400} for run in RUNS}
    return tables.build(study["runs"], selections, evaluations, modules, paths, dict.fromkeys(pairs, cka.assign(n=100)))


def rows_of(page, heading):
    """Cells of the first table with this column, by the first cell."""
    tables_ = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    split = [[[c.strip() for c in line.strip("|").split(" |")] for line in t] for t in tables_]
    head, _, *rows = next(t for t in split if heading in t[0])
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def test_page_says_what_was_compared(study, built):
    page = summary(study, built, list(figures.FIGURES))
    assert page.startswith("# Study toy\n")
    most = study["rollouts"]["max_tokens"]
    assert f"K = 4 of 512 problems from teacher, temperature 1, at most {most} tokens, seed 42" in page
    assert "the reference is sft" in page
    assert "initial A from seed 42 in every run" in page
    rows = rows_of(page, "loss")
    assert list(rows) == RUNS
    assert "DPO: direct preference optimisation" in rows["dpo"]["loss"]
    assert rows["dpo"]["options"] == "beta=0.1, max_pairs=4, pair_seed=42"


def test_other_seeds_are_said_to_differ(study, built):
    training = built["training"].assign(init_seed=[42, 42, 7])
    page = summary(study, built | {"training": training}, [])
    assert "initial A from seed 42, 7, not the same in every run" in page


def test_significance_is_counted_per_benchmark(study, built):
    page = summary(study, built, [])
    assert "3 of 6 pairs of models differ on easy" in page
    assert "None of 6 pairs of models differ on hard" in page
    assert rows_of(page, "p holm")["sft"]["only a"] == "12"


def test_geometry_is_the_global_tables(study, built):
    page = summary(study, built, [])
    cosine = built["geometry_global_pairs"].set_index(["a", "b"])["cosine"]["dft", "sft"]
    assert rows_of(page, "orthogonal fraction stacked")["dft"]["cosine"] == f"{cosine:.4g}"
    assert rows_of(page, "dpo")["sft"]["dft"] == f"{cosine:.4g}"
    norms = built["geometry_global_runs"].set_index("run")["norm"]
    assert {r: row["norm"] for r, row in rows_of(page, "stable rank").items()} == {
        run: f"{norms[run]:.4g}" for run in RUNS
    }
    assert rows_of(page, "orthogonal fraction stacked")["dpo"]["n defined"] == "1"
    assert "all 2 modules stacked into one vector, not a mean over modules" in page


def test_barriers_and_undefined_ones(study, built):
    page = summary(study, built, [])
    rows = rows_of(page, "above chord")
    assert rows["dft"]["above chord"] == "0.5"
    assert rows["dft"]["share of the run"] == "0.25"  # dft is a of its pair, alpha its share
    assert rows["dpo"]["above chord"] == "–"
    assert "of all 3 pairs: 3, between dft and dpo." in page


def test_cka_of_the_last_layer_and_the_lowest(study, built):
    row = rows_of(summary(study, built, []), "lowest, debiased")["dft"]
    assert list(row.values()) == ["dft", "0.8", "0.9", "0.5", "1"]


def test_each_given_figure_is_embedded_once_with_its_facts(study, built):
    names = list(figures.FIGURES)
    page = summary(study, built, names)
    assert sorted(re.findall(r"\]\(figures/(\w+)\.png\)", page)) == sorted(names)
    captions = dict(re.findall(r"\]\(figures/(\w+)\.png\)\n\n(.+)\n", page))
    assert all("data order 42, initial A 42" in caption for caption in captions.values())
    facts = {
        "accuracy": "easy n = 12, hard n = 2",
        "cosine_heatmap": "all 2 modules stacked",
        "principal_angles": "k = 4",
        "connectivity_paths": f"n = 1 problems of easy, {study['measures']['connectivity']['points']} points",
        "cka_by_layer": "n = 100 prompts of easy, pooling last; solid: debiased, dashed: biased",
    }
    for name, fact in facts.items():
        assert fact in captions[name]
    assert re.findall(r"figures/\w+", summary(study, built, ["accuracy"])) == ["figures/accuracy"]


def test_names_are_text_not_markup(study, built):
    hostile = "<img src=x>|*b*"
    named = {name: table.replace({"dft": hostile}) for name, table in built.items()}
    named["cosine_matrix"] = named["cosine_matrix"].rename(columns={"dft": hostile})
    page = summary(study | {"study": hostile, "base": study["base"] | {"model": hostile}}, named, [])
    assert "<img" not in page
    assert r"&lt;img src=x&gt;\|\*b\*" in page
    for block in (block for block in page.split("\n\n") if block.startswith("|")):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_long_list_of_differences_is_cut_to_base_and_reference(study, built):
    models = ["base", *RUNS, *(f"x{i}" for i in range(5))]
    many = pd.DataFrame([("easy", a, b, 9, 9, 0, 0.001, 0.01) for a, b in combinations(models, 2)])
    page = summary(study, built | {"mcnemar": many.set_axis(built["mcnemar"].columns, axis="columns")}, [])
    assert "36 of 36 pairs of models differ on easy" in page
    assert "those with base or sft, all are in tables/mcnemar.csv" in page
    block = next(b for b in page.split("\n\n") if b.startswith("|") and "p holm" in b)
    assert len(block.splitlines()) == 2 + 15


def test_single_run_has_a_page(study, built):
    alone = {}
    for name, table in built.items():
        keep = ~table.isin(["dft", "dpo"]).any(axis="columns")
        alone[name] = table[keep].drop(columns=["dft", "dpo"], errors="ignore")
    page = summary(study, alone, list(figures.FIGURES))
    assert "Runs: 1; the reference is sft" in page


def test_every_method_has_a_full_name():
    for method in interface.names():
        assert 10 < len(full_name(method)) < 150, method
        assert full_name(method) != method
    assert full_name("no_such_method") == "no_such_method"
