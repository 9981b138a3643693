"""`deltageom compare` on real adapters and checkpoints, against dense float64 algebra on the stored tensors."""

import copy
import csv
import json
import math
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from scipy.linalg import subspace_angles
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from deltageom import comparison
from deltageom.cli import main
from deltageom.geometry.aggregate import COLUMNS
from deltageom.measures import base as base_weights
from tests import tiny_checkpoints
from tests.conftest import BIN

Array = NDArray[np.float64]
Deltas = dict[str, dict[str, Array]]  # by run, then module
Key = tuple[str, str, str, str, str]  # module, layer or ""; a, b, measure, k as the csv has them
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ANGLES = {"smallest": np.min, "median": np.median, "largest": np.max}


@dataclass(frozen=True)
class Done:
    code: Any
    out: str
    err: str


Compare = Callable[..., Done]


@pytest.fixture
def compare(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Compare:
    """The command in this process, which has torch loaded already; on one process of its own unless told."""
    for library in ("OMP", "OPENBLAS", "MKL"):
        monkeypatch.setenv(f"{library}_NUM_THREADS", "1")

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        given = ["compare", *map(str, arguments)]
        with pytest.raises(SystemExit) as end:
            main.main(given if "--processes" in given else [*given, "--processes", "1"])
        return Done(end.value.code, *capfd.readouterr())

    return run


def command(*arguments: object, **environment: str) -> Done:
    """The command as a user calls it."""
    done = subprocess.run(
        [BIN / "deltageom", "compare", *map(str, arguments)],
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tiny_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters and a checkpoint, by name."""
    whole = tiny_checkpoints.perturbed(tiny_model, tmp_path_factory.mktemp("checkpoint") / "whole", seed=1)
    return {**tiny_adapters, "whole": whole}


def named(runs: dict[str, Path]) -> list[str]:
    return [f"{name}={folder}" for name, folder in runs.items()]


def edited(
    adapter: Path, folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None, **config: object
) -> Path:
    """A copy of the adapter with its tensors and its configuration changed."""
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(json.loads((adapter / CONFIG).read_text()) | config))
    tensors = load_file(adapter / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    return folder


def modules_of(tensors: Iterable[str]) -> list[str]:
    """What stands before .lora_A.weight."""
    return sorted(name.removesuffix(".lora_A.weight") for name in tensors if ".lora_A" in name)


def each_b(change: Callable[[Array], Array]) -> Callable[[dict[str, Any]], None]:
    def apply(tensors: dict[str, Any]) -> None:
        for module in modules_of(tensors):
            tensors[f"{module}.lora_B.weight"] = change(tensors[f"{module}.lora_B.weight"])

    return apply


def dense(folder: Path, base: Path) -> dict[str, Array]:
    """Each module's delta, from the stored tensors and nothing else."""
    if not (folder / CONFIG).exists():
        run, start = (load_file(of / "model.safetensors") for of in (folder, base))
        names = [name for name in run if ".layers." in name and run[name].ndim == 2]
        return {name[len("model.") : -len(".weight")]: run[name].astype(float) - start[name] for name in names}
    config, tensors = json.loads((folder / CONFIG).read_text()), load_file(folder / WEIGHTS)
    return {
        module.removeprefix("base_model.model.model."): config["lora_alpha"]
        / config["r"]
        * (tensors[f"{module}.lora_B.weight"].astype(float) @ tensors[f"{module}.lora_A.weight"].astype(float))
        for module in modules_of(tensors)
    }


def of_run(delta: Array) -> dict[tuple[str, str], float]:
    """By measure and k."""
    rank = np.linalg.matrix_rank(delta)
    sigma = np.linalg.svd(delta, compute_uv=False)[:rank]
    p, p2 = sigma / sigma.sum(), sigma**2 / (sigma**2).sum()
    found = {
        "norm": np.sqrt((delta**2).sum()),
        "spectral_norm": sigma[0],
        "stable_rank": (delta**2).sum() / sigma[0] ** 2,
        "effective_rank_sigma": np.exp(-(p * np.log(p)).sum()),
        "effective_rank_sigma2": np.exp(-(p2 * np.log(p2)).sum()),
        "rank": rank,
    }
    return {(measure, ""): float(value) for measure, value in found.items()}


def of_pair(one: Array, two: Array, ks: list[int]) -> dict[tuple[str, str], float]:
    inner, norms = (one * two).sum(), (np.linalg.norm(one), np.linalg.norm(two))
    cosine = inner / norms[0] / norms[1]
    (u, _, vt), (u_, _, vt_) = np.linalg.svd(one), np.linalg.svd(two)
    found = {
        ("inner", ""): inner,
        ("cosine", ""): cosine,
        ("coefficient_a_on_b", ""): inner / norms[1] ** 2,
        ("coefficient_b_on_a", ""): inner / norms[0] ** 2,
        ("orthogonal_fraction", ""): np.linalg.norm(two / norms[1] - cosine * one / norms[0]),
        ("u1_overlap", ""): abs(u[:, 0] @ u_[:, 0]),
        ("v1_overlap", ""): abs(vt[0] @ vt_[0]),
    }
    most = min(np.linalg.matrix_rank(one), np.linalg.matrix_rank(two))
    for k in sorted({min(asked, int(most)) for asked in ks}):
        for side, x, y in (("left", u, u_), ("right", vt.T, vt_.T)):
            angles = np.degrees(subspace_angles(x[:, :k], y[:, :k]))
            found |= {(f"{side}_{which}", str(k)): summary(angles) for which, summary in ANGLES.items()}
            found[f"{side}_overlap", str(k)] = np.mean(np.cos(np.radians(angles)) ** 2)
    return {key: float(value) for key, value in found.items()}


def in_modules(deltas: Deltas, modules: list[str], ks: list[int]) -> dict[Key, float]:
    found = {}
    names = sorted(deltas)
    for module in modules:
        for i, a in enumerate(names):
            found |= {(module, a, "", *key): value for key, value in of_run(deltas[a][module]).items()}
            for b in names[i + 1 :]:
                pair = of_pair(deltas[a][module], deltas[b][module], ks)
                found |= {(module, a, b, *key): value for key, value in pair.items()}
    return found


def over_modules(single: dict[Key, float], deltas: Deltas, modules: list[str], place: str) -> dict[Key, float]:
    """Of the deltas stacked to one vector; medians of angles and means of the rest over the modules."""
    groups: dict[tuple[str, str, str, str], list[float]] = {}
    for (module, *key), value in single.items():
        if module in modules:
            groups.setdefault(tuple(key), []).append(value)  # type: ignore[arg-type]
    found: dict[Key, float] = {}
    for (a, b, measure, k), values in groups.items():
        if measure == "cosine" or measure.endswith(("smallest", "median", "largest")):
            found[place, a, b, f"{measure}_median", k] = float(np.median(values))
        elif measure.endswith("overlap") or measure.startswith(("stable", "effective")):
            found[place, a, b, f"{measure}_mean", k] = float(np.mean(values))
    stacked = {run: np.concatenate([deltas[run][module].ravel() for module in modules]) for run in deltas}
    for a in deltas:
        found[place, a, "", "norm", ""] = float(np.linalg.norm(stacked[a]))
    for a, b in {(a, b) for a, b, *_ in groups if b}:
        for (measure, _), value in of_pair_stacked(stacked[a], stacked[b]).items():
            found[place, a, b, measure, ""] = value
        for x, y, name in ((a, b, "a_of_b"), (b, a, "b_of_a")):
            rest = [residual(deltas[x][module], deltas[y][module]) for module in modules]
            value = math.hypot(*rest) / float(np.linalg.norm(stacked[y]))
            found[place, a, b, f"orthogonal_fraction_by_module_{name}", ""] = value
    return found


def of_pair_stacked(one: Array, two: Array) -> dict[tuple[str, str], float]:
    inner, norms = one @ two, (np.linalg.norm(one), np.linalg.norm(two))
    return {
        ("inner", ""): float(inner),
        ("cosine", ""): float(inner / norms[0] / norms[1]),
        ("coefficient_a_on_b", ""): float(inner / norms[1] ** 2),
        ("coefficient_b_on_a", ""): float(inner / norms[0] ** 2),
        ("orthogonal_fraction_stacked", ""): residual(one, two) / float(norms[1]),
    }


def residual(x: Array, y: Array) -> float:
    """|y - its projection on x|."""
    return float(np.linalg.norm(y - (x * y).sum() / (x * x).sum() * x))


def read(folder: Path, table: str) -> list[dict[str, str]]:
    with (folder / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def by_key(rows: list[dict[str, str]], place: str = "") -> dict[Key, dict[str, str]]:
    return {(row[place] if place else "", row["a"], row["b"], row["measure"], row["k"]): row for row in rows}


def cells(page: str, first: str) -> list[list[str]]:
    """The cells of the printed rows that begin with `first`."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in page.splitlines() if line.startswith("│")]
    return [row[1:] for row in rows if row[0] == first]


def check(found: dict[Key, dict[str, str]], expected: dict[Key, float]) -> None:
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert float(found[key]["value"]) == pytest.approx(value, rel=1e-9, abs=1e-9), key
        assert found[key]["reason"] == ""


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
        assert tuple(read(output, table)[0]) == COLUMNS[level]
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
    assert "note: whole: 10 of its 14 modules are not compared" in text
    assert "note: whole: embed_tokens.weight is outside the layers: not compared" in text
    assert ("The first" in text, "--base is not used" in text) == (False, False)
    assert f"Written to {output}: per_module.csv, per_layer.csv, global.csv, spectrum.csv" in text
    rows = by_key(read(output, "global"))
    for run in ("first", "second", "whole"):
        measures = ("norm", "stable_rank_mean", "effective_rank_sigma_mean", "effective_rank_sigma2_mean")
        update, matrix = cells(page, run)
        assert update == [f"{whole['', run, '', measure, '']:.4g}" for measure in measures]
        others = {b: whole.get(("", *sorted((run, b)), "cosine", ""), 1.0) for b in ("first", "second", "whole")}
        assert matrix == [f"{value:.3f}" for value in others.values()]
    for a, b in (("first", "second"), ("first", "whole"), ("second", "whole")):
        assert cells(page, f"{a}, {b}") == [of_a_pair(rows, a, b)]


def of_a_pair(rows: dict[Key, dict[str, str]], a: str, b: str) -> list[str]:
    """What the page is to say, from the table: chance of the runs' own A where there is one."""
    own = "own" if rows["", a, b, "cosine", ""]["chance_own_sd"] else "fresh"

    def text(measure: str, form: str, k: str = "", column: str = "value") -> str:
        return f"{float(rows['', a, b, measure, k][column]):{form}}"

    angles = [
        f"{text(f'{angle}_median', '.1f', '2')} ({text(f'{angle}_median', '.1f', '2', f'chance_{own}_mean')})"
        for angle in ("left_smallest", "left_largest", "right_smallest", "right_largest")
    ]
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


def test_seeds_are_held_against_each_other(compare: Compare, runs: dict[str, Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    seeds = {"first": runs["first"]}
    for name in ("third", "fourth"):
        seeds[name] = edited(
            runs["first"], tmp_path / name, each_b(lambda b: b + rng.normal(size=b.shape).astype("f4"))
        )
    every = [*named(seeds | {"second": runs["second"]}), "--output", tmp_path / "out"]
    assert compare(*every, "--seeds", *seeds).code == 0
    for table, place in (("per_module", "module"), ("global", "")):
        found = by_key(read(tmp_path / "out", table), place)
        for (where, a, b, measure, k), row in found.items():
            if "second" not in (a, b) or measure != "cosine":
                continue
            pairs = (("first", "fourth"), ("first", "third"), ("fourth", "third"))
            values = [float(found[where, *pair, measure, k]["value"]) for pair in pairs]
            assert row["seed_n"] == "3"
            assert float(row["seed_mean"]) == pytest.approx(np.mean(values), abs=1e-12)
            assert float(row["seed_sd"]) == pytest.approx(np.std(values, ddof=1), rel=1e-9)
            z = (float(row["value"]) - np.mean(values)) / np.std(values, ddof=1)
            assert float(row["seed_z"]) == pytest.approx(z, rel=1e-9)
    assert found["", "first", "third", "cosine", ""]["seed_n"] == "2"  # all but itself
    assert compare(*every, "--seeds", "first", "third", "--seeds", "second", "fourth").code == 0
    found = by_key(read(tmp_path / "out", "global"))
    row = found["", "first", "second", "cosine", ""]
    others = [found["", *pair, "cosine", ""]["value"] for pair in (("first", "third"), ("fourth", "second"))]
    assert (row["seed_n"], float(row["seed_mean"])) == ("2", pytest.approx(np.mean([float(x) for x in others])))
    assert compare(*every).code == 0
    assert {row["seed_n"] for row in read(tmp_path / "out", "global") if row["measure"] == "cosine" and row["b"]} == {
        "0"
    }


def test_sizes_of_subspaces(compare: Compare, runs: dict[str, Path], tmp_path: Path) -> None:
    assert compare(*named(runs)[:2], "--top-k", "2,1,2", "--output", tmp_path).code == 0
    for table in ("per_module", "per_layer", "global"):
        assert {row["k"] for row in read(tmp_path, table) if "left" in row["measure"]} == {"1", "2"}
    # more than there are, more than a base would be asked for: all that both have
    assert compare(*named(runs)[:2], "--top-k", "100", "--output", tmp_path).code == 0
    assert {row["k"] for row in read(tmp_path, "global") if "left" in row["measure"]} == {"2"}


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--top-k", "0", "'0' is no list of positive numbers such as 1,10"),
        ("--top-k", "abc", "'abc' is no list of positive numbers"),
        ("--top-k", "1,,2", "'1,,2' is no list"),
        ("--processes", "0", "'0' is no positive number"),
        ("--base-rank", "-1", "'-1' is no positive number"),
    ],
)
def test_options_that_are_no_numbers(compare: Compare, option: str, value: str, says: str) -> None:
    done = compare("a", "b", f"{option}={value}")
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith(f"deltageom compare: error: argument {option}: {says}")


def test_what_no_screen_holds_is_left_to_the_files(compare: Compare, runs: dict[str, Path]) -> None:
    for number, pairs in ((8, 28), (12, 66), (13, 78)):
        page = compare(*(f"r{i:02}={runs['second']}" for i in range(number))).out
        assert ("Cosine, all modules stacked" in page) == (number <= 12)
        assert sum(line.startswith("│ r") and ", r" in line for line in page.splitlines()) == 28
        assert ("The first 28 of 78 pairs; all are in global.csv (--output)." in page) == (pairs == 78)
        assert ("The first 28 of" in page) == (pairs > 28)


def test_a_base_that_is_not_used_is_told(compare: Compare, tiny_model: Path, runs: dict[str, Path]) -> None:
    note = "note: --base is not used: no run is a checkpoint"
    asked = [*named(runs)[:2], "--base", tiny_model]
    assert note in compare(*asked).out
    assert note not in compare(*named(runs), "--base", tiny_model).out
    assert note not in compare(*named(runs)[:2]).out


def fewer(tensors: dict[str, Any]) -> None:
    for name in [name for name in tensors if "layers.1.self_attn.o_proj" in name]:
        del tensors[name]


def test_what_differs_is_compared_when_told(compare: Compare, runs: dict[str, Path], tmp_path: Path) -> None:
    part = edited(runs["second"], tmp_path / "part", fewer, base_model_name_or_path="some/[red]other")
    flags = ("--intersect", "--any-base")
    less = edited(runs["second"], tmp_path / "less", fewer)
    elsewhere = edited(runs["second"], tmp_path / "elsewhere", base_model_name_or_path="some/other")
    assert [compare(runs["first"], less, flag).code for flag in flags] == [0, 1]
    assert [compare(runs["first"], elsewhere, flag).code for flag in flags] == [1, 0]
    for given in ((), flags[:1], flags[1:]):
        assert compare(runs["first"], part, *given).code == 1
    done = compare(f"first={runs['first']}", part, *flags, "--output", tmp_path / "out")
    assert done.code == 0
    text = " ".join(done.out.split())
    assert "2 runs, 3 modules in 2 layers" in text
    assert "note: first: 1 of its 4 modules are not compared: others lack them" in text
    assert "part of some/[red]other: updates of different weights" in text
    modules = {row["module"] for row in read(tmp_path / "out", "per_module")}
    assert modules == set(dense(part, part))


def test_a_zero_delta_has_dashes_and_empty_cells(compare: Compare, runs: dict[str, Path], tmp_path: Path) -> None:
    zero = edited(runs["second"], tmp_path / "zero", each_b(np.zeros_like))
    done = compare(*named(runs)[:2], zero, "--output", tmp_path / "out")
    assert done.code == 0
    assert "nan" not in done.out
    for table in ("per_module", "per_layer", "global"):
        rows = read(tmp_path / "out", table)
        assert "nan" not in (tmp_path / "out" / f"{table}.csv").read_text()
        for row in rows:
            exact = row["measure"] in ("norm", "spectral_norm", "rank", "inner")
            if "zero" not in (row["a"], row["b"]):
                assert (row["value"] != "", row["reason"]) == (True, "")
            elif exact:
                assert (float(row["value"]), row["reason"]) == (0.0, "")
            else:
                assert (row["value"], row["reason"]) == ("", "zero delta"), row
    update, matrix = cells(done.out, "zero")
    assert update == ["0", "–", "–", "–"]
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
        assert " rank 7 by " in file.metadata()["identity"]
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
    modules = [f"transformer.h.0.{module}" for module in ("attn.c_attn", "attn.c_proj", "mlp.c_proj")]
    start = {module: gpt2.get_submodule(module).weight.detach().double().numpy().T for module in modules}
    expected = {}
    for run in ("a", "b"):
        config = LoraConfig(r=2, target_modules=["c_attn", "c_proj"], init_lora_weights=False)
        model = get_peft_model(copy.deepcopy(gpt2), config)
        model.save_pretrained(tmp_path / run)
        whole = model.double().merge_and_unload()
        for module in modules:
            delta = whole.get_submodule(module).weight.detach().numpy().T - start[module]
            expected |= {(module, run, measure): x for measure, x in against_base(start[module], delta, 2).items()}
    asked = (tmp_path / "a", tmp_path / "b", "--against-base", "--base", tmp_path / "base", "--top-k", 2)
    done = compare(*asked, "--spectra", tmp_path / "spectra", "--output", tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    found = {(row["module"], row["a"], row["measure"]): row["value"] for row in read(tmp_path / "out", "per_module")}
    for key, value in expected.items():
        assert float(found[key]) == pytest.approx(value, abs=1e-7), key


def spoil(tensors: dict[str, Any]) -> None:
    tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"][3, 1] = np.nan


def truncated(adapter: Path, folder: Path) -> Path:
    edited(adapter, folder)
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-10])
    return folder


Bad = Callable[[dict[str, Path], Path, Path], list[object]]
BAD: dict[str, tuple[Bad, str]] = {
    "one": (lambda runs, *_: [runs["first"]], "one adapter only: compare needs two or more"),
    "empty folder": (lambda runs, _, tmp: [runs["first"], tmp], r"no run's folder: .*it is empty"),
    "truncated": (
        lambda runs, _, tmp: [runs["first"], truncated(runs["second"], tmp / "cut")],
        r"cut/adapter_model\.safetensors: truncated, or not a safetensors file",
    ),
    "NaN": (
        lambda runs, _, tmp: [runs["first"], edited(runs["second"], tmp / "x", spoil), "--processes", "2"],
        r"x/adapter_model\.safetensors: \S+layers\.1\.self_attn\.q_proj\.lora_B\.weight holds NaN",
    ),
    "modules": (
        lambda runs, _, tmp: [f"a={runs['first']}", edited(runs["second"], tmp / "b", fewer)],
        r"a and b have different modules: b lacks layers\.1\.self_attn\.o_proj: --intersect compares the 3",
    ),
    "bases": (
        lambda runs, _, tmp: [f"a={runs['first']}", edited(runs["second"], tmp / "b", base_model_name_or_path="x/y")],
        r"a is an adapter of \S+, b of x/y: updates of different weights; --any-base compares them anyway",
    ),
    "shapes": (
        lambda runs, _, tmp: [f"a={runs['first']}", edited(runs["second"], tmp / "b", each_b(lambda b: b[:16].copy()))],
        r"'a' \(32, 32\) and 'b' \(16, 32\) differ in the shape",
    ),
    "no base": (lambda runs, *_: [*named(runs)], r"whole is a checkpoint, and its delta .* give --base"),
    "unknown seed": (
        lambda runs, *_: [*named(runs)[:2], "--seeds", "first", "thrid"],
        "--seeds names 'thrid', which is none of the runs: first, second",
    ),
    "two seeds": (
        lambda runs, *_: [*named(runs)[:2], "--seeds", "first", "second", "--seeds", "first"],
        "first is in two --seeds: give the runs",
    ),
    "spectra of what": (lambda runs, *_: [*named(runs)[:2], "--spectra", "x"], "--spectra is of --against-base"),
    "against what": (lambda runs, *_: [*named(runs)[:2], "--against-base"], "--against-base needs --base"),
    "base rank": (
        lambda runs, base, _: [*named(runs)[:2], "--against-base", "--base", base, "--base-rank", 5, "--top-k", "10,2"],
        "--base-rank 5 is less than --top-k 10: raise it",
    ),
    "module not in the base": (
        lambda runs, base, tmp: [
            *named(runs)[:2],
            *("--against-base", "--spectra", tmp / "spectra"),
            *("--base", without(base, tmp / "base", "model.layers.1.self_attn.q_proj.weight")),
        ],
        r"base: one tensor must be named \.\.\.layers\.1\.self_attn\.q_proj\.weight, but none is",
    ),
}


def without(model: Path, folder: Path, name: str) -> Path:
    tensors = load_file(model / "model.safetensors")
    del tensors[name]
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_mistyped_seed_is_told_before_the_work(
    compare: Compare, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "records", pytest.fail)
    is_one_line(compare(*named(runs)[:2], "--seeds", "thrid"), "--seeds names 'thrid'")


def test_a_file_where_a_folder_is_needed_is_told_before_the_work(
    compare: Compare, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "records", pytest.fail)
    (tmp_path / "out").write_text("")
    is_one_line(compare(*named(runs)[:2], "--output", tmp_path / "out"), "--output .*out is a file: give a folder")


def test_a_killed_process_is_told(compare: Compare, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel does where memory is short; waiting for its module would never end."""
    monkeypatch.setattr(comparison.geometry, "record", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    says = "one of 2 processes was killed, most likely for want of memory: give fewer --processes"
    is_one_line(compare(*named(runs)[:2], "--processes", "2"), says)


@pytest.mark.parametrize("kind", BAD)
def test_a_mistake_is_one_line(
    compare: Compare, tiny_model: Path, runs: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    arguments, says = BAD[kind]
    is_one_line(compare(*arguments(runs, tiny_model, tmp_path), "--output", tmp_path / "out"), says)
    assert not (tmp_path / "out").exists()


def is_one_line(done: Done, says: str) -> None:
    assert (done.code, done.out) == (1, "")
    assert done.err.count("\n") == 1
    assert re.match(f"deltageom compare: error: .*{says}", done.err)


def test_a_mistake_is_one_line_of_the_command_itself(runs: dict[str, Path], tmp_path: Path) -> None:
    arguments, says = BAD["NaN"]
    is_one_line(command(*arguments(runs, tmp_path, tmp_path)), says)
    done = command(runs["first"], "owner/name", HF_HOME=str(tmp_path / "hub"))
    is_one_line(done, "'owner/name' is no folder, and no run of this name can be fetched from the hub")
