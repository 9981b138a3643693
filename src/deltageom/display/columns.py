"""Typed frames: what the columns of the tables hold. Undefined values are missing, never zero."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from deltageom.geometry.aggregate.table import COUNTS

Record = Mapping[str, Any]

MATRIX_KEY = "(run)"  # first column of cosine_matrix; no run can have this name
TEXT = frozenset(
    {"model", "benchmark", "module", "run", "a", "b", "method", "options", "estimator", "reason", "unit", MATRIX_KEY}
    | {"metric", "measure", "adapter", "schedule", "reduction", "match_norm", "order", "rollouts_of", "stopped"}
    | {
        "source",
        "x",
        "y",
        "interval",
        "test",
        "problem_id",
        "gold",
        "extracted",
        "failure",
        "overlap",
        "recipe",
        "parent",
    }
)
INTEGER = frozenset(
    {"n", "unmoved", "samples", "sample", "correct", "only_a", "only_b", *COUNTS}
    | {"completions", "both_correct", "both_wrong", "strict_alone", "math_verify_alone", "symbolic_gold"}
    | {"timeout", "memory", "crash", "error", "unread_gold"}
    | {"problems", "overlapping_problems", "overlapping_training_problems", "identical"}
    | {"words", "training_problems", "dropped"}
    | {"rank", "step", "steps", "report_step", "batch_size", "max_length", "seed", "init_seed"}
)
BOOLEAN = frozenset({"can_show", "rslora", "family", "strict", "math_verify"})


def frame(rows: Iterable[Record], columns: Sequence[str]) -> pd.DataFrame:
    """The rows' values of just these columns. Raises KeyError for a row without one of them."""
    return typed(pd.DataFrame([[row[c] for c in columns] for row in rows], columns=list(columns)))


def typed(table: pd.DataFrame, counts: Iterable[str] = ()) -> pd.DataFrame:
    """The same with one type a column, also where all its values are missing; `counts` are further integers."""
    return table.astype({c: "Int64" if c in counts else _kind(c) for c in table.columns})


def read_types(columns: Iterable[str]) -> dict[str, str]:
    """The types of those columns of a file that do not show from its values."""
    return {c: _kind(c) for c in columns if _kind(c) in ("str", "boolean")}


def _kind(column: str) -> str:
    if column in TEXT or column.endswith(("_id", "_name")):  # the latter of a measure of one's own
        return "str"
    return "boolean" if column in BOOLEAN else "Int64" if column in INTEGER else "float64"
