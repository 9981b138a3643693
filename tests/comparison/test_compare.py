"""`deltageom compare` on real adapters and checkpoints, against dense float64 algebra on the stored tensors."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from deltageom.geometry import base_weights
from deltageom.geometry.aggregate.table import COLUMNS
from tests.comparison.comparing import (
    Array,
    Compare,
    Key,
    by_key,
    cells,
    check,
    command,
    dense,
    each_b,
    edited,
    in_modules,
    modules_of,
    named,
    over_modules,
    read,
)


def not_compared(base: Path, modules: list[str], runs: dict[str, Path]) -> dict[Key, float]:
    """A checkpoint trains all weights, an adapter those that it is compared in."""
    sizes = {name: tensor.size for name, tensor in load_file(base / "model.safetensors").items()}
    left = sum(sizes.values()) - sum(sizes[f"model.{module}.weight"] for module in modules)
    values = {name: left if name == "whole" else 0 for name in runs}
    found: dict[Key, float] = {("", name, "", "weights_not_compared", ""): left for name, left in values.items()}
    return found | {
        ("", name, "", "share_not_compared", ""): left / sum(sizes.values()) for name, left in values.items()
    }


def test_every_number_of_adapters_and_a_checkpoint_is_that_of_dense_algebra(
    tiny_model: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    done = command(*named(runs), "--base", tiny_model, "--top-k", "2,1", "--output", output)
    assert (done.code, done.err) == (0, "")
    assert sorted(path.name for path in output.iterdir()) == sorted(
        f"{name}.csv" for name in ("per_module", "per_layer", "global", "spectrum")
    )
    for table, level in (("per_module", "module"), ("per_layer", "layer"), ("global", "global")):
        first = ("tower",) if level == "layer" else ()
        assert tuple(read(output, table)[0]) == (*first, *COLUMNS[level])
    deltas = {name: dense(folder, tiny_model) for name, folder in runs.items()}
    modules = list(deltas["first"])
    assert len(modules) == 4
    single = in_modules(deltas, modules, [1, 2])
    check(by_key(read(output, "per_module"), "module"), single)
    layers = {layer: [module for module in modules if f"layers.{layer}." in module] for layer in "01"}
    expected: dict[Key, float] = {}
    for layer, inside in layers.items():
        expected |= over_modules(single, deltas, inside, layer)
    check(by_key(read(output, "per_layer"), "layer"), expected)
    whole = over_modules(single, deltas, modules, "")
    whole |= not_compared(tiny_model, modules, runs)
    check(by_key(read(output, "global")), whole)
    assert {(row["n_modules"], row["n_defined"]) for row in read(output, "global")} == {("4", "4")}
    assert all(row["layer"] == row["module"].split(".")[1] for row in read(output, "per_module"))
    for table in ("per_module", "spectrum"):
        assert list(dict.fromkeys(row["module"] for row in read(output, table))) == sorted(modules)

    spectrum = {
        (module, run): [
            float(row["singular_value"])
            for row in read(output, "spectrum")
            if row["module"] == module and row["run"] == run
        ]
        for module in modules
        for run in runs
    }
    for (module, run), values in spectrum.items():
        sigma = np.linalg.svd(deltas[run][module], compute_uv=False)
        assert len(values) == {"first": 4, "second": 2, "whole": 32}[run]
        np.testing.assert_allclose(values, sigma[: len(values)], rtol=1e-9)
    assert list(read(output, "spectrum")[0]) == ["module", "layer", "run", "index", "singular_value"]
    assert [row["index"] for row in read(output, "spectrum")][:5] == ["1", "2", "3", "4", "1"]
    page_says_what_the_tables_do(done.out, output, whole)


def page_says_what_the_tables_do(page: str, output: Path, whole: dict[Key, float]) -> None:
    text = " ".join(page.split())
    assert text.startswith("3 runs, 4 modules in 2 layers note: whole: ")
    assert "note: whole: 11 of its 15 modules are not compared" in text
    assert "note: whole: norms, biases and others that are no matrices: not compared: layers.0." in text
    assert ("The first" in text, "--base is not used" in text) == (False, False)
    assert f"Written to {output}: per_module.csv, per_layer.csv, global.csv, spectrum.csv" in text
    rows = by_key(read(output, "global"))
    for run in ("first", "second", "whole"):
        measures = ("norm", "stable_rank_mean", "effective_rank_sigma_mean", "effective_rank_sigma2_mean")
        update, matrix = cells(page, run)
        left, share = (whole["", run, "", f"{what}_not_compared", ""] for what in ("weights", "share"))
        out = f"{left:.3g} ({share:.2%})" if left else "0"
        assert update == [*(f"{whole['', run, '', measure, '']:.4g}" for measure in measures), out]
        others = {b: whole.get(("", *sorted((run, b)), "cosine", ""), 1.0) for b in ("first", "second", "whole")}
        assert matrix == [f"{value:.3f}" for value in others.values()]
    for a, b in (("first", "second"), ("first", "whole"), ("second", "whole")):
        assert cells(page, f"{a}, {b}") == [of_a_pair(rows, a, b)]


def of_a_pair(rows: dict[Key, dict[str, str]], a: str, b: str) -> list[str]:
    """What the page is to say, from the table: chance of the runs' own A where there is one."""
    own = "own" if rows["", a, b, "cosine", ""]["chance_own_sd"] else "fresh"

    def text(measure: str, form: str, k: str = "", column: str = "value") -> str:
        return f"{float(rows['', a, b, measure, k][column]):{form}}"

    def angle(name: str) -> str:
        row = rows["", a, b, f"{name}_median", "2"]
        by_a_only = own == "own" and float(row["chance_own_sd"]) < 1e-6
        chance = "A" if by_a_only else text(f"{name}_median", ".1f", "2", f"chance_{own}_mean")
        return f"{text(f'{name}_median', '.1f', '2')} ({chance})"

    angles = [angle(name) for name in ("left_smallest", "left_largest", "right_smallest", "right_largest")]
    z = text("cosine", ".1f", column=f"chance_{own}_z")
    return [text("cosine", ".4f"), z, text("orthogonal_fraction_stacked", ".3f"), *angles]


def test_adapters_are_held_against_the_chance_of_their_own_inputs(
    compare: Compare, runs: dict[str, Path], tmp_path: Path
) -> None:
    """Two runs with one A, as two seeds of an experiment have it."""
    same = edited(runs["first"], tmp_path / "same", each_b(lambda b: b[::-1].copy()))
    done = compare(*named({**runs, "whole": same}), "--top-k", 2, "--output", tmp_path / "out")
    rows = by_key(read(tmp_path / "out", "global"))
    shown = cells(done.out, "first, whole")
    assert shown == [of_a_pair(rows, "first", "whole")]
    cosine = rows["", "first", "whole", "cosine", ""]
    assert float(cosine["chance_own_sd"]) > 1.5 * float(cosine["chance_fresh_sd"])
    assert float(rows["", "first", "whole", "right_largest_median", "2"]["chance_own_mean"]) < 80


def test_a_checkpoint_leaves_the_chance_of_adapters_alone(
    compare: Compare, tiny_model: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    assert compare(*named(runs)[:2], "--output", tmp_path / "two").code == 0
    assert compare(*named(runs), "--base", tiny_model, "--output", tmp_path / "three").code == 0
    alone, beside = (by_key(read(tmp_path / name, "per_module"), "module") for name in ("two", "three"))
    for key, row in alone.items():
        for column in ("chance_own_mean", "chance_own_sd"):
            assert beside[key][column] or not row[column], key


def test_neither_processes_nor_the_order_of_the_runs_change_a_digit(
    compare: Compare, tiny_model: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    for name, arguments in {
        "one": [*named(runs), "--processes", "1"],
        "two": [*named(runs), "--processes", "2"],
        "turned": [*reversed(named(runs)), "--processes", "2"],
    }.items():
        assert compare(*arguments, "--base", tiny_model, "--output", tmp_path / name).code == 0
    for table in ("per_module", "per_layer", "global", "spectrum"):
        first, *others = ((tmp_path / name / f"{table}.csv").read_bytes() for name in ("one", "two", "turned"))
        assert others == [first, first]


def test_a_run_is_named_after_its_folder_or_as_told(compare: Compare, runs: dict[str, Path]) -> None:
    first, second = runs["first"], runs["second"]
    assert cells(compare(first, second).out, f"{first.name}, {second.name}")
    assert cells(compare(f"b={first}", f"a={second}").out, "a, b")
    assert cells(compare(f"b={first}", second).out, f"b, {second.name}")


@pytest.mark.filterwarnings("ignore:The following alpha_pattern keys did not match")
def test_the_delta_is_what_peft_merges(compare: Compare, tiny_model: Path, tmp_path: Path) -> None:
    """rsLoRA, scales and ranks of a module's own, other ranks; wide modules and tall ones."""
    options: dict[str, dict[str, Any]] = {
        "patterns": {
            "r": 4,
            "alpha_pattern": {"v_proj": 3, "layers.1.mlp.down_proj": 20},
            "rank_pattern": {"v_proj": 2},
        },
        "plain": {"r": 3},
        "rslora": {"r": 4, "use_rslora": True},
    }
    merged = {}
    names = [f"model.layers.{layer}.{module}" for layer in (0, 1) for module in ("mlp.down_proj", "self_attn.v_proj")]
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
    start = {name: base.get_submodule(name).weight.detach().clone() for name in names}
    for seed, (run, chosen) in enumerate(options.items()):
        torch.manual_seed(seed)
        config = LoraConfig(lora_alpha=6, init_lora_weights=False, target_modules=["v_proj", "down_proj"], **chosen)
        get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(tmp_path / run)
        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64), tmp_path / run
        )
        whole = model.double().merge_and_unload()
        merged[run] = {
            name.removeprefix("model."): (whole.get_submodule(name).weight.detach() - start[name]).numpy()
            for name in names
        }
    assert compare(*(tmp_path / run for run in options), "--top-k", 2, "--output", tmp_path / "out").code == 0
    modules = [name.removeprefix("model.") for name in names]
    found = by_key(read(tmp_path / "out", "per_module"), "module")
    expected = {
        key: value for key, value in in_modules(merged, modules, [2]).items() if key[3] in ("norm", "cosine", "inner")
    }
    assert len(expected) == 4 * (3 + 3 * 2)
    for key, value in expected.items():
        assert float(found[key]["value"]) == pytest.approx(value, rel=1e-7, abs=1e-8), key


@pytest.mark.parametrize(("dtype", "unit"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_one_delta_written_as_other_factors_is_the_same_update(
    compare: Compare, runs: dict[str, Path], tmp_path: Path, dtype: Any, unit: float
) -> None:
    """B G and G^-1 A: no measure may see G."""
    rng = np.random.default_rng(0)
    far: list[float] = []

    def rewrite(tensors: dict[str, Any]) -> None:
        for module in modules_of(tensors):
            a, b = (tensors[f"{module}.lora_{factor}.weight"].astype(float) for factor in "AB")
            mix = np.linalg.qr(rng.standard_normal((4, 4)))[0] * [0.5, 1, 2, 3]
            pair = np.linalg.inv(mix) @ a, b @ mix
            for factor, old, new in zip("AB", (a, b), pair, strict=True):
                tensors[f"{module}.lora_{factor}.weight"] = new.astype(dtype)
                far.append(abs((old * new).sum()) / np.linalg.norm(old) / np.linalg.norm(new))

    edited(runs["first"], tmp_path / "apart", rewrite)
    assert compare(f"a={runs['first']}", tmp_path / "apart", "--top-k", 4, "--output", tmp_path / "out").code == 0
    assert max(far) < 0.8  # the factors have little in common
    found = by_key(read(tmp_path / "out", "per_module"), "module") | by_key(read(tmp_path / "out", "global"))
    for (_, _, b, measure, _), row in found.items():
        value = float(row["value"])
        if b and ("cosine" in measure or "overlap" in measure or "coefficient" in measure):
            assert value == pytest.approx(1, abs=unit), row
        elif b and measure != "inner":  # angles in degrees, and orthogonal fractions
            assert abs(value) < 1e2 * unit, row


def test_a_zero_delta_has_dashes_and_empty_cells(compare: Compare, runs: dict[str, Path], tmp_path: Path) -> None:
    zero = edited(runs["second"], tmp_path / "zero", each_b(np.zeros_like))
    done = compare(*named(runs)[:2], zero, "--output", tmp_path / "out")
    assert done.code == 0
    assert "nan" not in done.out
    for table in ("per_module", "per_layer", "global"):
        rows = read(tmp_path / "out", table)
        assert "nan" not in (tmp_path / "out" / f"{table}.csv").read_text()
        for row in rows:
            exact = row["measure"] in ("norm", "spectral_norm", "rank", "inner") or "not_compared" in row["measure"]
            if "zero" not in (row["a"], row["b"]):
                assert (row["value"] != "", row["reason"]) == (True, "")
            elif exact:
                assert (float(row["value"]), row["reason"]) == (0.0, "")
            else:
                assert (row["value"], row["reason"]) == ("", "zero delta"), row
    update, matrix = cells(done.out, "zero")
    assert update == ["0", "–", "–", "–", "0"]
    assert matrix == ["–", "–", "–"]
    (pair,) = cells(done.out, "first, zero")
    assert pair == ["–", "–", "–", *(["– (–)"] * 4)]
    assert len({row["run"] for row in read(tmp_path / "out", "spectrum")}) == 2


def against_base(weight: Array, delta: Array, k: int) -> dict[str, float]:
    (u, sigma, vt), (u_, sigma_, _) = np.linalg.svd(weight), np.linalg.svd(weight + delta)
    after, before = (torch.from_numpy(matrix).to(torch.bfloat16) for matrix in (weight + delta, weight))
    return {
        "output_energy": float(((u[:, :k].T @ delta) ** 2).sum() / (delta**2).sum()),
        "input_energy": float(((delta @ vt[:k].T) ** 2).sum() / (delta**2).sum()),
        "spectral_drift": float(np.linalg.norm(sigma_[:k] - sigma[:k]) / np.linalg.norm(sigma[:k])),
        "intruders": float((abs(u.T @ u_[:, :k]).max(0) < 0.5).sum()),
        "unchanged_bf16": float((after == before).double().mean()),
    }


def check_against_base(rows: list[dict[str, str]], runs: dict[str, Path], base: Path, k: int) -> None:
    found = {(row["module"], row["a"], row["measure"]): row for row in rows if not row["b"]}
    start = load_file(base / "model.safetensors")
    for run, folder in runs.items():
        deltas = dense(folder, base)
        for module in {row["module"] for row in rows}:
            weight = start[f"model.{module}.weight"].astype(float)
            for measure, value in against_base(weight, deltas[module], k).items():
                row = found[module, run, measure]
                assert float(row["value"]) == pytest.approx(value, abs=1e-9), row
                if measure.endswith("energy"):
                    assert float(row["chance_fresh_mean"]) == k / 32


def test_held_against_the_base(
    compare: Compare, tiny_model: Path, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, base = tmp_path / "cache", tmp_path / "base"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    base.mkdir()
    tensors = load_file(tiny_model / "model.safetensors")
    save_file(tensors, base / "model.safetensors")
    asked = [*named(runs), "--base", base, "--against-base", "--top-k", 3]
    done = compare(*asked, "--output", tmp_path / "one")
    assert done.code == 0, done.err
    check_against_base(read(tmp_path / "one", "per_module"), runs, base, 3)
    assert "Against the base's weights" in done.out
    rows = by_key(read(tmp_path / "one", "global"))
    (shown, *_) = [row for row in cells(done.out, "first") if len(row) == 6]
    energy = rows["", "first", "", "input_energy", "3"]
    assert shown[0] == "3"
    assert shown[2] == f"{float(energy['value']):.2e} ({float(energy['chance_fresh_mean']):.2e})"
    assert shown[4] == f"{float(rows['', 'first', '', 'intruders_sum', '3']['value']):.4g}"
    assert shown[5] == f"{float(rows['', 'first', '', 'unchanged_bf16', '']['value']):.4g}"

    spectra = sorted(cache.glob("deltageom/base_spectrum/*/*.safetensors"))
    assert len(spectra) == 4
    made = {path.name: path.stat().st_mtime_ns for path in spectra}
    with monkeypatch.context() as patched:  # forked processes have it too
        patched.setattr(base_weights, "base_spectrum", pytest.fail)
        assert compare(*asked, "--output", tmp_path / "two").code == 0
    assert made == {path.name: path.stat().st_mtime_ns for path in spectra}
    assert (tmp_path / "one" / "per_module.csv").read_bytes() == (tmp_path / "two" / "per_module.csv").read_bytes()

    query = "layers.0.self_attn.q_proj"
    tensors[f"model.{query}.weight"] = tensors[f"model.{query}.weight"][::-1].copy()
    save_file(tensors, base / "model.safetensors")
    done = compare(*asked[:2], *asked[3:], "--output", tmp_path / "three")  # the adapters: their deltas stay
    assert (done.code, "--base is not used" in done.out) == (0, False)
    adapters = {name: runs[name] for name in ("first", "second")}
    check_against_base(read(tmp_path / "three", "per_module"), adapters, base, 3)
    assert {path.name for path in spectra if path.stat().st_mtime_ns != made[path.name]} == {f"{query}.safetensors"}
    assert compare(*asked, "--spectra", tmp_path / "own", "--base-rank", 7).code == 0
    with safe_open(tmp_path / "own" / f"{query}.safetensors", "numpy") as file:
        assert " rank 7 by " in json.loads(file.metadata()["facts"])["identity"]
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == sorted(made)


@pytest.mark.parametrize("prefix", ["transformer.", ""])  # as transformers saves it, and as it lies on the hub
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set")
def test_layers_that_hold_their_weights_transposed(compare: Compare, tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=12, n_layer=1, n_head=2))
    gpt2.save_pretrained(tmp_path / "base")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    renamed = {prefix + name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(renamed, tmp_path / "base" / "model.safetensors")
    modules = [f"h.0.{module}" for module in ("attn.c_attn", "attn.c_proj", "mlp.c_proj")]
    start = {module: gpt2.transformer.get_submodule(module).weight.detach().double().numpy().T for module in modules}
    expected = {}
    for run in ("a", "b"):
        config = LoraConfig(r=2, target_modules=["c_attn", "c_proj"], init_lora_weights=False)
        model = get_peft_model(copy.deepcopy(gpt2), config)
        model.save_pretrained(tmp_path / run)
        whole = model.double().merge_and_unload()
        for module in modules:
            delta = whole.transformer.get_submodule(module).weight.detach().numpy().T - start[module]
            expected |= {(module, run, measure): x for measure, x in against_base(start[module], delta, 2).items()}
    asked = (tmp_path / "a", tmp_path / "b", "--against-base", "--base", tmp_path / "base", "--top-k", 2)
    done = compare(*asked, "--spectra", tmp_path / "spectra", "--output", tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    found = {(row["module"], row["a"], row["measure"]): row["value"] for row in read(tmp_path / "out", "per_module")}
    for key, value in expected.items():
        assert float(found[key]) == pytest.approx(value, abs=1e-7), key
