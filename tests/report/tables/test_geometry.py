"""The geometry's tables of a study: which runs are seeds of each other, and the numbers side by side."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from deltageom.deltas.delta import Factors
from deltageom.geometry.module_numbers import measure_module
from deltageom.report.tables.geometry import geometry_tables, identity, of_measure, of_pairs, of_runs
from deltageom.study.load import load_study
from tests.conftest import ROOT


def runs_of(**edits: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Runs of the toy as the study resolves them: `sft`, and others that differ from it, or from `dpo`."""
    study = load_study({"study": "toy"}, ROOT).model_dump(mode="json")["runs"]
    found = {"sft": study["sft"], "dpo": study["dpo"]}
    for name, edit in edits.items():
        run = study[edit.get("method", "sft")]
        training = run["training"] | edit.get("training", {})
        training["lora"] = run["training"]["lora"] | edit.get("lora", {})
        found[name] = run | {"training": training, "options": run["options"] | edit.get("options", {})}
    return found


@pytest.mark.parametrize(
    ("edit", "same_settings", "same_init"),
    [
        ({"training": {"seed": 7}}, True, True),
        ({"lora": {"init_seed": 7}}, True, False),
        ({"training": {"seed": 7}, "lora": {"init_seed": 7}}, True, False),
        ({"training": {"learning_rate": 1.0}}, False, True),
        ({"lora": {"rank": 4}}, False, False),
        ({"lora": {"alpha": 4.0}}, False, True),
        ({"training": {"adapter": "none"}}, False, False),
    ],
)
def test_what_differs_only_in_seeds(edit: dict[str, Any], same_settings: bool, same_init: bool) -> None:
    runs = runs_of(other=edit)
    one, other = identity(runs["sft"]), identity(runs["other"])
    assert (one.settings == other.settings, one.init == other.init) == (same_settings, same_init)
    assert one != other


@pytest.mark.parametrize("key", ["pair_seed"])
def test_the_seed_of_the_pairs_is_a_seed(key: str) -> None:
    runs = runs_of(other={"method": "dpo", "options": {key: 7}})
    one, other = identity(runs["dpo"]), identity(runs["other"])
    assert (one.settings, one.init) == (other.settings, other.init)
    assert one.seed != other.seed
    assert identity(runs["sft"]).settings != one.settings


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    """sft in three orders of its data, one with another A, and dpo; two modules, k of 1 and 3."""
    seeded = {f"sft{seed}": {"training": {"seed": seed}} for seed in (7, 8)}
    runs = runs_of(**seeded, sft_init={"lora": {"init_seed": 7}})
    rng = np.random.default_rng(0)
    modules = []
    for layer in range(2):
        name = f"layers.{layer}.q"
        shared = rng.normal(size=(3, 9))
        factors = {run: Factors(rng.normal(size=(8, 3)) + 1.0, shared, 1.0) for run in runs}
        modules.append({"module": name, "layer": layer, "shape": [8, 9]} | measure_module(name, factors, [1, 3]))
    return geometry_tables(modules, runs)


def test_seed_noise_is_that_of_runs_that_differ_only_in_seeds(tables: dict[str, pd.DataFrame]) -> None:
    for level, places in (("module", 2), ("layer", 2), ("global", 1)):
        cosines = tables[f"geometry_{level}"].query("measure == 'cosine'")
        assert len(cosines) == 10 * places
        for _, place in cosines.groupby("module" if level == "module" else "layer") if places == 2 else [("", cosines)]:
            values = place.set_index(["a", "b"])["value"]
            noise = values[[("sft", "sft7"), ("sft", "sft8"), ("sft7", "sft8")]]
            rows = place.set_index(["a", "b"])
            assert rows.loc[("dpo", "sft"), "seed_n"] == 3
            assert rows.loc[("dpo", "sft"), "seed_mean"] == pytest.approx(noise.mean())
            assert rows.loc[("dpo", "sft"), "seed_sd"] == pytest.approx(noise.std(ddof=1))
            assert rows.loc[("sft", "sft7"), "seed_n"] == 2  # itself left out
            # another initial A: held against pairs of another A alone
            assert rows.loc[("dpo", "sft_init"), "seed_n"] == 3
            unlike = values[[("sft", "sft_init"), ("sft7", "sft_init"), ("sft8", "sft_init")]]
            assert rows.loc[("dpo", "sft_init"), "seed_mean"] == pytest.approx(unlike.mean())


def test_side_by_side_are_the_same_numbers(tables: dict[str, pd.DataFrame]) -> None:
    for level in ("module", "layer", "global"):
        table = tables[f"geometry_{level}"]
        keys = [key for key in ("module", "layer") if key in table]
        for wide, names in ((of_runs(table), ["run"]), (of_pairs(table), ["a", "b"])):
            assert not wide.duplicated([*keys, *names]).any()
            rows = table[table["b"].isna() if names == ["run"] else table["b"].notna()].rename(columns={"a": names[0]})
            for measure, of_measure_ in rows.groupby("measure"):
                largest = of_measure_[of_measure_["k"].isna() | (of_measure_["k"] == 3)]
                joined = wide.merge(largest, on=[*keys, *names], suffixes=("", "_long"))
                assert len(joined) == len(wide) == len(largest), measure
                assert joined[measure].tolist() == joined["value"].tolist()
    assert set(of_measure(tables["geometry_global"], "left_smallest_median")["k"]) == {3}
    assert list(of_runs(tables["geometry_global"])["run"]) == ["dpo", "sft", "sft7", "sft8", "sft_init"]
