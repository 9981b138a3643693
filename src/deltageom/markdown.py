"""Tables and text as Markdown that shows them as they are."""

import html
import re
from typing import Any

import pandas as pd


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
    if isinstance(value, float):  # numpy's float64 is one
        return f"{value:.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"
    return escape(str(value))


def escape(text: str) -> str:
    """Text that Markdown shows as it is: no HTML, no table cell's end, no emphasis, no link, on one line."""
    text = html.escape(" ".join(text.split()), quote=False)
    text = re.sub(r"([\\`*\[\]|~$])", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)  # within a word it is plain
