"""The methods' files: their options, and what each selects."""

import inspect
import math
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from trl.trainer.distillation_config import DistillationConfig
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.kto_config import KTOConfig

from deltageom.methods import interface
from deltageom.methods.interface import Pairs, Rows, Selection
from tests.conftest import BIN, ROOT

DEFAULTS = yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text())["methods"]
REWARDS = np.array([1.0, 0.0, 0.0, 1.0, 1.0])
TOKENS = [np.array(ids) for ids in ([1, 2, 3], [1, 2], [4, 5, 6, 7], [8, 9], [8, 9])]
BEHAVIOUR = [-0.1 * ids for ids in TOKENS]
ROWS = Rows(
    rewards=REWARDS,
    problems=np.array(["a", "a", "a", "b", "b"]),
    group_means=np.array([0.25, 0.25, 0.25, 1.0, 1.0]),  # a fourth rollout of a, a wrong one, was too long
    lengths=np.array([3, 2, 4, 2, 2]),
    token_ids=TOKENS,
    token_log_probs=BEHAVIOUR,
    base_log_probs=np.array([-3.0, -2.0, -4.0, -2.0, -2.0]),
)
PAIRS = {"pairs": "random", "max_pairs": 1, "pair_seed": 0}
DPO = {**PAIRS, "loss_type": "sigmoid", "beta": 0.1, "label_smoothing": 0.0}
PROVIDES = {
    interface.Likelihood: ("loss", 4, Selection),
    interface.Pairwise: ("loss", 4, Pairs),
    interface.Preference: ("trainer_arguments", 1, Pairs),
    interface.Unpaired: ("trainer_arguments", 1, Selection),
}


def options(name: str) -> interface.MethodOptions:
    return interface.load(name).options.model_validate(DEFAULTS[name])


def test_config_has_the_defaults_of_every_method() -> None:
    assert sorted(DEFAULTS) == interface.names()


@pytest.mark.parametrize("name", interface.names())
def test_options_are_what_config_says_and_have_no_defaults_of_their_own(name: str) -> None:
    fields = interface.load(name).options.model_fields
    assert {field.alias or key for key, field in fields.items()} == set(DEFAULTS[name])
    assert all(field.is_required() for field in fields.values())
    assert options(name).model_dump(by_alias=True) == DEFAULTS[name]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("sft", {"beta": 0.1}),
        ("rift", {"reward_correct": 1.0, "reward_wrong": 0.2, "probability": "token"}),
        ("rift_linear", {"lambda": "0.5"}),
        ("offline_grpo", {"bias": float("nan")}),
        ("offline_grpo_clipped", {"bias": 0.0, "clip": 1.0}),
        ("rift", {"reward_correct": 1.0, "reward_wrong": -0.2, "probability": "mean"}),
        ("dpo", DPO | {"beta": 0.0}),
        ("dpo", DPO | {"max_pairs": 0}),
        ("dpo", DPO | {"pairs": "best"}),
        ("dpo", DPO | {"loss_type": "aot"}),
        ("dpo", DPO | {"loss_type": "exo_pair"}),
        ("dpo", DPO | {"loss_type": "robust", "label_smoothing": 0.5}),
        ("dpo", DPO | {"label_smoothing": 0.1}),
        ("simpo", PAIRS | {"beta": 2.0, "gamma": -0.1}),
    ],
)
def test_bad_options_are_refused(name: str, wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        interface.load(name).options.model_validate(wrong)


def test_label_smoothing_is_refused_by_its_own_key_and_taken_where_it_is_read() -> None:
    dpo = interface.load("dpo").options
    for wrong in ({"loss_type": "exo_pair"}, {"label_smoothing": 0.1}):
        with pytest.raises(ValidationError) as raised:
            dpo.model_validate(DPO | wrong)
        assert [error["loc"] for error in raised.value.errors()] == [("label_smoothing",)]
    for loss_type in ("exo_pair", "robust"):
        assert dpo.model_validate(DPO | {"loss_type": loss_type, "label_smoothing": 0.01}).label_smoothing == 0.01


@pytest.mark.parametrize("name", interface.offline_names())
def test_a_method_provides_what_its_family_needs_and_names_its_source(name: str) -> None:
    method = interface.load(name)
    assert method.source in ("rollout", "reference")
    assert set(method.needs) <= {"groups", "behaviour", "base"}
    provided, arguments, selected = PROVIDES[type(method)]
    assert len(inspect.signature(getattr(method, provided)).parameters) == arguments
    assert isinstance(method.select(ROWS, options(name)), selected)
    if name not in ("sft", "sft_solutions"):
        assert re.search(r"\b2\d{3}\.\d{5}\b|KRAFTON 2025", interface.module(name).__doc__)


def test_online_methods_give_their_trainers_arguments_and_have_no_rows() -> None:
    online = set(interface.names()) - set(interface.offline_names())
    assert online == {"online_grpo", "online_dapo", "on_policy_distillation"}
    for name in online:
        method = interface.load(name)
        known = {field.name for field in fields(DistillationConfig if method.teacher else GRPOConfig)}
        assert set(method.trainer_arguments(options(name))) <= known
        assert re.search(r"\b2\d{3}\.\d{5}\b", interface.module(name).__doc__)
        with pytest.raises(ValueError, match=f"method {name} samples while it trains"):
            interface.load_offline(name)


def test_these_select_all_rows() -> None:
    partial = {name for name in interface.names() if interface.in_pairs(interface.load(name))} | {"rft"}
    assert partial == {"rft", "dpo", "simpo", "cpo"}
    for name in set(interface.offline_names()) - partial:
        assert interface.load(name).select(ROWS, options(name)).indices.tolist() == [0, 1, 2, 3, 4]


def test_rft_selects_the_correct_rows_and_the_first_of_equals_where_asked() -> None:
    rft = interface.load("rft")
    whole, distinct = (rft.select(ROWS, rft.options(deduplicate=value)) for value in (False, True))
    assert (whole.indices.tolist(), whole.duplicates) == ([0, 3, 4], 0)
    assert (distinct.indices.tolist(), distinct.duplicates) == ([0, 3], 1)
    # two correct completions of one problem that differ are both kept
    all_right = replace(ROWS, rewards=np.ones(5))
    distinct = rft.select(all_right, rft.options(deduplicate=True))
    assert (distinct.indices.tolist(), distinct.duplicates) == ([0, 1, 2, 3], 1)


def test_columns_are_what_the_losses_need() -> None:
    for name in ("rift", "rift_linear"):
        assert interface.load(name).select(ROWS, options(name)).columns["rewards"].tolist() == [1, 0, 0, 1, 1]
    expected = {
        "offline_grpo": [0.85, -0.15, -0.15, 0.1, 0.1],
        "offline_grpo_weighted": [0.75, -0.25, -0.25, 0.1, 0.1],
        "offline_grpo_clipped": [0.75, -0.25, -0.25, 0, 0],
    }
    for name, advantages in expected.items():
        assert interface.load(name).select(ROWS, options(name)).columns["advantages"] == pytest.approx(advantages)
    chosen = interface.load("offline_grpo_clipped").select(ROWS, options("offline_grpo_clipped"))
    assert list(chosen.token_columns) == ["behaviour"]
    assert all(map(np.array_equal, chosen.token_columns["behaviour"], BEHAVIOUR))


def test_losses_pass_their_columns_and_options_on() -> None:
    log_probs, mask = torch.full((2, 1), math.log(0.5)), torch.ones(2, 1)
    columns = {
        "rewards": torch.tensor([1.0, 0.0]),
        "advantages": torch.tensor([0.5, -0.5]),
        "behaviour": torch.full((2, 1), math.log(0.25)),
    }
    half = math.log(2)
    expected = {
        "sft": [half, half],
        "sft_solutions": [half, half],
        "rft": [half, half],
        "dft": [half / 2, half / 2],
        "rift": [half, 0.1],
        "rift_linear": [half / 2, half],
        "offline_grpo": [half / 2, -half / 2],
        "offline_grpo_weighted": [-0.25, 0.25],
        "offline_grpo_clipped": [-0.6, 1.0],
        "simpo": [math.log(1 + math.exp(1.0))],
        "cpo": [2 * half],
    }
    assert set(expected) == {name for name in interface.names() if hasattr(interface.load(name), "loss")}
    for name, rows in expected.items():
        assert interface.load(name).loss(log_probs, mask, columns, options(name)).tolist() == pytest.approx(rows)


@pytest.mark.parametrize("name", ["dpo", "simpo", "cpo"])
def test_pairs_are_of_mixed_problems_in_the_order_and_number_asked_for(name: str) -> None:
    method = interface.load(name)
    given = {"max_pairs": None, "pairs": "closest"}
    pairs = method.select(ROWS, method.options.model_validate({**DEFAULTS[name], **given}))
    assert sorted(zip(pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True)) == [(0, 1), (0, 2)]
    for order, rejected in (("longest", 2), ("shortest", 1)):
        pairs = method.select(ROWS, method.options.model_validate({**DEFAULTS[name], "pairs": order}))
        assert (pairs.chosen.tolist(), pairs.rejected.tolist()) == ([0], [rejected])


def test_trainer_arguments_are_those_of_trl(tmp_path: Path) -> None:
    smoothed = {"loss_type": "robust", "beta": 0.3, "label_smoothing": 0.2}
    weighted = {"loss_type": "kto", "beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.5}
    for name, config, given in (("dpo", DPOConfig, smoothed), ("kto", KTOConfig, weighted)):
        method = interface.load(name)
        arguments = method.trainer_arguments(method.options.model_validate({**DEFAULTS[name], **given}))
        read = config(output_dir=str(tmp_path), bf16=False, use_cpu=True, **arguments)
        assert arguments.keys() == given.keys()
        assert [getattr(read, key) for key in given] == [[v] if v == "robust" else v for v in given.values()]


def test_only_sft_solutions_sees_reference_solutions() -> None:
    sources = {name: interface.load(name).source for name in interface.names()}
    assert sources.pop("sft_solutions") == "reference"
    assert set(sources.values()) == {"rollout"}


def test_an_unknown_method_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        interface.load("interface")


def test_reading_all_options_imports_nothing_heavy() -> None:
    code = (
        "import sys; from deltageom.methods import interface as i; [i.load(n).options for n in i.names()];"
        "print([m for m in ('torch', 'numpy', 'trl', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_mypy_holds_a_method_against_its_options(tmp_path: Path) -> None:
    """A loss that takes another method's options, and one that gives pairs where rows are meant, are no methods."""
    wrong = {
        "options": "METHOD = Likelihood(options=Options, select=select, loss=dft.loss)",
        "family": "METHOD = Likelihood(options=Options, select=select_pairs, loss=loss)",
    }
    text = Path(interface.module("rift").__file__).read_text()
    assert "METHOD = Likelihood(options=Options, select=select, loss=loss)\n" in text
    for name, line in {"right": "", **wrong}.items():
        imports = "from deltageom.methods import dft\nfrom deltageom.methods.interface import select_pairs\n"
        head, mark, rest = text.partition("from deltageom.methods.interface")
        (tmp_path / f"{name}.py").write_text(head + imports + mark + rest + line.replace("METHOD", "WRONG") + "\n")
    files = [str(tmp_path / f"{name}.py") for name in ("right", *wrong)]
    done = subprocess.run(
        [BIN / "mypy", "--config-file", ROOT / "pyproject.toml", "--cache-dir", tmp_path / "cache", *files],
        capture_output=True, text=True, cwd=ROOT / "src", check=False,
    )  # fmt: skip
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert {Path(line.partition(":")[0]).stem for line in errors} == set(wrong), done.stdout
