"""How the summary begins: what the study says in a few sentences, and how sure that is over its replicates."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from math import isfinite
from typing import Any

import pandas as pd

from deltageom.display.against import against
from deltageom.display.markdown import cell, markdown, readable
from deltageom.report import paper, verdicts
from deltageom.report.paper import NORM_OF_SFT_TO_DPO, SOURCE
from deltageom.text import escape

Tables = Mapping[str, pd.DataFrame]

VARIED = {
    "rollouts": "the rollouts",
    "order": "the order of the data",
    "init_a": "the initial A",
    "base": "the base with its problems",
}
SHOWN = {
    "cosine": "cosine",
    "orthogonal_fraction_stacked": "orthogonal fraction",
    "left_smallest_median": "smallest left angle (degrees)",
    "left_largest_median": "largest left angle (degrees)",
    "u1_overlap_mean": "overlap of u1",
    "v1_overlap_mean": "overlap of v1",
}


def headline(study: Mapping[str, Any], tables: Tables) -> str:
    """Markdown: the answer in a few sentences, each number with its interval and the paper's beside it."""
    lines = [_drawn(study, tables), verdicts.sentence(study, tables), *_cosines(study, tables), *_order(study, tables)]
    return "\n".join(f"- {line}" for line in [*lines, *_norms(study, tables), *_accuracies(tables)])


def replicates(study: Mapping[str, Any], tables: Tables) -> str:
    """Markdown: the numbers over replicates, and which runs differ in their distance to the reference."""
    reference = escape(study["measures"]["compare_with"])
    n = study["replicates"]["count"]
    text = [
        f"Each of the {n} replicates draws {varied(study)} anew; within one, all runs share them. Intervals are "
        f"Student's over the replicates, with {n - 1} degrees of freedom: they hold for what is drawn anew, and for "
        "nothing else. The tables and figures below this section are of replicate 1; all numbers over replicates are "
        "in tables/replicates.csv.",
        f"Against {reference}, mean, sd, range and 95 % interval:",
        markdown(readable(_geometry(study, tables))),
        "Accuracy; the last interval is over problems too (replicates and problems drawn with replacement, Owen 2007):",
        markdown(readable(scores(tables))),
        *_differences(study, tables),
    ]
    return "\n\n".join(text)


def varied(study: Mapping[str, Any]) -> str:
    names = [VARIED[name] for name in study["replicates"]["vary"]]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _drawn(study: Mapping[str, Any], tables: Tables) -> str:
    n = study["replicates"]["count"]
    if "replicates" not in tables:
        return (
            "One draw of the study: how much other rollouts, another order or other seeds would change these numbers "
            "is not known. Set `replicates: {count: 3}`."
        )
    return (
        f"{n} replicates, each with {varied(study)} drawn anew; in brackets 95 % intervals over the replicates, of "
        "accuracies over problems too."
    )


def _cosines(study: Mapping[str, Any], tables: Tables) -> Iterator[str]:
    found = numbers_against(study, tables, "cosine")
    if found.empty:
        return
    reference, theirs = escape(study["measures"]["compare_with"]), paper_beside(study, tables, "cosine")
    shown = []
    for _, row in found.sort_values("mean", ascending=False).iterrows():
        beside = f" (paper {theirs[row['run']]:g})" if row["run"] in theirs else ""
        shown.append(f"{escape(row['run'])} {value(row)}{beside}")
    yield f"Cosine of each update with {reference}'s: {', '.join(shown)}."


def _order(study: Mapping[str, Any], tables: Tables) -> Iterator[str]:
    """Whether the paper's order of the cosines holds, pair by pair."""
    theirs, found = paper_beside(study, tables, "cosine"), numbers_against(study, tables, "cosine").set_index("run")
    runs = sorted(theirs, key=lambda run: -theirs[run])
    pairs = list(combinations(runs, 2))
    if not pairs:
        return
    differences = tables.get("replicate_differences")
    said = []
    for x, y in pairs:
        difference, low, high = _difference(differences, x, y, found)
        says = "not told apart" if low <= 0 <= high else "as in the paper" if difference > 0 else "the other way round"
        said.append((says, f"{escape(x)} - {escape(y)}"))
    groups = [
        f"{says}: {', '.join(pair for what, pair in said if what == says)}"
        for says in ("as in the paper", "the other way round", "not told apart")
        if any(what == says for what, _ in said)
    ]
    how = "by the paired t interval" if differences is not None else "in this one draw"
    order = " > ".join(f"{escape(run)}" for run in runs)
    yield f"The paper's order of these cosines, {order}, pair by pair and {how}: {'; '.join(groups)}."


def _difference(table: pd.DataFrame | None, x: str, y: str, found: pd.DataFrame) -> tuple[float, float, float]:
    """cosine of x less that of y, and its interval; without replicates, or with two, the value itself."""
    if table is not None:
        rows = table[(table["measure"] == "cosine") & (table["x"].isin([x, y])) & (table["y"].isin([x, y]))]
        if len(rows) and isfinite(rows["low"].iloc[0]):
            row, sign = rows.iloc[0], 1 if rows["x"].iloc[0] == x else -1
            low, high = sorted((sign * row["low"], sign * row["high"]))
            return sign * row["difference"], low, high
    difference = float(found["mean"][x] - found["mean"][y])
    return difference, difference, difference


def _norms(study: Mapping[str, Any], tables: Tables) -> Iterator[str]:
    """The shortest update beside the reference's."""
    norms = numbers_of(tables, "norm").sort_values("mean")
    of_each = dict(zip(norms["a"], norms["mean"], strict=True))
    reference = study["measures"]["compare_with"]
    if not of_each.get(reference):
        return
    shortest, norm = next(iter(of_each.items()))
    ratio = of_each[reference] / norm if norm else float("inf")
    is_dpo = dict(zip(tables["training"]["run"], tables["training"]["method"], strict=True))[shortest] == "dpo"
    beside = f" (paper: about {NORM_OF_SFT_TO_DPO:g} for DPO)" if is_dpo and _is_sft(study, tables) else ""
    yield (
        f"The shortest update is {escape(shortest)}'s, of norm {cell(norm)}; {escape(reference)}'s is "
        f"{cell(ratio)} times as long{beside}."
    )


def _accuracies(tables: Tables) -> Iterator[str]:
    """The base, the lowest and the highest run of each benchmark, in one sentence."""
    said = []
    for benchmark, rows in widest_scores(tables).groupby("benchmark", sort=False):
        base, runs = rows[rows["model"] == "base"].iloc[0], rows[rows["model"] != "base"].sort_values("mean")
        worst, best = (f"{escape(row['model'])} {value(row)}" for _, row in runs.iloc[[0, -1]].iterrows())
        said.append(f"on {escape(str(benchmark))} base {value(base)}, runs from {worst} to {best}")
    if said:
        yield f"Accuracy: {'; '.join(said)} (paired tests: tables/comparisons.csv)."


def _is_sft(study: Mapping[str, Any], tables: Tables) -> bool:
    training = tables["training"].set_index("run")["method"]
    return bool(training.get(study["measures"]["compare_with"]) == "sft")


def paper_beside(study: Mapping[str, Any], tables: Tables, measure: str) -> dict[str, float]:
    """The paper's value of each run that it has, by run."""
    return paper.beside(tables["training"], study["measures"]["compare_with"], measure)


def numbers_of(tables: Tables, measure: str) -> pd.DataFrame:
    """The rows of one global measure, by a and b: mean, sd, low, high, smallest, largest over replicates; of a study
    of one draw its values as means."""
    if "replicates" in tables:
        table = tables["replicates"]
        rows = table[(table["source"] == "geometry_global") & (table["measure"] == measure)]
    else:
        table = tables["geometry_global"]
        rows = table[table["measure"] == measure].drop(columns=["low", "high"]).rename(columns={"value": "mean"})
    return rows if rows["k"].isna().all() else rows[rows["k"] == rows["k"].max()]


def numbers_against(study: Mapping[str, Any], tables: Tables, measure: str) -> pd.DataFrame:
    """The same of each other run with the reference, by `run` in the study's order."""
    order, rows = list(tables["training"]["run"]), numbers_of(tables, measure)
    return against(rows[rows["b"].notna()], study["measures"]["compare_with"], order)


def value(row: "pd.Series[Any]") -> str:
    """`.67 [.60, .74]`, without brackets where there is no interval."""
    low, high = row.get("low", float("nan")), row.get("high", float("nan"))
    interval = f" [{low:.2f}, {high:.2f}]" if isfinite(low) and isfinite(high) else ""
    return f"{row['mean']:.2f}{interval}"


def _geometry(study: Mapping[str, Any], tables: Tables) -> pd.DataFrame:
    parts = []
    for measure, name in SHOWN.items():
        rows, theirs = numbers_against(study, tables, measure), paper_beside(study, tables, measure)
        parts.append(rows.assign(measure=name, paper=rows["run"].map(theirs).astype(float)))
    columns = ["measure", "run", "mean", "sd", "smallest", "largest", "low", "high", "paper"]
    return pd.concat(parts)[columns].reset_index(drop=True)


def widest_scores(tables: Tables) -> pd.DataFrame:
    """As `scores`, the intervals being those over replicates and problems where there are some."""
    table = scores(tables)
    if "problems_low" in table and table["problems_low"].notna().any():
        table = table.assign(low=table["problems_low"], high=table["problems_high"])
    return table


def scores(tables: Tables) -> pd.DataFrame:
    if "replicates" not in tables:
        columns = ["benchmark", "model", "accuracy", "low", "high"]
        return tables["accuracy"][columns].rename(columns={"accuracy": "mean"})
    table = tables["replicates"]
    rows = table[table["source"] == "accuracy"].rename(columns={"a": "model"})
    statistics = ["mean", "sd", "smallest", "largest", "low", "high", "problems_low", "problems_high"]
    return rows[["benchmark", "model", *statistics]].reset_index(drop=True)


def _differences(study: Mapping[str, Any], tables: Tables) -> list[str]:
    reference, table = escape(study["measures"]["compare_with"]), tables["replicate_differences"]
    cosines = table[table["measure"] == "cosine"]
    n = study["replicates"]["count"]
    can = bool(cosines["can_show"].any())
    test = (
        "p: exact sign-flip test."
        if can
        else f"{n} replicates cannot show a difference by a test without assumptions: the exact sign-flip test reaches "
        f"at best p = {2 / 2**n:g}. The t interval assumes normal differences."
    )
    shown = cosines[["x", "y", "difference", "sd", "low", "high", "p"]]
    what = "Differences of their cosines, x less y, paired over replicates."
    return [
        f"Which run is closer to {reference}? {what} {test}",
        markdown(readable(shown)),
        f"The paper's values are of {SOURCE}.",
    ]
