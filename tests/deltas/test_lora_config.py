"""adapter_config.json: what is known to leave the update scale * B @ A; everything else is refused by its name."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import peft
import pytest

from deltageom.deltas.lora_config import HARMLESS, READ, LoraConfig
from deltageom.errors import UserError

FIELDS = [field.name for field in dataclasses.fields(peft.LoraConfig)]


def said(folder: Path, **keys: Any) -> LoraConfig:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8} | keys
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return LoraConfig(folder)


@pytest.mark.parametrize("field", FIELDS)
def test_every_key_of_the_installed_peft_is_known_or_refused(tmp_path: Path, field: str) -> None:
    """A key that a later PEFT brings is refused until someone has seen what it does."""
    if field in READ | HARMLESS:
        return
    for value in (True, 7, "x", [1], {"a": 1}):
        with pytest.raises(UserError, match=rf"adapter_config\.json: {field} is set, "):
            said(tmp_path, **{field: value})
    for nothing in (None, False, [], {}, 0, ""):
        said(tmp_path, **{field: nothing})


def test_the_forms_that_are_refused_are_these(tmp_path: Path) -> None:
    assert {*FIELDS} - READ - HARMLESS == {
        *("use_dora", "use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "velora_config"),
        *("arrow_config", "alora_invocation_tokens", "layer_replication", "loftq_config"),
    }
    with pytest.raises(UserError, match="use_newest_lora is set, which is not known to leave the update scale"):
        said(tmp_path, use_newest_lora=True)
    with pytest.raises(UserError, match="layer_replication is set, so its layers are copies of others of the base"):
        said(tmp_path, layer_replication=[[0, 2], [1, 3]])


def test_what_peft_writes_of_a_plain_adapter_is_read(tmp_path: Path) -> None:
    peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["q_proj"], base_model_name_or_path="some/base", revision="v2", bias="all"
    ).save_pretrained(tmp_path)
    config = LoraConfig(tmp_path)
    assert (config.rank("q_proj"), config.scale("q_proj")) == (3, 5 / 3)
    assert (config.base_name, config.base_revision, config.parameters) == ("some/base", "v2", [])


@pytest.mark.parametrize("init", [None, True, False, "gaussian", "eva", "orthogonal", "mica", "EVA"])
def test_initialisations_that_leave_the_base_as_it_is(tmp_path: Path, init: object) -> None:
    assert said(tmp_path, init_lora_weights=init).rank("x") == 4


@pytest.mark.parametrize("init", ["pissa", "PiSSA", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "newest"])
def test_initialisations_that_change_the_base_or_are_unknown(tmp_path: Path, init: str) -> None:
    with pytest.raises(UserError, match=rf"init_lora_weights '{init}' changes the base's weights"):
        said(tmp_path, init_lora_weights=init)


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ({"q_proj[": 3}, r"has 'q_proj\[', no regular expression: unterminated character set"),
        ({"q_proj": "16"}, r"\['q_proj'\] must be a positive number, not '16'"),
        ({"q_proj": None}, r"\['q_proj'\] must be a positive number, not None"),
        ({"q_proj": True}, r"\['q_proj'\] must be a positive number, not True"),
        ({"q_proj": -2}, r"\['q_proj'\] must be a positive number, not -2"),
        ({"q_proj": float("nan")}, r"\['q_proj'\] must be a positive number, not nan"),
        ({"q_proj": float("inf")}, r"\['q_proj'\] must be a positive number, not inf"),
        (["q_proj"], r"must be a mapping of names to numbers, not \['q_proj'\]"),
        ("q_proj", "must be a mapping of names to numbers, not 'q_proj'"),
    ],
)
def test_patterns_that_are_none(tmp_path: Path, key: str, pattern: object, says: str) -> None:
    with pytest.raises(UserError, match=rf"^\S+adapter_config\.json: {key} ?{says}"):
        said(tmp_path, **{key: pattern})


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("r", 4.5, "must be a whole number, not 4.5"),
        ("rank_pattern", {"q_proj": 4.5}, r"\['q_proj'\] must be a whole number, not 4.5"),
        ("lora_alpha", float("inf"), "must be a positive number, not inf"),
        ("use_rslora", "no", "must be true or false, not 'no'"),
        ("base_model_name_or_path", ["o/m"], r"must be text, not \['o/m'\]"),
        ("revision", 5, "must be text, not 5"),
        ("target_parameters", "experts.gate_up_proj", "must be a list of names, not 'experts.gate_up_proj'"),
        ("target_parameters", [5], "must be a list of names, not of 5"),
    ],
)
def test_values_of_another_type_than_peft_writes(tmp_path: Path, key: str, value: object, says: str) -> None:
    with pytest.raises(UserError, match=rf"^\S+adapter_config\.json: {key} ?{says}"):
        said(tmp_path, **{key: value})


def test_patterns_that_overlap_are_refused_where_it_matters(tmp_path: Path) -> None:
    config = said(tmp_path, alpha_pattern={"layers.0.q_proj": 4, "q_proj": 8, "k_proj": 2, ".*k_proj": 2})
    assert (config.scale("layers.1.q_proj"), config.scale("layers.0.k_proj"), config.scale("o_proj")) == (2, 0.5, 2)
    with pytest.raises(UserError, match=r"of alpha_pattern, 'layers\.0\.q_proj' and 'q_proj' match layers\.0\.q_proj"):
        config.scale("layers.0.q_proj")


def test_an_adapter_of_mlx_is_told_as_such(tmp_path: Path) -> None:
    mlx = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 4, "scale": 20.0}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(mlx))
    with pytest.raises(UserError, match=r"an adapter of MLX.* \(mlx_lm\.fuse"):
        LoraConfig(tmp_path)


@pytest.mark.parametrize("content", ['"LORA"', "[]", '{"peft_type": "XLORA"}', '{"r": 4}'])
def test_other_configurations(tmp_path: Path, content: str) -> None:
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(UserError, match="peft_type must be LORA, not "):
        LoraConfig(tmp_path)
