"""`deltageom compare`: its options, and mistakes, each of them one line."""

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from deltageom.comparison import console, records
from deltageom.comparison.runs import Sources
from deltageom.geometry.aggregate.arrays import collect
from deltageom.geometry.aggregate.table import TEXT, numbers
from tests.comparison.comparing import WEIGHTS, Compare, Done, by_key, command, dense, each_b, edited, named, read
from tests.geometry.aggregate.test_table import deltas_of, records_of
from tests.report.page.reading import held


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
        ("--figure", "map.jpg", "'map.jpg' does not end in .svg, .png or .pdf"),
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


def test_pairs_with_one_run_only(compare: Compare, runs: dict[str, Path]) -> None:
    given = [f"{name}={runs['second']}" for name in "abc"]
    page = compare(*given, "--compare-with", "b").out
    assert [line.split("│")[1].strip() for line in page.splitlines() if line.startswith("│") and ", " in line] == [
        "a, b", "b, c",
    ]  # fmt: skip
    assert "│ a │ 1.000 │ 1.000 │ 1.000 │" in page  # the matrix is whole
    found = json.loads(compare(*given, "--compare-with", "b", "--json").out)["numbers"]
    assert {(row["a"], row["b"]) for row in found if row["b"]} == {("a", "b"), ("b", "c")}
    assert compare(*given, "--compare-with", "x").err.endswith("--compare-with 'x' is none of the runs: a, b, c\n")


def test_cosines_by_layer_are_those_of_the_table(compare: Compare, runs: dict[str, Path], tmp_path: Path) -> None:
    page = compare(*named(runs)[:2], "--by-layer", "--output", tmp_path).out.partition("Cosine by layer")[2]
    rows = [row for row in read(tmp_path, "per_layer") if row["measure"] == "cosine"]
    shown = [line.split("│")[1:3] for line in page.splitlines() if line.startswith("│")]
    assert len(rows) == 2
    assert [[cell.strip() for cell in line] for line in shown] == [
        [row["layer"], f"{float(row['value']):.3f}"] for row in rows
    ]


def test_json_has_every_global_number(compare: Compare, runs: dict[str, Path], tmp_path: Path) -> None:
    done = compare(*named(runs)[:2], "--json", "--output", tmp_path)
    found, rows = json.loads(done.out), read(tmp_path, "global")
    assert found["runs"] == ["first", "second"]
    assert len(found["modules"]) == 4
    numbers = [key for key in rows[0] if key not in TEXT]
    read_back = [row | {key: float(row[key]) if row[key] else None for key in numbers} for row in rows]
    assert [
        {key: "" if value is None and key in TEXT else value for key, value in row.items()} for row in found["numbers"]
    ] == read_back
    assert "Written to" in done.err


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_a_heat_map(compare: Compare, runs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    path = tmp_path / "new" / f"cosines.{kind}"
    done = compare(*named(runs)[:2], "--figure", path, "--output", tmp_path)
    assert f"Written to {path}" in done.out
    if kind == "svg":
        (cosine,) = (row["value"] for row in read(tmp_path, "global") if row["measure"] == "cosine")
        text = path.read_text()
        assert {"first", "second", "1.000", f"{float(cosine):.3f}".replace("-", "−")} <= set(
            re.findall(r"<text[^>]*>([^<]*)</text>", text)
        )
    else:
        assert path.read_bytes()[:4] == {"png": b"\x89PNG", "pdf": b"%PDF"}[kind]


def test_a_page_of_all_pairs(compare: Compare, runs: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "new" / "pairs.html"
    done = compare(*named(runs)[:2], "--html", path, "--output", tmp_path, "--compare-with", "second")
    assert f"Written to {path}" in done.out
    page = held(path.read_text())
    assert (page["runs"], page["reference"]) == (["first", "second"], "second")
    files = {"geometry_module": "per_module", "geometry_layer": "per_layer", "geometry_global": "global"}
    for name, file in files.items():
        rows = read(tmp_path, file)
        assert page["tables"][name]["value"].tolist() == [float(row["value"]) if row["value"] else None for row in rows]
    assert page["spectra"].keys() == {row["module"] for row in read(tmp_path, "spectrum")}
    refused = compare(*named(runs)[:2], "--html", "pairs.htm")
    assert "'pairs.htm' does not end in .html" in refused.err


def test_right_angles_that_the_inputs_alone_decide(compare: Compare, runs: dict[str, Path]) -> None:
    page = compare(*named(runs)[:2], "--top-k", "2").out
    assert page.count(" (A) ") == 0 or "(A): k reaches the ranks" in page
    same = compare(f"a={runs['second']}", f"b={runs['second']}", "--top-k", "2").out
    assert same.count("0.0 (A)") == 2
    assert "(A): k reaches the ranks" in same
    assert "(A)" not in compare(f"a={runs['second']}", f"b={runs['second']}", "--top-k", "1").out


def test_the_help_is_of_comparing(compare: Compare) -> None:
    done = compare("--help")
    assert "--compare-with" in done.out
    assert not re.search("--provenance|--gpus|--log", done.out)


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
        r"a is an adapter of \S+, b of x/y: updates of different weights \(.*\); --any-base compares them anyway",
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
        r"base: no weight of layers\.1\.self_attn\.q_proj; there is embed_tokens, layers\.0\.mlp\.down_proj",
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
    monkeypatch.setattr(records, "measure", pytest.fail)
    is_one_line(compare(*named(runs)[:2], "--seeds", "thrid"), "--seeds names 'thrid'")


def test_a_file_where_a_folder_is_needed_is_told_before_the_work(
    compare: Compare, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "measure", pytest.fail)
    (tmp_path / "out").write_text("")
    is_one_line(compare(*named(runs)[:2], "--output", tmp_path / "out"), "--output .*out is a file: give a folder")


def test_a_killed_process_is_told(compare: Compare, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel does where memory is short; waiting for its module would never end."""
    monkeypatch.setattr(records.record, "record", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
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


def test_a_first_look_at_some_modules_comes_before_all_are_measured(
    compare: Compare, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, on a terminal alone; the tables are those without it."""
    monkeypatch.setattr(records, "FIRST_LOOK", 0.0)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(console, "first_look", pytest.fail)
        assert compare(*named(runs)[:2], "--output", tmp_path / "plain").code == 0
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    looked = compare(*named(runs)[:2], "--output", tmp_path / "looked")
    assert looked.err.count("A first look: cosine of 1 of the 4 modules, stacked") == 1
    for table in records.FILES:
        assert (tmp_path / "plain" / f"{table}.csv").read_bytes() == (tmp_path / "looked" / f"{table}.csv").read_bytes()


def test_the_first_modules_that_are_measured_are_of_everywhere() -> None:
    order = records._spread(252)
    assert sorted(order) == list(range(252))
    assert order[:4] == [0, 128, 64, 192]


def test_rows_are_made_of_a_few_modules_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "AT_ONCE", 3)
    modules = collect(records_of(deltas_of(), ks=(1, 2)))
    pieces = list(records._pieces(Sources({}, [], None, []), records.Found(modules, []), "module", {}))
    every = modules.names
    assert [list(dict.fromkeys(piece["module"])) for piece in pieces] == [every, every[:3], every[3:]]
    np.testing.assert_equal(records._joined(pieces), numbers(modules, "module", {}))
