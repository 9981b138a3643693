"""The file of a module's geometry: what is still true in it is kept, digit for digit."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from deltageom.deltas.delta import Factors
from deltageom.deltas.open import open_run
from deltageom.geometry import record
from deltageom.geometry.base_weights import BaseWeights
from tests.conftest import BIN

MODULE = "layers.0.self_attn.q_proj"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Runs = dict[str, Path]
Array = NDArray[np.float64]


@pytest.fixture
def runs(tiny_adapters: Runs, tmp_path: Path) -> Runs:
    """Three adapters that may be changed: copies of two, and one with other B."""
    return {
        "first": copied(tiny_adapters["first"], tmp_path / "first"),
        "second": copied(tiny_adapters["second"], tmp_path / "second"),
        "third": copied(tiny_adapters["first"], tmp_path / "third", turned),
    }


def copied(adapter: Path, folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
    tensors = load_file(adapter / WEIGHTS)
    config = (adapter / CONFIG).read_text()
    change(tensors)
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text(config)
    save_file(tensors, folder / WEIGHTS)
    return folder


def turned(tensors: dict[str, Any]) -> None:
    for name in tensors:
        if "lora_B" in name:
            tensors[name] = tensors[name][::-1].copy()


def nudged(factor: str) -> Callable[[dict[str, Any]], None]:
    """One number of one factor of the module by one unit in its last place."""

    def change(tensors: dict[str, Any]) -> None:
        values = tensors[f"base_model.model.model.{MODULE}.lora_{factor}.weight"]
        values[0, 0] = np.nextafter(values[0, 0], np.float32(np.inf))

    return change


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "geometry" / f"{MODULE}.json"


def update(
    file: Path, runs: Runs, *only: str, top_ks: tuple[int, ...] = (1, 2), made_by: str = "code", **base: Any
) -> tuple[int, int]:
    opened = {name: open_run(folder) for name, folder in runs.items() if not only or name in only}
    return record.update(file, MODULE, opened, list(top_ks), made_by, **base)


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def rows(file: Path) -> dict[tuple[str, ...], str]:
    """Each run's and each pair's row as it is written."""
    found = read(file)
    of_runs = {(row["run"],): json.dumps(row) for row in found["runs"]}
    return of_runs | {(row["a"], row["b"]): json.dumps(row) for row in found["pairs"]}


def doctor(file: Path) -> dict[tuple[str, ...], str]:
    """Numbers that no measuring would give: a row that has them still was not measured again."""
    found = read(file)
    for i, row in enumerate(found["runs"]):
        row["norm"] = 1000.0 + i
    for i, row in enumerate(found["pairs"]):
        row["cosine"] = 2000.0 + i
    file.write_text(json.dumps(found))
    return rows(file)


def is_whole(file: Path, *names: str) -> None:
    found = read(file)
    assert [row["run"] for row in found["runs"]] == sorted(names)
    assert [(row["a"], row["b"]) for row in found["pairs"]] == list(combinations(sorted(names), 2))
    assert (found["module"], found["layer"], found["shape"]) == (MODULE, 0, [32, 32])


def is_measured_afresh(file: Path, runs: Runs, **told: Any) -> None:
    """Every row of a doctored file, as in a file that was not there before."""
    doctor(file)
    assert update(file, runs, **told) == (3, 0)
    is_whole(file, *runs)
    other = file.with_name("other.json")
    assert update(other, runs, **told) == (3, 0)
    assert file.read_bytes() == other.read_bytes()
    assert update(file, runs, **told) == (0, 3)
    assert file.read_bytes() == other.read_bytes()
    other.unlink()


def test_a_run_that_joins_leaves_the_others_alone(runs: Runs, file: Path) -> None:
    assert update(file, runs, "first", "second") == (1, 0)
    is_whole(file, "first", "second")
    before = doctor(file)
    assert update(file, runs) == (2, 1)
    is_whole(file, *runs)
    after = rows(file)
    assert {key: after[key] for key in before} == before
    new = {key for key in after if "third" in key}
    fresh = file.with_name("fresh.json")
    update(fresh, runs)
    for key in new:
        measured, at_once = (json.loads(of[key]) for of in (after, rows(fresh)))
        assert np.allclose(flat(measured), flat(at_once), rtol=1e-9, atol=1e-9), key


def flat(value: Any) -> list[float]:
    """All numbers of a row, in the order of the keys."""
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in flat(value[key])]
    if isinstance(value, list):
        return [number for part in value for number in flat(part)]
    return [value] if isinstance(value, (int, float)) else []


@pytest.mark.parametrize("change", ["A", "B", "scale"])
def test_a_run_whose_factors_change_is_measured_again(runs: Runs, file: Path, change: str) -> None:
    update(file, runs)
    digests = {row["run"]: row["sha256"] for row in read(file)["runs"]}
    before = doctor(file)
    if change == "scale":
        path = runs["second"] / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 3.0}))
    else:
        copied(runs["second"], runs["second"], nudged(change))
    assert update(file, runs) == (2, 1)
    after = rows(file)
    assert {key for key in after if after[key] == before[key]} == {("first",), ("third",), ("first", "third")}
    for row in read(file)["runs"]:
        assert (row["sha256"] == digests[row["run"]]) == (row["run"] != "second")
    assert all(row["cosine"] < 1 for row in read(file)["pairs"] if "second" in (row["a"], row["b"]))


def test_a_change_in_another_module_is_none(runs: Runs, file: Path) -> None:
    update(file, runs)
    before = doctor(file)

    def elsewhere(tensors: dict[str, Any]) -> None:
        tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"][:] = 1

    copied(runs["second"], runs["second"], elsewhere)
    assert update(file, runs) == (0, 3)
    assert rows(file) == before


def test_a_run_that_leaves_takes_its_rows_along(runs: Runs, file: Path) -> None:
    update(file, runs)
    before = doctor(file)
    assert update(file, runs, "first", "third") == (0, 1)
    is_whole(file, "first", "third")
    assert rows(file) == {key: row for key, row in before.items() if "second" not in key}


def test_two_runs_that_change_names_are_measured(runs: Runs, file: Path) -> None:
    """The names alone tell which run a row is of, and are part of what chance draws."""
    update(file, runs)
    before = doctor(file)
    assert update(file, {"first": runs["first"], "second": runs["second"], "new": runs["third"]}) == (2, 1)
    is_whole(file, "first", "second", "new")
    assert {key for key, row in rows(file).items() if before.get(key) == row} == {
        ("first",),
        ("second",),
        ("first", "second"),
    }
    assert update(file, {"first": runs["second"], "second": runs["first"], "new": runs["third"]}) == (3, 0)
    assert {row["run"]: row["rank"] for row in read(file)["runs"]} == {"first": 2, "new": 4, "second": 4}


def test_nothing_new_leaves_the_file_as_it_is(runs: Runs, file: Path) -> None:
    assert update(file, runs) == (3, 0)
    before = file.read_bytes()
    assert update(file, dict(reversed(runs.items()))) == (0, 3)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "told", [{"top_ks": (1,)}, {"top_ks": (1, 2, 3)}, {"made_by": "other code"}, {"top_ks": (2, 1)}]
)
def test_other_sizes_or_other_code_measure_everything(runs: Runs, file: Path, told: dict[str, Any]) -> None:
    update(file, runs)
    is_measured_afresh(file, runs, **told)


def test_another_base_measures_everything(runs: Runs, file: Path, tiny_model: Path, tmp_path: Path) -> None:
    spectra, folder = tmp_path / "spectra", tmp_path / "base"
    tensors = load_file(tiny_model / "model.safetensors")
    folder.mkdir()
    update(file, runs)
    for rank in (4, 5):
        save_file(tensors, folder / "model.safetensors")
        is_measured_afresh(file, runs, base=BaseWeights(folder, spectra, rank).module(MODULE))
    before = doctor(file)
    tensors[f"model.{MODULE.replace('q_proj', 'o_proj')}.weight"] *= 2
    save_file(tensors, folder / "model.safetensors")
    assert update(file, runs, base=BaseWeights(folder, spectra, 5).module(MODULE)) == (0, 3)  # another module's
    assert rows(file) == before
    energy = [row["base"]["input_energy"][0]["value"] for row in read(file)["runs"]]
    tensors[f"model.{MODULE}.weight"] = tensors[f"model.{MODULE}.weight"][:, ::-1].copy()
    save_file(tensors, folder / "model.safetensors")
    is_measured_afresh(file, runs, base=BaseWeights(folder, spectra, 5).module(MODULE))
    assert [row["base"]["input_energy"][0]["value"] for row in read(file)["runs"]] != energy
    is_measured_afresh(file, runs)
    assert not any("base" in row for row in read(file)["runs"])


def test_a_run_that_joins_is_held_against_the_base_alone(
    runs: Runs, file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    base = BaseWeights(tiny_model, tmp_path / "spectra", 4).module(MODULE)
    update(file, runs, "first", "second", base=base)
    before = doctor(file)
    assert update(file, runs, base=base) == (2, 1)
    after = rows(file)
    assert {key: after[key] for key in before} == before
    at_once = file.with_name("at once.json")
    update(at_once, runs, base=base)
    third, expected = (read(path)["runs"][2]["base"] for path in (file, at_once))
    assert np.allclose(flat(third), flat(expected), atol=1e-12)
    assert len(third["input_energy"]) == 2
    energies = [row["base"]["input_energy"][0]["value"] for row in read(file)["runs"]]
    stored = load_file(tiny_model / "model.safetensors")[f"model.{MODULE}.weight"].astype(float)
    v1 = np.linalg.svd(stored)[2][0]
    for energy, folder in zip(energies, runs.values(), strict=True):
        factors = open_run(folder).read(MODULE)
        assert isinstance(factors, Factors)
        delta = factors.b @ factors.a
        assert energy == pytest.approx(float(((delta @ v1) ** 2).sum() / (delta**2).sum()), abs=1e-9)


def part(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    found = read(path)
    change(found)
    path.write_text(json.dumps(found))


def as_before(found: dict[str, Any]) -> None:
    """Each pair held its 4 x 4 draws of the right side."""
    found["made_by"] = "code of before"
    for row in found["pairs"]:
        row["chance"]["own_v1_overlap"] = [0.5] * 16
        row["chance"]["own"] = [{"top_k": k, "right_overlap": [0.5] * 16} for k in (1, 2)]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_text(path.read_text()[:-20]),
    "empty": lambda path: path.write_text(""),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "list": lambda path: path.write_text("[]"),
    "number": lambda path: path.write_text("1"),
    "object": lambda path: path.write_text("{}"),
    "no runs": lambda path: part(path, lambda found: found.pop("runs")),
    "no digests": lambda path: part(path, lambda found: [row.pop("sha256") for row in found["runs"]]),
    "no names": lambda path: part(path, lambda found: [row.pop("a") for row in found["pairs"]]),
    "null": lambda path: part(path, lambda found: found.update(pairs=None)),
    "before there was a digest of the code": lambda path: part(path, lambda found: found.pop("made_by")),
    "draws, as an earlier version kept them": lambda path: part(path, as_before),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_file_that_is_damaged_or_not_ours_is_measured_afresh(runs: Runs, file: Path, kind: str) -> None:
    update(file, runs)
    whole = file.read_bytes()
    doctor(file)
    DAMAGE[kind](file)
    assert update(file, runs) == (3, 0)
    assert file.read_bytes() == whole


def test_a_pair_that_is_lacking_is_all_that_is_measured(
    runs: Runs, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(file, runs)
    measured: list[tuple[list[str], Any]] = []
    measure = record.measure_module

    def spied(module: str, deltas: Any, top_ks: Any, pairs: Any, draws: Any) -> Any:
        measured.append((sorted(deltas), pairs))
        return measure(module, deltas, top_ks, pairs, draws)

    monkeypatch.setattr(record, "measure_module", spied)
    part(file, lambda found: found["pairs"].pop(1))
    before = doctor(file)
    assert update(file, runs) == (1, 2)
    is_whole(file, *runs)
    after = rows(file)
    assert {key: after[key] for key in before} == before
    assert measured == [(["first", "third"], [("first", "third")])]


def test_one_run_alone_has_its_row(runs: Runs, file: Path) -> None:
    assert update(file, runs, "first") == (0, 0)
    is_whole(file, "first")
    before = doctor(file)
    assert update(file, runs, "first", "second") == (1, 0)
    is_whole(file, "first", "second")
    assert rows(file)["first",] == before["first",]


@dataclass(frozen=True)
class Given:
    """A delta that is at hand."""

    b: Array
    a: Array

    def read(self, _: str) -> Factors:
        return Factors(self.b, self.a, 1.0)


def test_the_same_numbers_in_other_shapes_are_other_factors(file: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = {name: rng.standard_normal(2 * (6 + 8)) for name in ("one", "two")}
    for d_out in (6, 8):
        shaped = {
            name: Given(flat[: 2 * d_out].reshape(d_out, 2), flat[2 * d_out :].reshape(2, 14 - d_out))
            for name, flat in numbers.items()
        }
        assert record.update(file, MODULE, shaped, [1], "code") == (1, 0)  # type: ignore[arg-type]
        assert read(file)["shape"] == [d_out, 14 - d_out]


def test_the_command_counts_what_it_measures_and_keeps(runs: Runs, tiny_model: Path, tmp_path: Path) -> None:
    other = "layers.1.self_attn.o_proj"
    output, spectra = tmp_path / "out", tmp_path / "spectra"

    def deltageom(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [BIN / "deltageom", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def geometry_of(*names: str, top_k: int = 2) -> subprocess.CompletedProcess[str]:
        given = [part for name in names for part in ("--run", f"{name}={runs[name]}")]
        wanted = ["--module", MODULE, "--module", other, "--top-k", "1", "--top-k", top_k, "--output", output]
        return deltageom("geometry", *given, *wanted, "--base", tiny_model, "--spectra", spectra, "--base-rank", 4)

    told = deltageom("base-spectrum", "--base", tiny_model, "--module", MODULE, "--rank", 4, "--output", spectra)
    assert told.stdout == f"{MODULE}: 32 singular triplets, exact\n"
    made = (spectra / f"{MODULE}.safetensors").stat().st_mtime_ns
    done = geometry_of("first", "second")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{module}: 1 pairs measured, 0 kept" for module in (MODULE, other)]
    assert (spectra / f"{MODULE}.safetensors").stat().st_mtime_ns == made
    assert sorted(path.name for path in output.iterdir()) == [f"{MODULE}.json", f"{other}.json"]
    assert all(len(row["base"]["input_energy"]) == 2 for row in read(output / f"{MODULE}.json")["runs"])
    before = doctor(output / f"{MODULE}.json")
    done = geometry_of("third", "first", "second")
    assert done.stdout.splitlines() == [f"{module}: 2 pairs measured, 1 kept" for module in (MODULE, other)]
    after = rows(output / f"{MODULE}.json")
    assert {key: after[key] for key in before} == before
    assert [[part["top_k"] for part in row["angles"]] for row in read(output / f"{MODULE}.json")["pairs"]] == [
        [1, 2]
    ] * 3
    assert geometry_of(*runs, top_k=3).stdout.count("3 pairs measured, 0 kept") == 2


def test_spectra_need_to_know_of_what(runs: Runs, tiny_model: Path, tmp_path: Path) -> None:
    asked = [
        "geometry",
        "--run",
        f"a={runs['first']}",
        "--module",
        MODULE,
        "--top-k",
        "1",
        "--output",
        tmp_path / "out",
    ]
    for more in ([], ["--base", tiny_model], ["--base-rank", "4"]):
        command = [BIN / "deltageom", *asked, "--spectra", tmp_path, *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("deltageom geometry: error: --spectra needs --base and --base-rank")
