"""Is one base meant? Names, revisions, and weights that are on this machine."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deltageom.comparison import bases, runs
from deltageom.errors import UserError
from tests.comparison.test_runs import open_all, write_adapter
from tests.deltas.test_whole_model import write_model

TENSORS = {
    "model.layers.0.q.weight": torch.randn(8, 8, generator=torch.Generator().manual_seed(0)),
    "model.norm.weight": torch.ones(8),
}


def adapters(folder: Path, *named: str | tuple[str, str]) -> dict[str, str]:
    """Runs a, b, ... of these bases, or bases and revisions."""
    found = {}
    for name, of in zip("abcd", named, strict=False):
        base, revision = of if isinstance(of, tuple) else (of, None)
        found[name] = write_adapter(folder / name, ["layers.0.q"], base)
        path = folder / name / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"revision": revision}))
    return found


def test_a_base_is_its_name_and_its_revision(tmp_path: Path) -> None:
    named = adapters(tmp_path, "some/base", ("Some/Base", "main"), ("some/base", "v2"))
    assert open_all({name: named[name] for name in "ab"}).notes == []  # the hub does not tell capitals apart
    with pytest.raises(UserError, match=r"^a is an adapter of some/base, c of some/base@v2: .*; --any-base"):
        open_all(named)
    (note,) = open_all(named, any_base=True).notes
    assert note.startswith("a is an adapter of some/base, c of some/base@v2: updates of different weights (their")


def test_one_base_in_two_places(tmp_path: Path) -> None:
    one, copy = (str(write_model(tmp_path / name, TENSORS)) for name in ("one", "copy"))
    (tmp_path / "link").symlink_to(one)
    assert open_all(adapters(tmp_path / "runs", one, copy, f"{tmp_path}/link", f"{one}/")).notes == []


def test_a_quantised_copy_is_known_by_what_is_not_quantised(tmp_path: Path) -> None:
    one = str(write_model(tmp_path / "one", TENSORS))
    packed = {"model.layers.0.q.weight": torch.zeros(32, 1, dtype=torch.uint8), "model.norm.weight": torch.ones(8)}
    copy = write_model(tmp_path / "one-bnb-4bit", packed)
    named = adapters(tmp_path / "runs", one, str(copy))
    assert open_all(named).notes == []
    save_file(packed | {"model.norm.weight": torch.full((8,), 1.5)}, copy / "model.safetensors")
    with pytest.raises(UserError, match=r"updates of different weights \(their weights differ\)"):
        open_all(named)
    save_file({"model.layers.0.q.weight": packed["model.layers.0.q.weight"]}, copy / "model.safetensors")
    with pytest.raises(UserError, match=r"\(their weights cannot be compared on this machine\)"):
        open_all(named)


def test_another_model_of_the_same_shape_is_another_base(tmp_path: Path) -> None:
    one = write_model(tmp_path / "one", TENSORS)
    nudged = {name: tensor.clone() for name, tensor in TENSORS.items()}
    nudged["model.layers.0.q.weight"][3, 3] += 1e-6
    other = write_model(tmp_path / "other", nudged)
    assert bases.same_weights(one, other) is False
    renamed = {name.replace("model.", "model.language_model."): tensor for name, tensor in TENSORS.items()}
    assert bases.same_weights(one, write_model(tmp_path / "renamed", renamed)) is True
    bf16 = {name: tensor.bfloat16() for name, tensor in load_file(one / "model.safetensors").items()}
    assert bases.same_weights(one, write_model(tmp_path / "bf16", bf16)) is None


def test_the_base_that_is_given_is_looked_at_too(tmp_path: Path) -> None:
    one, copy = (str(write_model(tmp_path / name, TENSORS)) for name in ("one", "copy"))
    other = str(write_model(tmp_path / "other", {name: tensor + 1 for name, tensor in TENSORS.items()}))
    named = adapters(tmp_path / "runs", one, one)
    for base, says in ((copy, []), (other, [f"a is an adapter of {one}; --base is {other}: other weights"])):
        found = runs.open_all(named, base, intersect=False, any_base=False, against_base=True)
        assert found.notes == says
