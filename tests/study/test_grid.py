"""The grid: which runs an entry stands for, their names, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from deltageom.errors import UserError
from deltageom.study.grid import expand
from deltageom.study.load import load_study
from tests.study.test_load import refusal, root, write

__all__ = ["root"]  # a fixture


def names(**entry: Any) -> list[str]:
    return list(expand({"x": {"method": "sft", **entry}}, ()))


def test_one_run_a_combination_last_axis_fastest() -> None:
    grid = {
        "x": {"method": "sft", "learning_rate": [5e-6, 2e-3], "steps": 9, "lora": {"rank": 4, "init_seed": [42, 7]}}
    }
    runs = expand(grid, ())
    assert {name: (run["learning_rate"], run["lora"]) for name, (_, run) in runs.items()} == {
        "x-lr5e-06-init42": (5e-6, {"rank": 4, "init_seed": 42}),
        "x-lr5e-06-init7": (5e-6, {"rank": 4, "init_seed": 7}),
        "x-lr0.002-init42": (2e-3, {"rank": 4, "init_seed": 42}),
        "x-lr0.002-init7": (2e-3, {"rank": 4, "init_seed": 7}),
    }
    assert list(runs) == ["x-lr5e-06-init42", "x-lr5e-06-init7", "x-lr0.002-init42", "x-lr0.002-init7"]
    assert {(entry, run["method"], run["steps"]) for entry, run in runs.values()} == {("x", "sft", 9)}
    assert grid["x"]["lora"] == {"rank": 4, "init_seed": [42, 7]}  # the study's own tree is left alone


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"lora": {"init_seed": [1]}, "learning_rate": [0.1]}, ["x-init1-lr0.1"]),  # in the order written
        ({"reduction": ["token", "length"]}, ["x-reductiontoken", "x-reductionlength"]),
        ({"lora": {"rslora": [True, False]}}, ["x-rsloratrue", "x-rslorafalse"]),
        ({"kl_every": [None, 8]}, ["x-kl_everynull", "x-kl_every8"]),
        ({"seed": [12345678, 12345679]}, ["x-seed12345678", "x-seed12345679"]),  # `g` would make them one
        ({"max_grad_norm": [1e20]}, ["x-max_grad_norm1e_20"]),  # no + in a file's name
        ({"match_norm": {"run": ["a", "b"], "how": "scale"}}, ["x-runa", "x-runb"]),
        ({"method": ["sft", "dft"]}, ["x-methodsft", "x-methoddft"]),
        ({"method": "dpo", "beta": [0.1, 1]}, ["x-beta0.1", "x-beta1"]),
        ({"lora": {"rank": [2, 4], "target_modules": ["a", "b"]}}, ["x-rank2", "x-rank4"]),
        ({"lora": {"target_modules": [["a", "b"], "c|d"]}}, ["x-target_modulesa_b", "x-target_modulesc_d"]),
    ],
)
def test_names(entry: dict[str, Any], expected: list[str]) -> None:
    assert names(**entry) == expected


def test_a_list_stays_where_the_key_takes_one() -> None:
    ((_, run),) = expand({"x": {"method": "sft", "seed": [1], "lora": {"target_modules": ["a", "b"]}}}, ()).values()
    assert run["lora"]["target_modules"] == ["a", "b"]
    assert run["seed"] == 1


def test_study_holds_the_runs_only(root: Path) -> None:
    study = load_study(
        write(root, "extends: toy\ngrid: {a: {method: sft, learning_rate: [0.1, 0.01], lora: {init_seed: [3]}}}\n"),
        root,
    )
    assert "grid" not in study.model_dump()
    run = study.runs["a-lr0.01-init3"].training
    assert (run.learning_rate, run.lora.init_seed, run.lora.rank, run.steps) == (0.01, 3, 8, 64)
    # config.yaml's order of methods, then the name, whether of a run or of a grid's
    assert list(study.runs)[:5] == ["a-lr0.01-init3", "a-lr0.1-init3", "sft", "sft_seed7", "rft"]


def test_null_removes_an_inherited_entry(root: Path) -> None:
    write(root, "extends: toy\ngrid: {a: {method: sft, seed: [1, 2]}, b: {method: sft, seed: [1]}}\n", "above")
    study = load_study(write(root, "extends: above\ngrid: {a: null, b: {seed: [5]}}\n"), root)
    assert [name for name in study.runs if "-" in name] == ["b-seed5"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grid: 3", ["studies/mine.yaml: grid: is a section"]),
        ("gird: {}", ["gird: unknown key", "did you mean 'grid'"]),
        ("grid: {a: sft}", ["grid.a: write it as a run"]),
        ("grid: {a: {method: sft}}", ["grid.a: no key has a list", "under `runs`"]),
        ("grid: {a: {method: sft, seed: []}}", ["grid.a.seed: the list is empty"]),
        ("grid: {a: {method: sft, lora: {init_seed: []}}}", ["grid.a.lora.init_seed: the list is empty"]),
        ("grid: {a: {method: sft, seed: [1, 2, 1]}}", ["grid.a.seed: 1 and 1 would both be", "each value once"]),
        ("grid: {a: {method: sft, learning_rate: [0.1, 0.10000001]}}", ["grid.a.learning_rate", "the run ...-lr0.1"]),
        ("grid: {a: {method: sft, match_norm: [{run: dpo, how: stop}]}}", ["grid.a.match_norm: the list holds"]),
        (
            "grid: {a: {method: sft, seed: [1]}}\nruns: {a-seed1: {method: sft}}",
            ["grid.a: its run 'a-seed1'", "`runs`"],
        ),
        ("grid: {a: {method: sft, seed: [1]}}\nruns: {a-seed1: null}", ["grid.a: its run 'a-seed1'", "`runs`"]),
        (
            "grid: {a: {method: sft, steps: [1], seed: [2]}, a-steps1: {method: sft, seed: [2]}}",
            ["grid.a-steps1: its run 'a-steps1-seed2' is already in grid.a"],
        ),
        ("grid: {a: {seed: [1]}}", ["grid.a: write the run as {method: NAME"]),
        ("grid: {a: {method: sfd, seed: [1]}}", ["grid.a.method: unknown method 'sfd'", "did you mean 'sft'"]),
        ("grid: {a: {method: sft, sede: [1, 2]}}", ["grid.a.sede: unknown key", "did you mean 'seed'"]),
        ("grid: {a: {method: dpo, beta: [0.1, -1.0]}}", ["grid.a.beta", "greater than 0"]),
        (
            "grid: {a: {method: sft, learning_rate: [1e-4]}}",
            ["studies/mine.yaml: grid.a.learning_rate", "write 0.0001"],
        ),
        ("grid: {a: {method: sft, lora: {init_seed: [x]}}}", ["studies/mine.yaml: grid.a.lora.init_seed", "'x'"]),
        ("grid: {a: {method: sft, lora: {init_sed: [1]}}}", ["grid.a.lora.init_sed: unknown key", "'init_seed'"]),
        ("grid: {a: {method: sft, report_step: [65]}}", ["grid.a: report_step 65 is after the last of 64"]),
        ("grid: {'a b': {method: sft, seed: [1]}}", ["'a b-seed1'", "is a run of grid.a b"]),
        ("grid: {a: {method: sft, lora: {rank: [2, 8]}}}", ["top_k 4 is more than the rank 2", "a run of grid.a)"]),
        (
            "grid: {a: {method: sft, match_norm: {run: [x], how: stop}}}",
            ["match_norm.run 'x'", "a-runx is a run of grid.a)"],
        ),
    ],
)
def test_mistake_names_the_entry_and_the_key(root: Path, text: str, says: list[str]) -> None:
    message = refusal(root, text)
    for part in says:
        assert part in message
    assert len(message.splitlines()) == len(set(message.splitlines()))


def test_an_error_of_every_combination_is_told_once(root: Path) -> None:
    message = refusal(root, "grid: {a: {method: sft, steps: many, seed: [1, 2, 3]}}")
    assert message.count("grid.a.steps") == 1


def test_grid_without_a_mapping() -> None:
    with pytest.raises(UserError, match=r"grid\.a: write it as a run"):
        expand({"a": [1, 2]}, ())
