"""A page holds the numbers of the tables, says what is not there, and is safe whatever a model wrote."""

import html as entities
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deltageom.display.table_files import read_table
from deltageom.errors import UserError
from deltageom.report.page import render, samples, source
from deltageom.report.page.answers import plain
from deltageom.report.page.arrange import order, plane
from deltageom.text import escape
from tests.report.page import made_up
from tests.report.page.reading import held

LONG_TEXT = made_up.HOSTILE + "x" * 1_000_000 + "THE END"
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "made-up"
    return made_up.write(folder, sft=LONG_TEXT, dpo=made_up.INVISIBLE)


@pytest.fixture(scope="module")
def page(results: Path) -> str:
    return render.page([source.read(results)])


def copied(results: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(results, tmp_path / "copy"))


def test_the_numbers_are_those_of_the_tables(results: Path, page: str) -> None:
    tables = held(page)["tables"]
    assert set(tables) == {path.stem for path in (results / "tables").glob("*.csv")}
    for name, table in tables.items():
        wanted = read_table(results / "tables", name)
        assert list(table) == list(wanted)
        for column in wanted:
            if pd.api.types.is_float_dtype(wanted[column]):
                np.testing.assert_array_equal(table[column].astype(float), wanted[column], err_msg=f"{name}.{column}")
            else:
                assert [v if pd.notna(v) else None for v in wanted[column]] == [
                    v if pd.notna(v) else None for v in table[column]
                ], (name, column)


def test_spectra_are_those_of_the_modules(results: Path, page: str) -> None:
    spectra = held(page)["spectra"]
    for path in (results / "geometry").glob("*.json"):
        record = json.loads(path.read_text())
        assert spectra[record["module"]] == {
            run["run"]: run["singular_values"] for run in record["runs"] if run["singular_values"]
        }


def test_what_a_model_wrote_cannot_leave_its_place(page: str) -> None:
    assert page.count("</script>") == 3
    assert page.count("<script") == 3
    assert "<script>document" not in page
    assert "<img" not in page
    assert "\x00" not in page
    assert len(page) < MEGABYTE / 2  # of 1 MB of text only its two ends


def test_long_and_invisible_text(page: str) -> None:
    found = held(page)["samples"]["easy"]
    (problem,) = [one for one in found["problems"] if one["id"] == "p2"]
    of = dict(zip(found["models"], problem["of"], strict=True))
    assert of["sft"]["text"] == LONG_TEXT[: samples.HEAD].replace("\u2028", "\n")
    assert of["sft"]["end"] == LONG_TEXT[-samples.TAIL :]
    assert of["sft"]["left"] == len(LONG_TEXT) - samples.HEAD - samples.TAIL
    assert (
        of["dpo"]["text"]
        == "a\u2400b\u2407c\u27e8U+202E\u27e9right to left\u27e8U+2066\u27e9\u27e8U+200F\u27e9 \ufffd end"
    )
    assert "left" not in of["dpo"]


def test_samples_say_what_both_graders_said(page: str) -> None:
    found = held(page)["samples"]
    assert (found["easy"]["all"], found["easy"]["differ"], found["easy"]["samples"]) == (12, 9, 1)
    assert found["hard_sampled"]["samples"] == 2
    first = {one["id"]: one for one in found["easy"]["problems"]}
    sft = [one["of"][found["easy"]["models"].index("sft")] for one in (first["p0"], first["p1"])]
    assert [(of["strict"], of["math_verify"], of["apart"]) for of in sft] == [
        ("correct", "wrong", True),
        ("correct", "timeout", False),
    ]
    assert [one["id"] for one in found["easy"]["problems"]][-3:] == ["p0", "p1", "p11"]  # on which all models agree
    assert [of["right"] for of in found["hard_sampled"]["problems"][0]["of"]] == [2] * 4


def test_only_so_much_text_is_held(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "ALL_TEXT", 6_000)
    found = samples.samples(source.read(results).graded)
    assert [len(one["problems"]) for one in found.values()] == [1, 3]  # one always: the megabyte's
    assert found["easy"]["all"] == 12


def test_the_answer_is_the_summarys(page: str) -> None:
    said = [lead + " " + sentence if lead else sentence for lead, sentence in held(page)["answers"]]
    text = entities.unescape(page)
    for lead, sentence in held(page)["answers"]:
        assert lead in text
        assert sentence in text
    assert said[0].startswith("Which updates are the same as sft's: no run differs from it only in seeds")
    assert said[1].startswith("Cosine of each update with sft's: dft 0.")
    assert "(paper 0.572)" in said[1]
    assert said[2].startswith("Where they part from sft's, lowest to highest cosine by layer: ")
    assert any(line.startswith("Accuracy: on easy base 0.17 [") for line in said)


@pytest.mark.parametrize("name", ["a_b", "*x*", "<b>", "a|b", "_x_", "[l](u)", "$x$", "a`b", "a\\b", "&amp;"])
def test_plain_text_is_what_was_escaped(name: str) -> None:
    assert plain(f"- {escape(name)}") == name.replace("`", "") or "`" in name


def test_policy_allows_this_script_and_nothing_from_elsewhere(page: str) -> None:
    (policy,) = re.findall(r'Content-Security-Policy" content="(.+?)"', page)
    policy = entities.unescape(policy)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "connect-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not re.findall(r'(?:src|href)="(?!#|data:,|https://arxiv\.org/abs/)', page)
    assert not re.findall(r"\sstyle=", page)


def test_losses_are_shown_with_formula_and_source(page: str) -> None:
    text = entities.unescape(page)
    assert "<code>sum_i sum_t sg(pi(y_t)) * -log pi(y_t)</code>" in text
    assert '<a href="https://arxiv.org/abs/2508.05629" rel="noreferrer">2508.05629</a>' in text
    assert "DPO and its kin, by TRL's loss types" in text


def test_the_same_results_give_the_same_page(results: Path, page: str) -> None:
    assert render.page([source.read(results)]) == page


def test_likes_are_neighbours() -> None:
    cosines = {("a", "c"): 0.9, ("b", "d"): 0.8, ("a", "b"): 0.1, ("a", "d"): 0.0, ("b", "c"): 0.0, ("c", "d"): 0.2}
    table = pd.DataFrame([(*pair, "cosine", v) for pair, v in cosines.items()], columns=["a", "b", "measure", "value"])
    found = order(table, ["a", "b", "c", "d"])
    assert {frozenset(found[:2]), frozenset(found[2:])} == {frozenset("ac"), frozenset("bd")}
    assert order(table, ["a", "b"]) == ["a", "b"]


def test_the_map_keeps_distances() -> None:
    """Three updates in a plane: all of it is seen, and distances are exact, also from the base."""
    at = {"a": np.array([3.0, 0.0]), "b": np.array([1.0, 2.0]), "c": np.array([-1.0, 1.0])}
    rows = [(a, b, "inner", at[a] @ at[b]) for a in at for b in at if a < b]
    rows += [(run, None, "norm", float(np.linalg.norm(xy))) for run, xy in at.items()]
    table = pd.DataFrame(rows, columns=["a", "b", "measure", "value"])
    turned = table.copy()  # a replicate that is the same study: its inner products are, so it lies on the first
    found = plane(table, list(at), [turned])
    assert found is not None
    assert sum(found["shares"]) == pytest.approx(1)
    points = {one["run"]: np.array([one["x"], one["y"]]) for one in found["points"]}
    assert points["base"] == pytest.approx([0, 0])
    for a in at:
        assert np.linalg.norm(points[a]) == pytest.approx(np.linalg.norm(at[a]))
        for b in at:
            assert np.linalg.norm(points[a] - points[b]) == pytest.approx(np.linalg.norm(at[a] - at[b]))
    for one in found["clouds"]:
        assert (one["x"], one["y"]) == pytest.approx(tuple(points[one["run"]]))
    assert plane(table, ["a"], []) is None


@pytest.mark.parametrize("name", ["accuracy", "geometry_global", "geometry_layer", "training", "connectivity"])
def test_a_missing_table_is_said_and_the_rest_is_shown(results: Path, tmp_path: Path, name: str) -> None:
    folder = copied(results, tmp_path)
    (folder / "tables" / f"{name}.csv").unlink()
    page = render.page([source.read(folder)])
    assert f"<li>tables/{name}.csv (" in page
    assert name not in held(page)["tables"]
    assert "cka" in held(page)["tables"]


def test_without_provenance_and_without_answers(results: Path, tmp_path: Path) -> None:
    folder = copied(results, tmp_path)
    (folder / "provenance.json").unlink()
    shutil.rmtree(folder / "graded")
    page = render.page([source.read(folder)])
    assert "<li>provenance.json (" in page
    assert "<li>graded/ (graded answers" in page
    assert "The sentences are made from settings" in page
    assert held(page)["reference"] == "sft"


def test_a_study_under_way_has_its_curves(tmp_path: Path) -> None:
    folder = tmp_path / "early"
    (folder / "runs" / "sft").mkdir(parents=True)
    pd.DataFrame({"step": [1], "metric": "loss", "value": 0.5}).to_parquet(folder / "runs" / "sft" / "metrics.parquet")
    found = held(render.page([source.read(folder)]))
    assert found["tables"]["training_curves"]["value"].tolist() == [0.5]
    assert found["runs"] == ["sft"]
    assert len(found["missing"]) > 5


def test_one_run_alone(tmp_path: Path) -> None:
    folder = made_up.write(tmp_path / "one", ("sft",))
    found = held(render.page([source.read(folder)]))
    assert found["runs"] == ["sft"]
    assert found["map"] is None


def test_folders_that_are_none(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder: give a study's folder of results"):
        source.read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has neither tables nor training curves yet"):
        source.read(tmp_path)
    folder = copied(results, tmp_path)
    written = json.loads((folder / "provenance.json").read_text())
    written["settings"]["measures"]["reference"] = written["settings"]["measures"].pop("compare_with")
    (folder / "provenance.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match=r"provenance\.json: is no provenance of .* this version .*compare_with"):
        source.read(folder)
    (folder / "provenance.json").unlink()
    table = folder / "tables" / "comparisons.csv"
    pd.read_csv(table).drop(columns="p_holm").to_csv(table, index=False)
    with pytest.raises(UserError, match=r"comparisons\.csv: has no column 'p_holm': another version"):
        source.read(folder)
