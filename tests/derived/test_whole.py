"""A whole model derived from others: its update against plain float64 arithmetic on all parameters at once."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from deltageom.deltas.tensors import ModelTensors
from deltageom.derived import whole
from deltageom.errors import UserError
from deltageom.study.derived.recipe import Recipe
from tests.cli.test_main import deltageom
from tests.deltas import tiny_checkpoints

Update = dict[str, NDArray[np.float64]]


@pytest.fixture(scope="module")
def folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return {name: tiny_checkpoints.perturbed(tiny_model, folder / name, seed) for seed, name in enumerate("ab", 1)}


def update_of(folder: Path, base: Path) -> Update:
    run, start = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (folder, base))
    kept = ModelTensors(base).names  # a tied head is in no file
    return {name: (run[name].double() - start[name].double()).numpy() for name in sorted(kept)}


def vector(update: Update) -> NDArray[np.float64]:
    return np.concatenate([update[name].ravel() for name in sorted(update)])


def written(folders: dict[str, Path], base: Path, output: Path, **steps: Any) -> Update:
    recipe = Recipe(**steps)
    derived = whole.derive(recipe, {name: folders[name] for name in recipe.operands()}, base)
    whole.write(derived, recipe, base, folders[recipe.operands()[0]], output)
    found = update_of(output, base)
    assert json.loads((output / "selection.json").read_text())["delta_norm"] == pytest.approx(derived.norm)
    assert np.linalg.norm(vector(found)) == pytest.approx(derived.norm, rel=1e-5, abs=1e-6)
    return found


def test_remove_and_keep_are_a_projection_of_all_parameters(
    folders: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    a, b = (vector(update_of(folders[name], tiny_model)) for name in "ab")
    along = vector(written(folders, tiny_model, tmp_path / "along", of="a", keep="b"))
    rest = vector(written(folders, tiny_model, tmp_path / "rest", of="a", remove="b"))
    np.testing.assert_allclose(along, (a @ b) / (b @ b) * b, atol=1e-6)
    np.testing.assert_allclose(along + rest, a, atol=1e-6)
    assert abs(rest @ b) < 1e-6 * np.linalg.norm(a) * np.linalg.norm(b)
    each = written(folders, tiny_model, tmp_path / "each", of="a", keep="b", project="module")
    for name, own in each.items():
        x, y = (update_of(folders[run], tiny_model)[name].ravel() for run in "ab")
        np.testing.assert_allclose(own.ravel(), (x @ y) / (y @ y) * y, atol=1e-6)


def test_a_sum_of_some_layers_as_long_as_another(folders: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    found = written(folders, tiny_model, tmp_path / "sum", sum={"a": 2.0, "b": -0.5}, layers=[1], norm_of="b")
    a, b = (update_of(folders[name], tiny_model) for name in "ab")
    wanted = {name: (2 * a[name] - 0.5 * b[name]) * (".layers.1." in name) for name in a}
    factor = np.linalg.norm(vector(b)) / np.linalg.norm(vector(wanted))
    np.testing.assert_allclose(vector(found), factor * vector(wanted), atol=1e-5)
    assert any(".layers.1." in name and wanted[name].any() for name in wanted)


def test_half_precision_is_the_bases(folders: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained(base)
    run = tiny_checkpoints.perturbed(base, tmp_path / "run", 3, torch.bfloat16)
    derived = whole.derive(Recipe(of="run"), {"run": run}, base)
    whole.write(derived, Recipe(of="run"), base, run, tmp_path / "out")
    ours, theirs = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (tmp_path / "out", run))
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == torch.bfloat16 for name in theirs)
    with pytest.raises(UserError, match="a derived model has the base's shapes and types"):
        whole.derive(Recipe(of="a"), folders, base)


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ({"of": "a", "rank": 2}, "rank: a whole model has parameters that are no matrices: leave it out"),
        ({"of": "a", "layers": [7]}, "layers: there is no layer 7; the model has 0, 1"),
        ({"of": "a", "remove": "base"}, "remove 'base': its update is zero, so it has no direction"),
        ({"of": "a", "norm_of": "base"}, "norm_of 'base': of two updates one is zero"),
    ],
)
def test_what_cannot_be_is_refused(
    folders: dict[str, Path], tiny_model: Path, steps: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError) as raised:
        whole.derive(Recipe(**steps), folders | {"base": tiny_model}, tiny_model)
    assert says in str(raised.value)


def test_the_command(folders: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    steps = ("derive", "--mean", folders["a"], folders["b"], "--output", tmp_path / "mean")
    refused = deltageom(*steps)
    assert refused.returncode == 1
    assert "give it with --base" in refused.stderr
    done = deltageom(*steps, "--base", tiny_model)
    assert done.returncode == 0, done.stderr
    assert "a whole model of" in done.stdout
    a, b = (vector(update_of(folders[name], tiny_model)) for name in "ab")
    np.testing.assert_allclose(vector(update_of(tmp_path / "mean", tiny_model)), (a + b) / 2, atol=1e-6)
