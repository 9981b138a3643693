"""Runs named on a command line: names, bases, modules."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from deltageom.comparison import runs
from deltageom.errors import UserError
from tests.deltas import tiny_checkpoints
from tests.deltas.test_whole_model import write_model

HEAD = "model.layers.1.self_attn.{}_proj.weight"


def write_adapter(folder: Path, modules: list[str], base: str | None = "Qwen/Qwen3-4B") -> str:
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {
        f"base_model.model.model.{module}.lora_{factor}.weight": torch.ones(shape)
        for module in modules
        for factor, shape in (("A", (1, 2)), ("B", (2, 1)))
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    return str(folder)


NOT_USED = "--base is not used: no run is a checkpoint, and --against-base is not given"


def open_all(named: dict[str, str], base: str | None = None, **flags: bool) -> runs.Sources:
    return runs.open_all(named, base, **({"intersect": False, "any_base": False} | flags))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["runs/a", "runs/b/"], {"a": "runs/a", "b": "runs/b/"}),
        (["one=x/a", "x/a"], {"one": "x/a", "a": "x/a"}),
        (["run1/checkpoint-100", "run2/checkpoint-100"], ["run1-checkpoint-100", "run2-checkpoint-100"]),
        (["x/run1/c", "y/run1/c", "y/d"], ["x-run1-c", "y-run1-c", "d"]),
        (["c", "run1/c", "run2/c"], None),  # c is one of them whatever the others are called
        (["a=x", "y/a"], {"a": "x", "y-a": "y/a"}),
        (["owner/name@v1", "owner/name@v2"], ["name-v1", "name-v2"]),
        (["../a=b", "/c d/e=f"], ["a-b", "e-f"]),  # what stands before = is no plain name
        (["A.b_c-1=x=y", "b"], {"A.b_c-1": "x=y", "b": "b"}),
        (["=x", "b"], ["-x", "b"]),
    ],
)
def test_names(arguments: list[str], expected: dict[str, str] | list[str] | None) -> None:
    if expected is None:
        assert runs.named(arguments) == {"c": "c", "run1-c": "run1/c", "run2-c": "run2/c"}
    else:
        assert runs.named(arguments) == (
            expected if isinstance(expected, dict) else dict(zip(expected, arguments, strict=True))
        )


def test_folders_that_are_there_have_names_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x/lr=1e-5", "x/lr=2e-5"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "x")
    assert runs.named(["lr=1e-5", "lr=2e-5"]) == {"lr-1e-5": "lr=1e-5", "lr-2e-5": "lr=2e-5"}
    assert runs.named([".", "lr=1e-5"]) == {"x": ".", "lr-1e-5": "lr=1e-5"}


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "no adapter: compare needs two or more"),
        (["a"], "one adapter only: compare needs two or more"),
        (["a=x", "a=y"], "a= is given twice"),
        (["x/a", "x/a"], "x/a and x/a: two runs would be named x-a: give one as NAME=PATH"),
        (["x/a", "x/a/"], "x/a and x/a/: two runs"),
        (["x=1", "x"], "x: two runs would be named x"),
    ],
)
def test_names_that_cannot_be(arguments: list[str], what: str) -> None:
    with pytest.raises(UserError, match=f"^{what}"):
        runs.named(arguments)


def test_adapters_are_opened_in_the_order_of_their_names(tiny_adapters: dict[str, Path]) -> None:
    found = open_all({"z": str(tiny_adapters["first"]), "a": str(tiny_adapters["second"])})
    assert list(found.deltas) == ["a", "z"]
    assert found.deltas["z"].folder == tiny_adapters["first"]
    assert found.modules == [f"layers.{layer}.self_attn.{name}_proj" for layer in (0, 1) for name in "oq"]
    assert (found.base, found.notes) == (None, [])


def test_bases_that_differ(tmp_path: Path) -> None:
    names = {"a": "Qwen/Qwen3-4B", "b": None, "c": "Qwen/Qwen3-4B/", "d": "Qwen/Qwen3-8B"}
    folders = {name: write_adapter(tmp_path / name, ["layers.0.q"], base) for name, base in names.items()}
    with pytest.raises(UserError, match=r"^a is an adapter of Qwen/Qwen3-4B, d of Qwen/Qwen3-8B: .*; --any-base"):
        open_all(folders)
    (note,) = open_all(folders, any_base=True).notes
    assert note.startswith("a is an adapter of Qwen/Qwen3-4B, d of Qwen/Qwen3-8B")
    del folders["d"]
    assert open_all(folders).notes == []


def test_modules_that_differ(tmp_path: Path) -> None:
    modules = {"a": ["q", "k", "x", "y", "z"], "b": ["q", "k", "v"], "c": ["q", "k", "v"]}
    folders = {
        name: write_adapter(tmp_path / name, [f"layers.{layer}.{part}" for part in parts for layer in (2, 10)])
        for name, parts in modules.items()
    }
    with pytest.raises(UserError) as error:
        open_all(folders)
    assert str(error.value) == (
        "a and b have different modules: a lacks layers.2.v, layers.10.v; "
        "b lacks layers.2.x, layers.2.y, ... (6 in all): --intersect compares the 4 that all runs have"
    )
    found = open_all(folders, intersect=True)
    assert found.modules == ["layers.2.k", "layers.2.q", "layers.10.k", "layers.10.q"]
    assert found.notes == [
        "a: 6 of its 10 modules are not compared: others lack them",
        *(f"{name}: 2 of its 6 modules are not compared: others lack them" for name in "bc"),
    ]
    folders["d"] = write_adapter(tmp_path / "d", ["layers.2.x"])
    for intersect in (False, True):
        with pytest.raises(
            UserError, match=r"^no module is common to all runs: b has layers\.2\.k, .*\), d layers\.2\.x$"
        ):
            open_all(folders, intersect=intersect)


def test_no_module_common_to_three_of_which_each_two_share_one(tmp_path: Path) -> None:
    parts = {"a": ["layers.0.q", "layers.0.k"], "b": ["layers.0.k", "layers.0.v"], "c": ["layers.0.v", "layers.0.q"]}
    folders = {name: write_adapter(tmp_path / name, modules) for name, modules in parts.items()}
    with pytest.raises(UserError, match=r"^no module is common to all runs: a has layers\.0\.k, "):
        open_all(folders, intersect=True)


def test_a_checkpoint_beside_adapters_is_compared_in_their_modules(
    tiny_model: Path, tiny_adapters: dict[str, Path], tmp_path: Path
) -> None:
    whole = tiny_checkpoints.merged(tiny_model, tiny_adapters["first"], tmp_path / "whole")
    named = {"first": str(tiny_adapters["first"]), "whole": str(whole)}
    found = open_all(named, str(tiny_model))
    assert found.base == tiny_model
    assert found.modules == found.deltas["first"].modules
    assert found.notes[-1] == "whole: 11 of its 15 modules are not compared: others lack them"
    assert found.notes[0].startswith("whole: norms, biases and others that are no matrices: not compared: layers.0.")
    for module in found.modules:
        factors, dense = (found.deltas[name].read(module) for name in named)
        np.testing.assert_allclose(factors.scale * factors.b @ factors.a, dense.weight, atol=1e-6)
    with pytest.raises(UserError, match=r"^whole is a checkpoint, .*: give --base"):
        open_all(named)


def test_a_checkpoint_that_lacks_an_adapters_module(tmp_path: Path) -> None:
    tensors = {HEAD.format(name): torch.ones(2, 2) for name in "kv"}
    base, whole = (str(write_model(tmp_path / name, tensors)) for name in ("base", "whole"))
    adapter = write_adapter(tmp_path / "adapter", [f"layers.1.self_attn.{name}_proj" for name in "qv"])
    named = {"lora": adapter, "whole": whole}
    with pytest.raises(UserError, match=r"^lora and whole .*: whole lacks layers\.1\.\S*q_proj: --intersect .* 1 that"):
        open_all(named, base)
    found = open_all(named, base, intersect=True)
    assert found.modules == ["layers.1.self_attn.v_proj"]
    assert found.notes == [
        f"lora is an adapter of Qwen/Qwen3-4B; --base is {base}: not checked",
        *(f"{name}: 1 of its 2 modules are not compared: others lack them" for name in ("lora", "whole")),
    ]


def test_checkpoints_alone_are_compared_in_all_their_modules(tmp_path: Path) -> None:
    tensors = {HEAD.format(name): torch.ones(2, 2) for name in "kv"}
    named = {name: str(write_model(tmp_path / name, tensors)) for name in ("one", "two")}
    base = str(write_model(tmp_path / "base", tensors))
    assert open_all(named, base).modules == [f"layers.1.self_attn.{name}_proj" for name in "kv"]
    assert open_all(named, base).notes == []


def test_checkpoints_with_large_matrices_say_how_exact_their_singular_values_are(tmp_path: Path) -> None:
    shapes = {"q": (513, 514), "k": (512, 2000), "v": (2000, 600)}
    tensors = {HEAD.format(name): torch.ones(shape) for name, shape in shapes.items()}
    named = {name: str(write_model(tmp_path / name, tensors)) for name in ("one", "two")}
    assert open_all(named, str(write_model(tmp_path / "base", tensors))).notes == [
        "one, two: in 2 matrices with both sides above 512 each singular value may be off by up to 1e-6 of the "
        "largest and 1 % of itself"
    ]


def test_a_base_is_fetched_only_where_it_is_read(
    tiny_adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_model(tmp_path / "base", {HEAD.format("q"): torch.ones(2, 2)})
    asked = []

    def snapshot_download(source: str, *, revision: str | None, **_: object) -> str:
        asked.append((source, revision))
        return str(base if source == "some/base" else tiny_adapters["first"])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    found = open_all({"a": "some/run", "b": str(tiny_adapters["second"])}, "some/base@v1")
    assert found.deltas["a"].folder == tiny_adapters["first"]
    assert (found.base, found.notes) == (None, [NOT_USED])
    assert asked == [("some/run", None)]
    asked.clear()
    assert open_all({"a": str(base), "b": str(base)}, "some/base@v1").base == base
    assert asked == [("some/base", "v1")]
