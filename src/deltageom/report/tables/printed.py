"""The tables that a paper would print, each narrow enough for a page, from those of the study."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from deltageom.display.latex import latex
from deltageom.report.summary_replicates import numbers_against, numbers_of, paper_beside

Tables = Mapping[str, pd.DataFrame]

OF_RUNS = {"norm": "norm", "effective_rank_sigma_mean": "effective rank"}
OVERVIEW = {  # measure with the reference: its heading
    "cosine": "cosine",
    "orthogonal_fraction_stacked": "orthogonal",
    "left_smallest_median": "left smallest",
    "left_largest_median": "left largest",
    "u1_overlap_mean": "u1",
    "v1_overlap_mean": "v1",
}
OF_REPLICATES = ["measure", "a", "b", "n", "mean", "sd", "low", "high"]
ACCURACY = ["benchmark", "model", "n", "accuracy", "low", "high"]
COMPARISONS = ["benchmark", "a", "b", "difference", "low", "high", "p", "p_holm"]


def printed(study: Mapping[str, Any], tables: Tables) -> dict[str, pd.DataFrame]:
    """By the name of the file: accuracies, the declared comparisons, the updates at a glance, and over replicates the
    accuracies and what the overview has."""
    pairs = tables["comparisons"]
    found = {
        "accuracy": tables["accuracy"][ACCURACY],
        "comparisons": pairs.loc[pairs["family"].astype(bool), COMPARISONS],
        "geometry": overview(study, tables),
    }
    if "replicates" in tables:
        rows, reference = tables["replicates"], study["measures"]["compare_with"]
        of_geometry = (rows["source"] == "geometry_global") & rows["measure"].isin(["norm", *OVERVIEW])
        with_it = rows["b"].isna() | (rows["a"] == reference) | (rows["b"] == reference)
        found["replicates"] = rows.loc[of_geometry & with_it, OF_REPLICATES]
    return found


def overview(study: Mapping[str, Any], tables: Tables) -> pd.DataFrame:
    """A row per run: norm, effective rank, and its numbers with the reference, all modules together.

    Means over the replicates where there are any. NaN for the reference with itself.
    """
    shown = tables["training"][["run"]].copy()
    for measure, heading in {**OF_RUNS, **OVERVIEW}.items():
        rows = numbers_against(study, tables, measure) if measure in OVERVIEW else numbers_of(tables, measure)
        of_run = dict(zip(rows["run" if measure in OVERVIEW else "a"], rows["mean"], strict=True))
        shown[heading] = shown["run"].map(of_run).astype(float)
    if paper := paper_beside(study, tables, "cosine"):
        shown["cosine, paper"] = shown["run"].map(paper).astype(float)
    return shown


def as_latex(study: Mapping[str, Any], tables: Tables) -> dict[str, str]:
    """By the name of the file without suffix."""
    return {name: latex(frame) for name, frame in printed(study, tables).items()}
