"""Tables and text as Markdown that shows them as they are."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from deltageom.text import escape


def markdown(frame: pd.DataFrame) -> str:
    """A pipe table: four significant digits, an en dash for what is missing, names and text escaped."""
    cells = pd.DataFrame(
        [[cell(value) for value in row] for row in frame.itertuples(index=False, name=None)],
        columns=[escape(str(name)) for name in frame.columns],
    )
    right = [pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes]
    align = ["right" if number else "left" for number in right]
    return str(cells.to_markdown(index=False, disable_numparse=True, colalign=align if len(cells) else None))


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Words instead of underscores in the heading; none of the optional columns that are empty."""
    empty = [c for c in ("reason", "report_step", "options") if c in frame and frame[c].isna().all()]
    return frame.drop(columns=empty).rename(columns=lambda column: column.removesuffix("_mean").replace("_", " "))


def cell(value: Any) -> str:
    """One value as Markdown text."""
    if pd.isna(value):
        return "–"
    return number(value) if isinstance(value, float) else escape(str(value))  # numpy's float64 is a float


def number(value: float) -> str:
    """Four significant digits, of a large number all before the point."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def values(found: Iterable[Any]) -> str:
    """The different values, in their order: `42`, or `42, 123`; a dash for none."""
    return ", ".join(dict.fromkeys(cell(value) for value in found)) or "–"
