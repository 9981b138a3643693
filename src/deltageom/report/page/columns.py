"""Tables as JSON by columns, and JSON as text that is safe within a page."""

import base64
import gzip
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

Columns = dict[str, Any]

# `<` ends a script, U+2028 and U+2029 are ends of lines of JavaScript: all of them are written as JSON's own escapes
UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def columns(frame: pd.DataFrame, digits: int | None = None) -> Columns:
    """{"n": rows, "columns": {name: values}}: numbers as in the frame, or to so many significant digits.

    A text column is {"text": different values, "of": an index per row, -1 where missing}; elsewhere what is missing or
    not finite is null. A column of one value alone is {"all": value}.
    """
    return {"n": len(frame), "columns": {str(name): _column(frame[name], digits) for name in frame}}


def _column(values: "pd.Series[Any]", digits: int | None) -> Any:
    if len(values) > 1 and values.nunique(dropna=False) == 1:
        return {"all": _plain(values, digits)[0]}
    if not pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        codes, found = pd.factorize(values)
        return {"text": [str(value) for value in found], "of": codes.tolist()}
    return _plain(values, digits)


def _plain(values: "pd.Series[Any]", digits: int | None) -> list[Any]:
    if pd.api.types.is_float_dtype(values):
        return numbers(values.to_numpy(float), digits)
    return [None if pd.isna(value) else value for value in values.tolist()]


def numbers(values: Sequence[float] | np.ndarray, digits: int | None = None) -> list[float | None]:
    """(n,), to so many significant digits; None where not finite."""
    found = np.asarray(values, dtype=float).tolist()
    if digits is None:
        return [value if math.isfinite(value) else None for value in found]
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in found]


def text(value: Any) -> str:
    """JSON that may stand within a script element."""
    compact = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return compact.encode("utf-8", errors="backslashreplace").decode("utf-8").translate(UNSAFE)


def packed(value: Any) -> str:
    """JSON, compressed by gzip, in base64; the same value, the same bytes."""
    return base64.b64encode(gzip.compress(text(value).encode(), mtime=0)).decode()
