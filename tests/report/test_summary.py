"""The summary fits a screen, says what the tables say, and leads to everything else."""

import re

import pandas as pd

from deltageom.display.markdown import cell
from deltageom.report.details import details
from deltageom.report.summary import summary
from deltageom.report.summary_replicates import headline
from deltageom.report.tables.printed import overview, printed
from tests.report.test_details import RUNS, built, rows_of, study  # noqa: F401  fixtures


def test_it_fits_a_screen_and_begins_with_the_answer(study, built):  # noqa: F811
    page = summary(study, built)
    assert len(page.splitlines()) <= 60
    assert page.startswith(f"# Study toy\n\n## In short\n\n{headline(study, built)}\n\n## Accuracy\n")
    assert "![" not in page


def test_what_left_it_is_in_the_details(study, built):  # noqa: F811
    page = details(study, built, ["accuracy"])
    for heading in ("What was compared", "Training", "Accuracy", "Weight updates", "Linear mode connectivity"):
        assert f"\n## {heading}" in page
    assert "## In short" not in page  # that is the summary
    assert "](figures/accuracy.png)" in page


def test_accuracies_have_their_intervals_and_say_whose_they_are(study, built):  # noqa: F811
    page = summary(study, built)
    rows = rows_of(page, "hard_sampled")
    assert list(rows) == ["base", *RUNS]
    row = built["accuracy"].set_index(["model", "benchmark"]).loc["dft", "easy"]
    assert rows["dft"]["easy"] == f"0.92 \\[{row['low']:.2f}, {row['high']:.2f}\\]"
    assert (
        "Scores and rewards by the strict grader, math-verify as second opinion. easy n = 12 (greedy, at most" in page
    )


def test_updates_are_the_global_tables(study, built):  # noqa: F811
    rows = rows_of(summary(study, built), "orthogonal")
    table = built["geometry_global"]
    value = table[(table["measure"] == "cosine") & (table["a"] == "dft") & (table["b"] == "sft")]["value"].iloc[0]
    assert (rows["dft"]["cosine"], rows["dft"]["cosine, paper"]) == (f"{value:.4g}", "0.572")
    norms = table[table["measure"] == "norm"].set_index("a")["value"]
    assert {run: row["norm"] for run, row in rows.items()} == {run: cell(norms[run]) for run in RUNS}
    assert rows["sft"]["cosine"] == "–"
    assert "2 modules together" in summary(study, built)


def test_over_replicates_it_shows_means_and_says_so(study, built):  # noqa: F811
    table = built["geometry_global"].rename(columns={"value": "mean"}).assign(source="geometry_global", sd=0.1, n=3)
    table["mean"] += 1.0
    scored = built["accuracy"].rename(columns={"model": "a", "accuracy": "mean"})
    scored = scored.assign(source="accuracy", measure="accuracy", sd=0.0, problems_low=0.25, problems_high=0.75)
    spread = {"smallest": 0.0, "largest": 1.0}
    over = pd.concat([table.assign(**spread), scored.assign(**spread)], ignore_index=True)
    three = study | {"replicates": study["replicates"] | {"count": 3}}
    page = summary(three, built | {"replicates": over})
    rows = rows_of(page, "orthogonal")
    norm = built["geometry_global"].query("measure == 'norm' and a == 'dft'")["value"].iloc[0]
    assert rows["dft"]["norm"] == cell(norm + 1)
    assert rows_of(page, "hard_sampled")["dft"]["easy"] == "0.92 \\[0.25, 0.75\\]"
    assert page.count("Means over 3 replicates") == 2
    assert set(printed(three, built | {"replicates": over})) == {"accuracy", "comparisons", "geometry", "replicates"}
    assert overview(three, built | {"replicates": over})["norm"].iloc[1] == norm + 1


def test_names_are_text_not_markup(study, built):  # noqa: F811
    hostile = "<img src=x>|*b*"
    named = {name: table.replace({"dft": hostile}) for name, table in built.items()}
    page = summary(study | {"study": hostile}, named)
    assert "<img" not in page
    assert r"&lt;img src=x&gt;\|\*b\*" in page


def test_every_link_is_of_a_kind_that_the_study_has(study, built):  # noqa: F811
    links = re.findall(r"\]\(([^)]+)\)", summary(study, built))
    assert links == ["report.html", "details.md", "tables/", "figures/", "provenance.json"]
