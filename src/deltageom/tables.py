"""Tidy tables from the records of a study: pure pandas, undefined values are missing, never zero.

Runs and models keep the order in which they are given (the study's). `write` saves a table as .csv (full
precision) and .md (rounded for reading); `read` gives back what `write` saved.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from deltageom.connectivity import Barriers
from deltageom.connectivity import barriers as path_barriers
from deltageom.frames import MATRIX_KEY, Record, frame, read_types, typed
from deltageom.geometry_tables import geometry_tables, of_pairs, of_runs
from deltageom.markdown import escape, markdown
from deltageom.records import write_text
from deltageom.run_tables import training, training_curves
from deltageom.schema import Statistics
from deltageom.score_tables import Graded, accuracy, comparisons, decontamination, disagreements, graders, pass_at_k

UNDEFINED_BARRIERS = Barriers(mean_of_ends=math.nan, chord=math.nan, worst_alpha=math.nan)
MARKDOWN_ROWS = 500  # a longer table is for a program to read: its .md shows the first so many


def build(
    runs: Mapping[str, Record],
    selections: Mapping[str, Record],
    metrics: Mapping[str, pd.DataFrame],
    graded: Graded,
    modules: Sequence[Record],
    paths: Mapping[tuple[str, str], pd.DataFrame],
    similarities: Mapping[tuple[str, str], pd.DataFrame],
    overlap: Record,
    statistics: Statistics,
    reference: str,
) -> dict[str, pd.DataFrame]:
    """Every table by name, from the arguments of the functions below; `runs` are the study's, in its order.

    Those of the geometry are `geometry.aggregate.numbers`, one row a number. `overlap` is the decontamination's report.
    """
    losses = connectivity(paths)
    tables = {
        "training": training(runs, selections),
        "training_curves": training_curves({run: metrics[run] for run in runs if run in metrics}),
        "accuracy": accuracy(graded, statistics),
        "pass_at_k": pass_at_k(graded, statistics),
        "comparisons": comparisons(graded, statistics, reference),
        "graders": graders(graded),
        "disagreements": disagreements(graded),
        "decontamination": decontamination(overlap),
        **geometry_tables(modules, runs),
        "connectivity": losses,
        "barriers": barriers(losses),
        "cka": cka(similarities),
    }
    tables["cosine_matrix"] = cosine_matrix(tables["geometry_global"], list(runs))
    return tables


def cosine_matrix(table: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """The cosines of geometry_global as a square: column `(run)`, then a column a run, rows and columns in `order`.

    The diagonal is 1, missing for a zero delta.
    """
    matrix = pd.DataFrame(np.nan, index=list(order), columns=list(order))
    runs, pairs = of_runs(table), of_pairs(table)
    for run, norm in zip(runs["run"], runs["norm"], strict=True):
        matrix.loc[run, run] = 1.0 if norm > 0 else np.nan
    if not pairs.empty:
        for a, b, cosine in zip(pairs["a"], pairs["b"], pairs["cosine"], strict=True):
            matrix.loc[a, b] = matrix.loc[b, a] = cosine
    return matrix.rename_axis(MATRIX_KEY).reset_index()


def connectivity(paths: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """One row a (pair of runs, alpha): loss in nats a token along alpha dW_a + (1 - alpha) dW_b.

    loss = sum of nll / sum of tokens over the n problems. `paths` holds the rows of each (a, b) in
    connectivity/<a>.csv: alpha, problem_id, nll, tokens. A missing nll makes the point's loss missing.
    """
    rows = []
    for (a, b), path in paths.items():
        for alpha, point in path.groupby("alpha", sort=True):
            loss = point["nll"].sum(skipna=False) / point["tokens"].sum()
            rows.append({"a": a, "b": b, "alpha": alpha, "loss": loss, "n": len(point)})
    return frame(rows, ["a", "b", "alpha", "loss", "n"])


def barriers(connectivity: pd.DataFrame) -> pd.DataFrame:
    """One row a pair of runs: the highest rise of the loss along the path, by two definitions (nats a token).

    `mean_of_ends`: above the mean of the ends (Frankle et al. 2020); `chord`: above the straight line between
    them (Entezari et al. 2022), at `worst_alpha`. `loss_a` is the loss at alpha = 1, `loss_b` at alpha = 0. A
    loss that is not finite leaves the three missing.
    """
    rows = []
    for (a, b), path in connectivity.groupby(["a", "b"], sort=False):
        path = path.sort_values("alpha")
        alphas, losses = path["alpha"].to_numpy(float), path["loss"].to_numpy(float)
        found = path_barriers(alphas, losses) if np.isfinite(losses).all() else UNDEFINED_BARRIERS
        row = {"a": a, "b": b, "loss_a": losses[-1], "loss_b": losses[0], "n": path["n"].min()}
        rows.append(row | asdict(found))
    return frame(rows, ["a", "b", "mean_of_ends", "chord", "worst_alpha", "loss_a", "loss_b", "n"])


def cka(similarities: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """One row a (pair of models, layer, estimator). `similarities` holds the rows of each (a, b) in cka/<a>.csv."""
    columns = ["a", "b", "layer", "estimator", "similarity", "n"]
    frames = [frame.assign(a=a, b=b)[columns] for (a, b), frame in similarities.items()]
    return typed(pd.concat(frames) if frames else pd.DataFrame(columns=columns)).reset_index(drop=True)


def against(pairs: pd.DataFrame, reference: str, order: Sequence[str]) -> pd.DataFrame:
    """The pairs that hold `reference`, with column `run` for the other one, sorted by `order` (others last).

    Whatever has a direction is turned so that the reference is `a`: columns that differ by an `a` and a `b`
    change places (loss_a and loss_b, ..._a_of_b and ..._b_of_a), alphas (shares of a) become 1 - alpha, and a
    `difference` (a minus b) changes its sign, with its interval.
    """
    first, second = pairs[pairs["a"] == reference], pairs[pairs["b"] == reference]
    turned = second.rename(columns=lambda column: re.sub("(?<![^_])[ab](?![^_])", _other, column))[pairs.columns]
    for alpha in {"alpha", "worst_alpha"}.intersection(turned.columns):
        turned = turned.assign(**{alpha: 1 - turned[alpha]})
    if "difference" in turned.columns:
        turned = turned.assign(difference=-turned["difference"], low=-turned["high"], high=-turned["low"])
    both = pd.concat([first, turned]).rename(columns={"b": "run"}).drop(columns="a")
    rank = {run: position for position, run in enumerate(order)}
    return both.sort_values("run", key=lambda runs: runs.map(rank), kind="stable").reset_index(drop=True)


def write(frame: pd.DataFrame, folder: Path, name: str) -> None:
    """folder/name.csv in full precision and folder/name.md for reading."""
    write_text(folder / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n"))
    text = markdown(frame.head(MARKDOWN_ROWS))
    if len(frame) > MARKDOWN_ROWS:
        text += f"\n\nThe first {MARKDOWN_ROWS} of {len(frame)} rows; all are in {escape(name)}.csv."
    write_text(folder / f"{name}.md", text + "\n")


def read_all(folder: Path) -> dict[str, pd.DataFrame]:
    """Every table that `write` saved in `folder`, by name."""
    return {path.stem: read(folder, path.stem) for path in folder.glob("*.csv")}


def read(folder: Path, name: str) -> pd.DataFrame:
    """What `write` saved: the same numbers to the last bit; a run called `NA` or `1` keeps its name."""
    path = folder / f"{name}.csv"
    header = pd.read_csv(path, nrows=0).columns
    dtype = read_types([MATRIX_KEY] if MATRIX_KEY in header else header)
    return pd.read_csv(path, dtype=dtype, keep_default_na=False, na_values=[""])


def _other(letter: re.Match[str]) -> str:
    return "b" if letter[0] == "a" else "a"
