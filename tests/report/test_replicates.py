"""Tables, words and figure over replicates."""

import re
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deltageom.measures import behaviour
from deltageom.report.figures import replicates as figure
from deltageom.report.paper import AGAINST_SFT
from deltageom.report.replicates import replicates_table
from deltageom.report.summary_replicates import headline, replicates
from tests.report.drawn_studies import STATISTICS, replicated, settings


def row(table: pd.DataFrame, **keys: Any) -> Any:
    found = table
    for key, value in keys.items():
        found = found[found[key] == value]
    assert len(found) == 1
    return found.iloc[0]


def test_every_number_is_summarised_over_the_draws() -> None:
    draws, tables = replicated(3)
    table = tables["replicates"]
    for (a, b), measure in ((("dpo", "sft"), "cosine"), (("dpo", "rft"), "orthogonal_fraction_stacked")):
        of = [one["geometry_global"] for one in draws]
        values = [one[(one["a"] == a) & (one["b"] == b) & (one["measure"] == measure)]["value"].iloc[0] for one in of]
        found = row(table, source="geometry_global", a=a, b=b, measure=measure)
        assert found["mean"] == pytest.approx(np.mean(values))
        assert found["sd"] == pytest.approx(np.std(values, ddof=1))
        assert (found["n"], found["smallest"], found["largest"]) == (3, min(values), max(values))
        assert found["low"] < found["mean"] < found["high"]
    by_layer = table[(table["source"] == "geometry_layer") & (table["a"] == "dpo") & (table["b"] == "rft")]
    assert by_layer["layer"].tolist() == [0, 1]
    assert row(table, source="training", a="rft", measure="correct")["mean"] == 90
    assert row(table, source="barriers", measure="chord")["mean"] == pytest.approx(0.1)
    assert np.isfinite(row(table, source="accuracy", a="rft")["problems_low"])
    assert replicates_table(draws, None, STATISTICS)["problems_low"].isna().all()


def test_measures_that_are_on_have_their_numbers_there_and_others_none() -> None:
    """Of the gradients those over all modules, and none of a module or a layer."""
    draws, _ = replicated(2)
    assert not {"gradients", "gradients_pairs", "behaviour"} & set(replicates_table(draws, None, STATISTICS)["source"])
    for number, draw in enumerate(draws):
        places = pd.DataFrame({"layer": [0, 0, np.nan], "module": ["layers.0.q", None, None]})
        own = places.assign(run="sft", norm=number, gradient_norm=2.0, gradient_delta=0.5, sign_delta=0.5)
        draw |= {"gradients": own, "gradients_pairs": places.assign(a="dpo", b="sft", gradient=number, sign=1, delta=1)}
        draw["behaviour"] = pd.DataFrame([dict.fromkeys(behaviour.NUMBERS, float(number)) | {"run": "sft"}])
    table = replicates_table(draws, None, STATISTICS)
    assert Counter(table["source"]) >= Counter(gradients=4, gradients_pairs=3, behaviour=len(behaviour.NUMBERS))
    moved = table[table["measure"].isin(["norm", "gradient", "forward_kl"]) & (table["source"] != "geometry_global")]
    assert moved[["source", "a", "b", "n", "mean"]].fillna("").to_numpy().tolist() == [
        ["behaviour", "sft", "", 2, 0.5],
        ["gradients", "sft", "", 2, 0.5],
        ["gradients_pairs", "dpo", "sft", 2, 0.5],
    ]


def test_trajectories_are_summarised_step_by_step() -> None:
    """Of the rows of all modules alone, each number once."""
    draws, rng = [], np.random.default_rng(3)
    for one in replicated(3)[0]:
        keys = [(layer, step) for layer in (None, 0) for step in (2, 4)]
        runs = pd.DataFrame([("sft", *key, *rng.random(2)) for key in keys])
        runs.columns = pd.Index(["run", "layer", "step", "norm", "cosine_to_end"])
        pairs = pd.DataFrame([("dpo", "sft", *key, *rng.random(3)) for key in keys])
        pairs.columns = pd.Index(["a", "b", "layer", "step", "cosine", "norm_a", "norm_b"])
        draws.append({**one, "trajectory": runs, "trajectory_pairs": pairs})
    table = replicates_table(draws, None, STATISTICS)
    values = [one["trajectory_pairs"]["cosine"][1] for one in draws]
    found = row(table, source="trajectory_pairs", a="dpo", b="sft", step=4, measure="cosine")
    assert (found["mean"], found["smallest"]) == pytest.approx((np.mean(values), min(values)))
    assert found["low"] < found["mean"] < found["high"]
    norm = row(table, source="trajectory", a="sft", step=2, measure="norm")
    assert norm["mean"] == pytest.approx(np.mean([one["trajectory"]["norm"][0] for one in draws]))
    assert (table["source"].isin(["trajectory", "trajectory_pairs"])).sum() == 2 * 3


def test_differences_are_paired_over_the_draws() -> None:
    draws, tables = replicated(3)
    found = row(tables["replicate_differences"], measure="cosine", x="rft", y="dpo")
    of = [one["geometry_global"].query("measure == 'cosine' and b == 'sft'").set_index("a")["value"] for one in draws]
    expected = [one["rft"] - one["dpo"] for one in of]
    assert found["difference"] == pytest.approx(np.mean(expected))
    assert found["p"] == pytest.approx(0.25)  # of 2^3 signs, two
    assert not found["can_show"]
    scores = row(tables["replicate_differences"], measure="accuracy", benchmark="easy", x="base", y="rft")
    assert scores["difference"] == pytest.approx(-0.2, abs=0.05)


def test_the_summary_says_what_the_intervals_allow() -> None:
    _, tables = replicated(3)
    page = headline(settings(3), tables)
    cosine = row(tables["replicates"], source="geometry_global", a="rft", b="sft", measure="cosine")
    paper = AGAINST_SFT["cosine"]
    assert f"rft {cosine['mean']:.2f} [{cosine['low']:.2f}, {cosine['high']:.2f}] (paper {paper['rft']:g})" in page
    assert "rft > dpo, pair by pair and by the paired t interval: as in the paper: rft - dpo." in page
    assert "3 replicates, each with the rollouts and the order of the data drawn anew" in page
    assert "sft's is 13 times as long (paper: about 13 for DPO)" in page
    text = replicates(settings(3), tables)
    assert "3 replicates cannot show a difference by a test without assumptions" in text
    assert "at best p = 0.25" in text


def test_an_order_that_is_not_told_apart_is_said_to_be_so() -> None:
    _, tables = replicated(3)
    differences = tables["replicate_differences"]
    wide = differences.assign(low=-1.0, high=1.0)
    assert "not told apart: rft - dpo" in headline(settings(3), tables | {"replicate_differences": wide})
    turned = differences.assign(difference=-differences["difference"], low=-0.9, high=-0.7)
    assert "the other way round: rft - dpo" in headline(settings(3), tables | {"replicate_differences": turned})


def test_one_draw_has_no_intervals_over_draws() -> None:
    draws, _ = replicated(1)
    page = headline(settings(1), draws[0])
    assert page.startswith("- One draw of the study")
    assert re.search(r"rft 0\.\d\d \(paper 0\.977\)", page)
    assert "in this one draw" in page


def test_the_papers_values_stand_only_beside_sft() -> None:
    _, tables = replicated(3)
    other = settings(3) | {"measures": {"compare_with": "rft"}}
    assert "(paper" not in headline(other, tables)
    assert len(figure(tables, "rft").axes[0].get_lines()) < len(figure(tables, "sft").axes[0].get_lines())


def test_the_figure_draws_the_table() -> None:
    _, tables = replicated(3)
    axes = figure(tables, "sft").axes
    drawn = sorted(float(line.get_xdata()[0]) for line in axes[0].get_lines() if line.get_markerfacecolor() != "white")
    table = tables["replicates"]
    cosines = table[(table["source"] == "geometry_global") & (table["measure"] == "cosine") & (table["b"] == "sft")]
    assert drawn == pytest.approx(sorted(cosines["mean"]))
    assert axes[1].get_xlabel() == "accuracy on easy"
    assert len(axes[1].get_lines()) == 4
