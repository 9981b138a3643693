"""Tidy tables from the records of a study: pure pandas, undefined values are missing, never zero.

Runs and models keep the order in which they are given (the study's). `write` saves a table as .csv (full
precision) and .md (rounded for reading); `read` gives back what `write` saved.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deltageom import statistics
from deltageom.connectivity import Barriers
from deltageom.connectivity import barriers as path_barriers
from deltageom.errors import UserError
from deltageom.geometry.aggregate import aggregate
from deltageom.markdown import escape, markdown
from deltageom.records import write_text

Record = Mapping[str, Any]

MATRIX_KEY = "(run)"  # first column of cosine_matrix; no run can have this name
TEXT = frozenset(
    {
        "model",
        "benchmark",
        "module",
        "run",
        "a",
        "b",
        "method",
        "options",
        "estimator",
        "reason",
        "unit",
        MATRIX_KEY,
    }
)
INTEGER = frozenset(
    {
        "n",
        "correct",
        "truncated",
        "unboxed",
        "only_a",
        "only_b",
        "layer",
        "k",
        "k_min",
        "n_modules",
        "n_defined",
    }
    | {"rank", "steps", "report_step", "seed", "init_seed"}
)
UNDEFINED_BARRIERS = Barriers(mean_of_ends=math.nan, chord=math.nan, worst_alpha=math.nan)
MARKDOWN_ROWS = 500  # a longer table is for a program to read: its .md shows the first so many

TRAINING = [
    "run",
    "method",
    "options",
    "learning_rate",
    "steps",
    "report_step",
    "seed",
    "init_seed",
    "rank",
    "alpha",
]
RANKS = ["stable_rank", "effective_rank_sigma", "effective_rank_sigma2"]
OVERLAPS = ["left_overlap", "right_overlap", "u1_overlap", "v1_overlap"]
ANGLES = ["left_smallest", "left_largest", "right_smallest", "right_largest"]  # degrees
MODULE = ["module", "layer"]
MODULE_RUN = [*MODULE, "run", "norm", "spectral_norm", *RANKS, "rank", "reason"]
MODULE_PAIR = [*MODULE, "a", "b", "inner", "cosine", "orthogonal_fraction", "k", *ANGLES, *OVERLAPS, "reason"]
STACKED_RUN = ["run", "norm", *RANKS, "n_modules", "n_defined", "reason"]
STACKED_PAIR = ["a", "b", "inner", "cosine", "orthogonal_fraction_stacked"]
STACKED_PAIR += ["orthogonal_fraction_by_module_a_of_b", "orthogonal_fraction_by_module_b_of_a"]
STACKED_PAIR += [
    *(f"{angle}_median" for angle in ANGLES),
    *OVERLAPS,
    "k_min",
    "n_modules",
    "n_defined",
    "reason",
]


def build(
    runs: Mapping[str, Record],
    selections: Mapping[str, Record],
    evaluations: Mapping[tuple[str, str], Sequence[Record]],
    modules: Sequence[Record],
    paths: Mapping[tuple[str, str], pd.DataFrame],
    similarities: Mapping[tuple[str, str], pd.DataFrame],
) -> dict[str, pd.DataFrame]:
    """Every table by name, from the arguments of the functions below; `runs` are the study's, in its order.

    The tables geometry_layer_* and geometry_global_* are `geometry.aggregate.aggregate`'s rows.
    """
    layers, whole = (aggregate([dict(module) for module in modules], by=by) for by in ("layer", "global"))
    losses = connectivity(paths)
    tables = {
        "training": training(runs, selections),
        "accuracy": accuracy(evaluations),
        "mcnemar": mcnemar(evaluations),
        "geometry_module_runs": geometry_module_runs(modules),
        "geometry_module_pairs": geometry_module_pairs(modules),
        "geometry_layer_runs": _frame(layers["runs"], ["layer", *STACKED_RUN]),
        "geometry_layer_pairs": _frame(layers["pairs"], ["layer", *STACKED_PAIR]),
        "geometry_global_runs": _frame(whole["runs"], STACKED_RUN),
        "geometry_global_pairs": _frame(whole["pairs"], STACKED_PAIR),
        "connectivity": losses,
        "barriers": barriers(losses),
        "cka": cka(similarities),
    }
    tables["cosine_matrix"] = cosine_matrix(tables["geometry_global_runs"], tables["geometry_global_pairs"], list(runs))
    return tables


def training(runs: Mapping[str, Record], selections: Mapping[str, Record]) -> pd.DataFrame:
    """One row a run: method, options, schedule from the study; the numbers of its selection.json."""
    rows: list[dict[str, Any]] = []
    for name, run in runs.items():
        settings, lora = run["training"], run["training"]["lora"]
        found = selections.get(name, {}).items()
        rows.append(
            {key: value for key, value in found if key in TEXT or type(value) in (int, float)}
            | {"run": name, "method": run["method"], "options": _options(run["options"])}
            | {key: settings[key] for key in ("learning_rate", "steps", "report_step", "seed")}
            | {"init_seed": lora["init_seed"], "rank": lora["rank"], "alpha": lora["alpha"]}
        )
    counted = list(dict.fromkeys(key for row in rows for key in row if key not in TRAINING))
    whole = [key for key in counted if all(type(row.get(key, 0)) is int for row in rows)]
    return _typed(pd.DataFrame(rows, columns=[*TRAINING, *counted]), whole)


def accuracy(evaluations: Mapping[tuple[str, str], Sequence[Record]]) -> pd.DataFrame:
    """One row a (model, benchmark): accuracy with its 95 % Wilson interval, and what went wrong.

    `truncated` counts completions that met the token limit, `unboxed` those without a final answer;
    `mean_length` in tokens. `evaluations` holds evaluation/<model>/<benchmark>.jsonl by (model, benchmark).
    """
    rows = []
    for (model, benchmark), items in evaluations.items():
        n, correct = len(items), sum(bool(item["correct"]) for item in items)
        low, high = statistics.wilson(correct, n)
        rows.append(
            {"model": model, "benchmark": benchmark, "n": n, "correct": correct, "accuracy": correct / n}
            | {"low": low, "high": high}
            | {"truncated": sum(item["finish_reason"] == "length" for item in items)}
            | {"unboxed": sum(item["extracted"] is None for item in items)}
            | {"mean_length": sum(item["length"] for item in items) / n}
        )
    columns = ["model", "benchmark", "n", "correct", "accuracy", "low", "high"]
    return _frame(rows, [*columns, "truncated", "unboxed", "mean_length"])


def mcnemar(evaluations: Mapping[tuple[str, str], Sequence[Record]]) -> pd.DataFrame:
    """One row a (benchmark, pair of models): problems that only one of them solves; the exact McNemar test.

    `p_holm` is adjusted over one benchmark's pairs. Raises UserError if models answered different problems.
    """
    rows = []
    for benchmark in dict.fromkeys(benchmark for _, benchmark in evaluations):
        solved = {m: _solved(items, m, benchmark) for (m, at), items in evaluations.items() if at == benchmark}
        family = [_compare(benchmark, a, b, solved[a], solved[b]) for a, b in combinations(solved, 2)]
        adjusted: Sequence[float] = statistics.holm([row["p"] for row in family]).tolist()
        rows += [row | {"p_holm": p} for row, p in zip(family, adjusted, strict=True)]
    return _frame(rows, ["benchmark", "a", "b", "n", "only_a", "only_b", "p", "p_holm"])


def geometry_module_runs(modules: Iterable[Record]) -> pd.DataFrame:
    """One row a (module, run): norms, ranks; without the singular values."""
    return _frame([_where(module) | dict(run) for module in modules for run in module["runs"]], MODULE_RUN)


def geometry_module_pairs(modules: Iterable[Record]) -> pd.DataFrame:
    """One row a (module, pair of runs); of each side's principal angles the smallest and the largest."""
    rows = []
    for module in modules:
        for pair in module["pairs"]:
            row = _where(module) | dict(pair)
            for side in ("left", "right"):
                angles = row[f"{side}_angles"] or [None]
                row |= {f"{side}_smallest": angles[0], f"{side}_largest": angles[-1]}
            rows.append(row)
    return _frame(rows, MODULE_PAIR)


def cosine_matrix(runs: pd.DataFrame, pairs: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """The global cosines as a square: column `(run)`, then a column a run, rows and columns in `order`.

    `runs` and `pairs` are geometry_global_runs and _pairs. The diagonal is 1, missing for a zero delta.
    """
    matrix = pd.DataFrame(np.nan, index=list(order), columns=list(order))
    for run, norm in zip(runs["run"], runs["norm"], strict=True):
        matrix.loc[run, run] = 1.0 if norm > 0 else np.nan
    for a, b, cosine in zip(pairs["a"], pairs["b"], pairs["cosine"], strict=True):
        matrix.loc[a, b] = matrix.loc[b, a] = cosine
    return matrix.rename_axis(MATRIX_KEY).reset_index()


def connectivity(paths: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """One row a (pair of runs, alpha): loss in nats a token along alpha dW_a + (1 - alpha) dW_b.

    loss = sum of nll / sum of tokens over the n problems. `paths` holds connectivity/<a>/<b>.csv by (a, b):
    alpha, problem_id, nll, tokens. A missing nll makes the point's loss missing.
    """
    rows = []
    for (a, b), path in paths.items():
        for alpha, point in path.groupby("alpha", sort=True):
            loss = point["nll"].sum(skipna=False) / point["tokens"].sum()
            rows.append({"a": a, "b": b, "alpha": alpha, "loss": loss, "n": len(point)})
    return _frame(rows, ["a", "b", "alpha", "loss", "n"])


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
    return _frame(rows, ["a", "b", "mean_of_ends", "chord", "worst_alpha", "loss_a", "loss_b", "n"])


def cka(similarities: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """One row a (pair of models, layer, estimator). `similarities` holds cka/<a>/<b>.csv by (a, b)."""
    columns = ["a", "b", "layer", "estimator", "similarity", "n"]
    frames = [frame.assign(a=a, b=b)[columns] for (a, b), frame in similarities.items()]
    return _typed(pd.concat(frames) if frames else pd.DataFrame(columns=columns)).reset_index(drop=True)


def against(pairs: pd.DataFrame, reference: str, order: Sequence[str]) -> pd.DataFrame:
    """The pairs that hold `reference`, with column `run` for the other one, sorted by `order` (others last).

    Whatever has a direction is turned so that the reference is `a`: columns that differ by an `a` and a `b`
    change places (loss_a and loss_b, ..._a_of_b and ..._b_of_a), and alphas (shares of a) become 1 - alpha.
    """
    first, second = pairs[pairs["a"] == reference], pairs[pairs["b"] == reference]
    turned = second.rename(columns=lambda column: re.sub("(?<![^_])[ab](?![^_])", _other, column))[pairs.columns]
    for alpha in {"alpha", "worst_alpha"}.intersection(turned.columns):
        turned = turned.assign(**{alpha: 1 - turned[alpha]})
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
    text = [MATRIX_KEY] if MATRIX_KEY in header else [c for c in header if c in TEXT]
    dtype = dict.fromkeys(text, "str")
    return pd.read_csv(path, dtype=dtype, keep_default_na=False, na_values=[""])


def _frame(rows: Iterable[Record], columns: Sequence[str]) -> pd.DataFrame:
    """The rows' values of just these columns. Raises KeyError for a row without one of them."""
    return _typed(pd.DataFrame([[row[c] for c in columns] for row in rows], columns=list(columns)))


def _typed(frame: pd.DataFrame, counts: Iterable[str] = ()) -> pd.DataFrame:
    """The same with one type a column, also where all its values are missing."""
    integer = INTEGER.union(counts)
    kinds = {c: "str" if c in TEXT else "Int64" if c in integer else "float64" for c in frame.columns}
    return frame.astype(kinds)


def _other(letter: re.Match[str]) -> str:
    return "b" if letter[0] == "a" else "a"


def _options(options: Record) -> str | None:
    return ", ".join(f"{key}={value}" for key, value in options.items()) or None


def _where(module: Record) -> dict[str, Any]:
    return {"module": module["module"], "layer": module["layer"]}


def _solved(items: Sequence[Record], model: str, benchmark: str) -> dict[str, bool]:
    solved = {item["problem_id"]: bool(item["correct"]) for item in items}
    if len(solved) < len(items):
        raise UserError(f"evaluation/{model}/{benchmark}.jsonl has a problem_id twice: evaluate it again")
    return solved


def _compare(benchmark: str, a: str, b: str, one: dict[str, bool], other: dict[str, bool]) -> dict[str, Any]:
    if one.keys() != other.keys():
        raise UserError(f"{a} and {b} answered different problems of benchmark {benchmark}: evaluate both again")
    test = statistics.mcnemar([one[key] for key in one], [other[key] for key in one])
    row = {"benchmark": benchmark, "a": a, "b": b, "n": len(one)}
    return row | {"only_a": test.only_a, "only_b": test.only_b, "p": test.p}
