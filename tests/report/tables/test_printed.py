"""The tables in LaTeX have the numbers of the csv, and names that LaTeX reads as text."""

import re

import numpy as np
import pandas as pd
import pytest

from deltageom.display.latex import latex
from deltageom.display.table_files import read_table, write_table
from deltageom.report.tables.printed import as_latex, printed
from tests.report.test_details import built, study  # noqa: F401  fixtures


def rows_of(text: str) -> list[list[str]]:
    body = text.partition("\\midrule\n")[2].partition("\\bottomrule")[0]
    return [[one.strip() for one in line.removesuffix(r" \\").split(" & ")] for line in body.splitlines()]


def number(text: str) -> float:
    return (
        float("nan") if text == "--" else float(re.sub(r"\$\\times10\^\{(-?\d+)\}\$", r"e\1", text).replace("$-$", "-"))
    )


def test_the_numbers_are_those_of_the_csv(study, built, tmp_path):  # noqa: F811
    """To the digits shown, in the same rows and columns, for each table that is also a csv."""
    tex = as_latex(study, built)
    assert set(tex) == {"accuracy", "comparisons", "geometry"}
    for name in ("accuracy", "comparisons"):
        write_table(built[name], tmp_path, name)
        table = read_table(tmp_path, name)
        if name == "comparisons":
            table = table[table["family"].astype(bool)]
        columns = list(printed(study, built)[name].columns)
        rows = rows_of(tex[name])
        assert len(rows) == len(table) > 5
        for shown, (_, row) in zip(rows, table[columns].iterrows(), strict=True):
            for text, value in zip(shown, row, strict=True):
                if isinstance(value, str):
                    assert text.replace("\\_", "_") == value
                else:
                    assert number(text) == pytest.approx(value, rel=5e-4, nan_ok=True)


def test_the_overview_has_the_global_numbers(study, built):  # noqa: F811
    rows = {row[0]: row for row in rows_of(as_latex(study, built)["geometry"])}
    table = built["geometry_global"].set_index(["a", "measure"])["value"]
    assert number(rows["dpo"][1]) == pytest.approx(table["dpo", "norm"], rel=5e-4)
    pairs = built["geometry_global"].query("b == 'sft' and measure == 'cosine'").set_index("a")["value"]
    assert number(rows["dft"][3]) == pytest.approx(pairs["dft"], rel=5e-4)
    assert rows["sft"][3] == "--"
    assert all(set(column) != {"--"} for column in zip(*rows.values(), strict=True))  # each measure is one there is


def test_names_are_escaped_and_signs_are_spelt():
    hostile = r"a_b % & #1 $x$ {y} ~ ^ \input{z}"
    text = latex(
        pd.DataFrame({"run_name": [hostile, None], "value": [-0.123456, np.nan], "p": [4.87e-13, -2e20], "n": [3, -4]})
    )
    assert r"a\_b \% \& \#1 \$x\$ \{y\} \textasciitilde \space \textasciicircum \space \textbackslash input\{z\}" in (
        re.sub(r"\\text\w+ (?!\\space)", lambda found: found[0], text)
    )
    assert r"run\_name & value & p & n \\" in text
    assert r"$-$0.1235 & 4.87$\times10^{-13}$ & 3 " in text
    assert r"-- & -- & $-$2$\times10^{20}$ & $-$4 " in text
    left = re.sub(r"\\[_%&#${}\\]", "", text.partition("\\midrule")[2].partition("\\bottomrule")[0].replace("$-$", ""))
    left = re.sub(r"\$.times10.[^$]+\$", "", left)
    assert not set("_%#$^~") & set(left)


def test_it_is_one_tabular_of_booktabs():
    text = latex(pd.DataFrame({"run": ["sft"], "cosine": [0.5], "n": [30]}))
    assert text.startswith(
        "% \\usepackage{booktabs}\n\\begin{tabular}{lrr}\n\\toprule\nrun & cosine & n \\\\\n\\midrule\n"
    )
    assert text.endswith("\\bottomrule\n\\end{tabular}\n")
