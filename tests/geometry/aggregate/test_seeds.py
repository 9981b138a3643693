"""Which pairs of runs differ in seeds alone, and what their numbers spread by."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltageom.geometry.aggregate.seeds import Identity, noise_pairs, seed_columns

RUNS = {
    "dpo": Identity("dpo", "42", "A"),
    "dpo-1": Identity("dpo", "1", "A"),
    "dpo-2": Identity("dpo", "2", "B"),
    "rft": Identity("rft", "42", "A"),
    "sft": Identity("sft", "42", "A"),
    "sft-1": Identity("sft", "1", "A"),
    "sft-2": Identity("sft", "2", "B"),
}


def test_pairs_that_share_the_initial_a_are_held_against_pairs_that_do():
    found = noise_pairs(RUNS)
    assert set(found) == set(combinations(sorted(RUNS), 2))
    assert found["dpo", "sft"] == [("dpo", "dpo-1"), ("sft", "sft-1")]
    assert found["dpo", "sft-2"] == [("dpo", "dpo-2"), ("dpo-1", "dpo-2"), ("sft", "sft-2"), ("sft-1", "sft-2")]
    assert found["rft", "sft"] == [("sft", "sft-1")]


def test_a_pair_of_seeds_is_held_against_the_others():
    found = noise_pairs(RUNS)
    assert found["dpo", "dpo-2"] == [("dpo-1", "dpo-2")]
    assert found["dpo", "dpo-1"] == []


def test_one_run_under_two_names_is_no_noise():
    twins = {"a": Identity("sft", "1", "A"), "b": Identity("sft", "1", "A"), "c": Identity("dpo", "1", "A")}
    assert not any(noise_pairs(twins).values())
    other_init = twins | {"b": Identity("sft", "1", "B"), "c": Identity("dpo", "1", "C")}
    assert noise_pairs(other_init)["a", "c"] == [("a", "b")]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(Identity, st.sampled_from("st"), st.sampled_from("12"), st.sampled_from("AB")), max_size=7))
def test_the_definition(identities):
    runs = {f"r{i}": identity for i, identity in enumerate(identities)}
    pairs = list(combinations(sorted(runs), 2))
    found = noise_pairs(runs)
    assert list(found) == pairs
    for a, b in pairs:
        expected = []
        for x, y in pairs:
            seeds = runs[x].settings == runs[y].settings and runs[x] != runs[y]
            theirs = runs[x].settings in (runs[a].settings, runs[b].settings)
            share = (runs[x].init == runs[y].init) == (runs[a].init == runs[b].init)
            if seeds and theirs and share and (x, y) != (a, b):
                expected.append((x, y))
        assert found[a, b] == expected


PAIRS = [("a", "b"), ("a", "c"), ("b", "c"), ("b", "d"), ("c", "d")]
NOISE = {PAIRS[0]: PAIRS[1:], PAIRS[1]: [PAIRS[2], ("x", "y")], PAIRS[2]: []}


def columns(values, k=None):
    """Of one measure at one place."""
    values = np.array(values, dtype=float)[None, :, None]
    k = np.full_like(values, np.nan) if k is None else np.array(k, dtype=float)[None, :, None]
    return {key: array[0, :, 0] for key, array in seed_columns(values, k, PAIRS, NOISE).items()}


def test_moments_over_the_noise_pairs():
    found = columns([9, 1, 2, 4, 9])
    assert found["seed_n"].tolist() == [4, 1, 0, 0, 0]
    assert found["seed_mean"][:2].tolist() == [4, 2]
    assert found["seed_sd"][0] == pytest.approx(np.std([1, 2, 4, 9], ddof=1))
    assert np.isnan(found["seed_sd"][1:]).all()  # one value has no spread
    assert np.isnan(found["seed_mean"][2:]).all()


def test_undefined_values_and_other_k_do_not_count():
    found = columns([np.nan, 1, 2, np.nan, 9], k=[10, 10, 10, 10, 7])
    assert found["seed_n"].tolist() == [2, 1, 0, 0, 0]
    assert found["seed_mean"][0] == 1.5
    assert columns([1] * 5, k=[10, 7, 7, 7, 7])["seed_n"].tolist() == [0, 1, 0, 0, 0]


def test_equal_values_do_not_spread():
    found = columns([3, np.nan, 0.1, 0.1, 0.1])  # 0.1 + 0.1 + 0.1 is not 0.3
    assert (found["seed_n"][0], found["seed_mean"][0], found["seed_sd"][0]) == (3, 0.1, 0.0)


def test_places_and_measures_are_apart():
    values = np.random.default_rng(0).normal(size=(2, 5, 3))
    found = seed_columns(values, np.full(values.shape, np.nan), PAIRS, NOISE)
    np.testing.assert_allclose(found["seed_mean"][:, 0], values[:, 1:].mean(1))
    np.testing.assert_allclose(found["seed_sd"][:, 0], values[:, 1:].std(1, ddof=1))
