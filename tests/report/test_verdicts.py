"""Verdicts on made-up cosines: each by its rule, none without an interval or a yardstick."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from deltageom.report.page.answers import verdict_table
from deltageom.report.summary_replicates import headline
from deltageom.report.verdicts import CLOSER, FARTHER, LIKE_CHANCE, SAME, UNKNOWN, sentence, twin_of, verdicts
from deltageom.study.load import load_study
from deltageom.text import escape
from tests.conftest import ROOT

# less than the yardstick's, with its interval; the lower end of the cosine's own interval
CASES = {
    "nearer": (0.05, 0.03, 0.07, 0.9, CLOSER),
    "alike": (0.01, -0.04, 0.06, 0.8, SAME),
    "edge": (0.0, -0.1, 0.1, 0.8, SAME),
    "wide": (-0.3, -0.7, 0.1, 0.2, UNKNOWN),
    "just_wide": (0.0, -0.11, 0.1, 0.8, UNKNOWN),
    "away": (-0.3, -0.4, -0.2, 0.5, FARTHER),
    "slightly": (-0.02, -0.03, -0.01, 0.8, FARTHER),
    "unrelated": (-0.9, -1.0, -0.8, -0.1, LIKE_CHANCE),
    "at_chance": (-0.9, -1.0, -0.8, 0.02, LIKE_CHANCE),
    "above_chance": (-0.9, -1.0, -0.8, 0.03, FARTHER),
}
CHANCE_SD = 0.0125  # twice this is chance


def study(count: int = 3, twin: bool = True) -> dict[str, Any]:
    found = load_study({}, ROOT).model_dump(mode="json")
    found["replicates"]["count"] = count
    found["runs"] = {"sft": found["runs"]["sft"], **({"seed7": found["runs"]["sft_seed7"]} if twin else {})}
    found["runs"] |= dict.fromkeys(CASES, load_study({}, ROOT).model_dump(mode="json")["runs"]["dpo"])
    return found


def tables(turned: bool = False) -> dict[str, pd.DataFrame]:
    """turned: the table of differences has the yardstick first, as it may."""
    runs = ["sft", "seed7", *CASES]
    differences = [
        ("cosine", "seed7", run, 3, -value, -high, -low) if turned else ("cosine", run, "seed7", 3, value, low, high)
        for run, (value, low, high, _, _) in CASES.items()
    ]
    cosines = [("seed7", 0.9, 0.88, 0.92)] + [(run, 0.9 + v, own, 0.99) for run, (v, _, _, own, _) in CASES.items()]
    over = [("geometry_global", run, "sft", np.nan, *values) for run, *values in cosines]
    over += [
        ("geometry_layer", run, "sft", layer, mean - layer / 10, low, high)
        for run, mean, low, high in cosines
        for layer in (0, 1)
    ]
    replicates = pd.DataFrame(over, columns=["source", "a", "b", "layer", "mean", "low", "high"])
    one = pd.DataFrame(
        [(run, "sft", "cosine", mean) for run, mean, *_ in cosines], columns=["a", "b", "measure", "value"]
    )
    one = one.assign(k=np.nan, chance_own_sd=CHANCE_SD, chance_fresh_sd=9.0, low=np.nan, high=np.nan)
    return {
        "training": pd.DataFrame({"run": runs, "method": ["sft", "sft", *["dpo"] * len(CASES)]}),
        "accuracy": pd.DataFrame([], columns=["model", "benchmark", "n", "accuracy", "low", "high"]),
        "geometry_global": one,
        "geometry_layer": pd.DataFrame([], columns=["layer", "a", "b", "measure", "value"]),
        "replicates": replicates.assign(measure="cosine", k=np.nan, benchmark=None),
        "replicate_differences": pd.DataFrame(
            differences, columns=["measure", "x", "y", "n", "difference", "low", "high"]
        ),
    }


@pytest.mark.parametrize("turned", [False, True])
def test_each_verdict_by_its_rule(turned: bool) -> None:
    found = {one.run: one for one in verdicts(study(), tables(turned))}
    assert set(found) == set(CASES)
    for run, (value, low, high, _, words) in CASES.items():
        one = found[run]
        assert (one.difference, one.low, one.high) == pytest.approx((value, low, high)), run
        assert one.words == words, run


def test_the_yardstick_differs_only_in_seeds() -> None:
    assert twin_of(study(), "sft") == "seed7"
    assert twin_of(study(twin=False), "sft") is None
    other = study()
    other["runs"]["seed7"]["training"]["learning_rate"] *= 2
    assert twin_of(other, "sft") is None
    another_a = study()
    another_a["runs"]["seed7"]["training"]["lora"]["init_seed"] += 1
    assert twin_of(another_a, "sft") is None


def test_what_is_said_names_each_run_once_with_its_interval() -> None:
    said = sentence(study(), tables())
    assert "the yardstick is seed7, the same run with other seeds" in said
    for run, (value, low, high, _, words) in CASES.items():
        part = next(part for part in said.split("; ") if f"{words}: " in part)
        assert f"{escape(run)} {value:+.2f} [{low:+.2f}, {high:+.2f}]" in part
    assert sentence(study(twin=False), tables()).endswith("so there is no yardstick for what is the same.")
    alone = {name: frame for name, frame in tables().items() if "replicate" not in name}
    assert sentence(study(1), alone).endswith("1 replicate cannot say, three give an interval.")
    two = tables() | {"replicate_differences": tables()["replicate_differences"].assign(low=np.nan, high=np.nan)}
    assert verdicts(study(2), two) == []


def test_the_pages_table_has_the_layers_where_they_part() -> None:
    rows = {row["run"]: row for row in verdict_table(study(), tables())}
    assert rows["alike"] == {
        "run": "alike",
        "verdict": SAME,
        "cosine": "0.91 [0.80, 0.99]",
        "less": "+0.01 [-0.04, +0.06]",
        "least": "1: 0.81 [0.80, 0.99]",
        "most": "0: 0.91 [0.80, 0.99]",
    }
    assert next(iter(rows)) == "nearer"  # in the order of the verdicts
    assert verdict_table(study(twin=False), tables()) == []


def test_the_summary_has_the_sentence() -> None:
    norms = pd.DataFrame(
        [("sft", None, "norm", 2.0), ("alike", None, "norm", 1.0)], columns=["a", "b", "measure", "mean"]
    )
    built = tables()
    further = ["sd", "smallest", "largest", "problems_low", "problems_high"]
    built["replicates"] = pd.concat([built["replicates"], norms.assign(source="geometry_global", k=np.nan)]).assign(
        **dict.fromkeys(further, np.nan)
    )
    lines = headline(study(), built).splitlines()
    assert lines[1] == f"- {sentence(study(), built)}"
