"""The methods' files: their options, and what each selects."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from deltageom.methods import interface
from deltageom.methods.interface import Rows

DEFAULTS = yaml.safe_load((Path(__file__).parents[1] / "config.yaml").read_text())["methods"]
ROWS = Rows(np.array([1.0, 0.0, 0.0, 1.0, 1.0]), np.array(["a", "a", "a", "b", "b"]))


def options(name: str) -> interface.MethodOptions:
    return interface.load(name).Options.model_validate(DEFAULTS[name])


def test_config_has_the_defaults_of_every_method() -> None:
    assert sorted(DEFAULTS) == interface.names()


@pytest.mark.parametrize("name", interface.names())
def test_options_are_what_config_says_and_have_no_defaults_of_their_own(name: str) -> None:
    fields = interface.load(name).Options.model_fields
    assert {field.alias or key for key, field in fields.items()} == set(DEFAULTS[name])
    assert all(field.is_required() for field in fields.values())
    assert options(name).model_dump(by_alias=True) == DEFAULTS[name]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("sft", {"beta": 0.1}),
        ("rift", {"reward_correct": 1.0, "reward_wrong": 0.2}),
        ("rift_linear", {"lambda": "0.5"}),
        ("offline_grpo", {"bias": float("nan")}),
        ("dpo", {"beta": 0.0, "max_pairs": 1, "pair_seed": 0}),
        ("dpo", {"beta": 0.1, "max_pairs": 0, "pair_seed": 0}),
    ],
)
def test_bad_options_are_refused(name: str, wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        interface.load(name).Options.model_validate(wrong)


@pytest.mark.parametrize(
    ("name", "rows"), [(n, [0, 1, 2, 3, 4]) for n in ("sft", "dft", "rift", "rift_linear", "offline_grpo")]
)
def test_these_select_all_rows(name: str, rows: list[int]) -> None:
    assert interface.load(name).select(ROWS, options(name)).indices.tolist() == rows


def test_rft_selects_the_correct_rows() -> None:
    assert interface.load("rft").select(ROWS, options("rft")).indices.tolist() == [0, 3, 4]


def test_columns_are_what_the_losses_need() -> None:
    for name in ("rift", "rift_linear"):
        assert interface.load(name).select(ROWS, options(name)).columns["rewards"].tolist() == [1, 0, 0, 1, 1]
    columns = interface.load("offline_grpo").select(ROWS, options("offline_grpo")).columns
    assert columns["advantages"] == pytest.approx([2 / 3 + 0.1, -1 / 3 + 0.1, -1 / 3 + 0.1, 0.1, 0.1])


def test_dpo_pairs_mixed_problems_and_passes_beta_on() -> None:
    dpo = interface.load("dpo")
    given = dpo.Options(beta=0.3, max_pairs=5, pair_seed=1)
    pairs = dpo.select(ROWS, given)
    assert sorted(zip(pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True)) == [(0, 1), (0, 2)]
    assert dpo.dpo_arguments(given) == {"loss_type": ["sigmoid"], "beta": 0.3}


def test_only_sft_reference_sees_reference_solutions() -> None:
    sources = {name: interface.load(name).SOURCE for name in interface.names()}
    assert sources.pop("sft_reference") == "reference"
    assert set(sources.values()) == {"rollout"}


def test_an_unknown_method_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        interface.load("interface")


def test_reading_all_options_imports_nothing_heavy() -> None:
    code = (
        "import sys; from deltageom.methods import interface as i; [i.load(n).Options for n in i.names()];"
        "print([m for m in ('torch', 'numpy', 'trl', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
