"""A model's configuration in a folder and in the hub's cache, as the hub's own client lays it out."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import try_to_load_from_cache

from deltageom.errors import UserError
from deltageom.study import base_config
from deltageom.study.load import load_study
from deltageom.study.schema import Base
from tests.study.test_load import refusal, root, write

__all__ = ["root"]  # a fixture

COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache with two commits of o/m: main has 36 layers, the branch `old` has 12."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    stored = tmp_path / "hf" / "hub" / "models--o--m"
    for commit, branch, layers in ((COMMIT, "main", 36), (OTHER, "old", 12)):
        snapshot = stored / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (stored / "refs").mkdir(exist_ok=True)
        (stored / "refs" / branch).write_text(commit)
        (snapshot / "config.json").write_text(json.dumps({"num_hidden_layers": layers}))
    return tmp_path / "hf" / "hub"


@pytest.mark.parametrize(
    ("revision", "layers"), [(None, 36), ("main", 36), ("old", 12), (OTHER, 12), ("c" * 40, None), ("gone", None)]
)
def test_revisions_of_a_cached_model(cache: Path, revision: str | None, layers: int | None) -> None:
    found = base_config.folder("o/m", revision)
    client = try_to_load_from_cache("o/m", "config.json", cache_dir=cache, revision=revision)
    assert (None if found is None else str(found / "config.json")) == client
    assert base_config.layers(base_config.config("o/m", revision)) == layers


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"HF_HUB_CACHE": "/a/b", "HF_HOME": "/c"}, "/a/b"),
        ({"HF_HOME": "/c"}, "/c/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HF_HOME": "~/h"}, f"{Path.home()}/h/hub"),
        ({}, f"{Path.home()}/.cache/huggingface/hub"),
    ],
)
def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], where: str) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert base_config._cache() == Path(where)


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        ({"num_hidden_layers": 3}, 3),
        ({"text_config": {"num_hidden_layers": 5}, "num_hidden_layers": 3}, 5),
        ({"text_config": {}, "num_hidden_layers": 3}, None),
        ({"n_layer": 3}, None),
        ({"num_hidden_layers": "3"}, None),
    ],
)
def test_layers(config: dict[str, Any], layers: int | None) -> None:
    assert base_config.layers(config) == layers


@pytest.mark.parametrize("text", ["", "[1]", "{", "\udcff"])
def test_a_configuration_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(os.fsencode(text))
    assert base_config.config(str(tmp_path), None) == {}


def test_the_toy_base(root: Path) -> None:
    assert "base.layers is 5, but toy.layers is 4: set base.layers: 4" in refusal(root, "base: {layers: 5}")
    load_study(write(root, "extends: toy\nbase: {layers: 5}\ntoy: {layers: 5}\n"), root)


def elsewhere(model: str, revision: str = "null") -> str:
    """A toy study whose base and problems are not the toy's."""
    file = "{source: file, path: a.jsonl}"
    return (
        f"base: {{model: {model}, layers: 4, revision: {revision}}}\nrollouts: {{generator: base}}\n"
        f"problems: {file}\nbenchmarks: {{easy: {file}, hard: {file}, hard_sampled: {file}}}\n"
    )


def test_a_folder_below_the_project(root: Path) -> None:
    (root / "mine").mkdir()
    (root / "mine" / "config.json").write_text('{"text_config": {"num_hidden_layers": 6}}')
    assert "base.layers is 4, but mine has 6: set base.layers: 6" in refusal(root, elsewhere("mine"))
    (root / "mine" / "config.json").write_text('{"num_hidden_layers": 4}')
    load_study(write(root, "extends: toy\n" + elsewhere("mine")), root)
    load_study(write(root, "extends: toy\n" + elsewhere("./gone")), root)  # the doctor names what is not there


@pytest.mark.usefixtures("cache")
def test_a_hub_model_in_the_cache(root: Path) -> None:
    assert "base.layers is 4, but o/m has 36" in refusal(root, elsewhere("o/m"))
    assert "base.layers is 4, but o/m has 12" in refusal(root, elsewhere("o/m", "old"))
    load_study(write(root, "extends: toy\n" + elsewhere("o/other")), root)


def test_unknown_layers_are_not_checked(base_settings: Base) -> None:
    base_config.check_layers(base_settings, None)
    base_config.check_layers(base_settings, 2)
    with pytest.raises(UserError, match=r"toy\.layers is 3"):
        base_config.check_layers(base_settings, 3)
