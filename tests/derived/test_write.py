"""The written adapter: PEFT loads it, its merged delta is the derived one, and deltageom reads it as any other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from deltageom.deltas.open import open_run
from deltageom.derived.write import write
from deltageom.errors import UserError
from deltageom.study.derived.recipe import Recipe
from tests.cli.test_main import deltageom
from tests.derived.adapters import SHAPES, Dense, assert_close, dense, dense_of, factors, made, norm, save

FLOAT32 = 1e-6  # of a sum of some rounded numbers, relative to their norm


@pytest.fixture
def folders(tiny_adapters: dict[str, Path]) -> dict[str, Path]:
    return dict(tiny_adapters)


def written(folders: dict[str, Path], output: Path, **steps: Any) -> Dense:
    """Writes it, and returns its update before it was written."""
    derived = made(folders, **steps)
    write(derived, Recipe(**steps), folders[Recipe(**steps).operands()[0]], output)
    return dense(derived)


def merged(base: Path, adapter: Path) -> Dense:
    """What PEFT's own merging does to the base's weights."""
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    after = model.merge_and_unload().state_dict()
    found = {
        name.removeprefix("model.").removesuffix(".weight"): (after[name].double() - before[name].double()).numpy()
        for name in before
        if not torch.equal(before[name], after[name]) or "q_proj.weight" in name or "o_proj.weight" in name
    }
    return dict(sorted(found.items()))


@pytest.mark.parametrize(
    "steps",
    [
        {"of": "first", "remove": "second"},
        {"of": "second", "keep": "first", "project": "module"},
        {"sum": {"first": 2.0, "second": -3.0}, "rank": 3, "norm_of": "first"},
        {"of": "first", "layers": [1]},
        {"of": "first", "remove": "first"},
    ],
    ids=lambda steps: "-".join(steps),
)
def test_peft_merges_what_was_derived(
    tiny_model: Path, folders: dict[str, Path], tmp_path: Path, steps: dict[str, Any]
) -> None:
    expected = written(folders, tmp_path / "made", **steps)
    found = merged(tiny_model, tmp_path / "made")
    assert sorted(found) == sorted(expected)  # nothing else of the model has changed
    base = {
        name: of.double().numpy() for name, of in AutoModelForCausalLM.from_pretrained(tiny_model).state_dict().items()
    }
    weights = norm({module: base[f"model.{module}.weight"] for module in expected})
    apart = norm({module: found[module] - expected[module] for module in expected})
    assert apart <= 1e-7 * weights + FLOAT32 * norm(expected)  # the merged weights are rounded to float32
    assert_close(dense_of(tmp_path / "made"), expected, FLOAT32)


def test_all_modules_have_the_rank_that_one_needs(folders: dict[str, Path], tmp_path: Path) -> None:
    written(folders, tmp_path / "made", sum={"first": 1.0, "second": 1.0}, layers=[0])
    config = json.loads((tmp_path / "made" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"], config["rank_pattern"]) == (6, 6, False, {})
    delta = open_run(tmp_path / "made")
    for module in delta.modules:
        factors_of = delta.read(module)
        assert (factors_of.b.shape[1], factors_of.a.shape[0], factors_of.scale) == (6, 6, 1.0)
        assert factors_of.b.any() == ("layers.0" in module)


def test_nothing_at_all_is_an_adapter_of_rank_one(folders: dict[str, Path], tmp_path: Path) -> None:
    written(folders, tmp_path / "made", of="first", remove="first")
    assert json.loads((tmp_path / "made" / "adapter_config.json").read_text())["r"] == 1
    assert not any(of.any() for of in dense_of(tmp_path / "made").values())


def test_patterns_and_rslora_of_a_parent_are_not_the_childs(tiny_model: Path, tmp_path: Path) -> None:
    """Its own ranks and scales are in its parent's factors, and must not count a second time."""
    torch.manual_seed(3)
    config = LoraConfig(
        r=4,
        lora_alpha=3,
        use_rslora=True,
        init_lora_weights=False,
        rank_pattern={"layers.1.self_attn.q_proj": 2},
        alpha_pattern={"o_proj": 9},
        target_modules=r".*layers\.\d\.self_attn\.(q|o)_proj",
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path / "parent")
    folders = {"parent": tmp_path / "parent"}
    expected = written(folders, tmp_path / "made", sum={"parent": 1.0})
    assert_close(expected, dense_of(tmp_path / "parent"))
    assert_close(merged(tiny_model, tmp_path / "made"), expected, 1e-4)


def test_selection_says_what_it_was_made_from(folders: dict[str, Path], tmp_path: Path) -> None:
    expected = written(folders, tmp_path / "made", of="first", remove="second", norm_of="second")
    found = json.loads((tmp_path / "made" / "selection.json").read_text())
    assert found["derived"] == {"of": "first", "remove": "second", "norm_of": "second"}
    assert found["parents"] == ["first", "second"]
    assert found["recipe"] == "first without its projection on second, as long as second"
    assert found["delta_norm"] == pytest.approx(norm(expected), rel=1e-12)
    assert found["delta_norm"] == pytest.approx(norm(dense_of(folders["second"])), rel=1e-12)


def test_the_same_bytes_each_time(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        written(folders, tmp_path / name, of="first", keep="second")
    for file in ("adapter_config.json", "adapter_model.safetensors", "selection.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_what_float32_does_not_hold_is_refused(tmp_path: Path) -> None:
    folders = {"a": save(tmp_path / "a", factors(1, 2))}
    with pytest.raises(UserError, match="too large for float32: lower its coefficients"):
        written(folders, tmp_path / "made", sum={"a": 1e60})


def test_the_command_works_without_a_study(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        save(tmp_path / name, factors(seed, 2), dtype=np.float32)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    made_by = deltageom("derive", "--of", a, "--remove", "b", "--run", f"b={b}", "--output", str(tmp_path / "made"))
    assert made_by.returncode == 0, made_by.stderr
    assert "without its projection on b: rank 4, 6 modules, written to" in made_by.stdout
    expected = dense(made({"a": tmp_path / "a", "b": tmp_path / "b"}, of="a", remove="b"))
    assert_close(dense_of(tmp_path / "made"), expected, FLOAT32)
    summed = ["--sum", f"{a}=2", f"{b}=-1e0", "--layers", "0,2", "--rank", "1", "--norm-of", b]
    done = deltageom("derive", *summed, "--output", str(tmp_path / "sum"))
    assert done.returncode == 0, done.stderr
    assert norm(dense_of(tmp_path / "sum")) == pytest.approx(norm(dense_of(tmp_path / "b")), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the recipe has nothing to start from: give one of of, sum, mean"),
        (["--of", "a", "--mean", "a", "b"], "has both of and mean"),
        (["--of", "a", "--remove", "b", "--keep", "b"], "has both remove and keep"),
        (["--of", "a", "--rank", "0"], "--rank input should be greater than or equal to 1; got 0"),
        (["--sum", "a=1", "a=2"], "--sum names a twice"),
        (["--of", "a", "--remove", "fewer"], "a and fewer adapt other modules: a has layers.2.down"),
        (["--of", "a", "--remove", "based"], "a is an adapter of some/base, based of other/base"),
        (["--of", "gone/for/good"], "'gone/for/good' is no folder"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    save(tmp_path / "a", factors(0, 2))
    save(tmp_path / "b", factors(1, 2))
    save(tmp_path / "fewer", dict(list(factors(1, 2).items())[:-1]))
    save(tmp_path / "based", factors(1, 2), base_model_name_or_path="other/base")
    named = [part for name in ("a", "b", "fewer", "based") for part in ("--run", f"{name}={tmp_path / name}")]
    done = deltageom("derive", *arguments, *named, "--output", str(tmp_path / "made"))
    assert done.returncode == 1
    assert done.stderr.startswith("deltageom derive: error: ")
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "made").exists()


def test_a_run_is_not_written_over(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", factors(0, 2))
    done = deltageom("derive", "--of", str(folder), "--rank", "1", "--output", str(folder))
    assert "is one of the runs: give a folder of its own" in done.stderr
    assert set(dense_of(folder)) == set(SHAPES)
