"""What a page holds, read back from its HTML."""

import base64
import gzip
import json
import re
from typing import Any

import numpy as np
import pandas as pd


def held(html: str) -> dict[str, Any]:
    """The first study of a page: what is there at once, and what is compressed, together."""
    (now,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    (more,) = re.findall(r'<script type="text/plain" id="more">(.*?)</script>', html, re.DOTALL)
    first = json.loads(now)["studies"][0]
    later = json.loads(gzip.decompress(base64.b64decode(more)))["studies"][0]
    tables = first["tables"] | later["tables"]
    return first | later | {"tables": {name: frame(raw) for name, raw in tables.items()}}


def frame(raw: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame({name: _values(column, raw["n"]) for name, column in raw["columns"].items()})


def _values(column: Any, n: int) -> "list[Any] | np.ndarray[Any, Any]":
    if isinstance(column, list):
        return column
    if "all" in column:
        return [column["all"]] * n
    return [column["text"][code] if code >= 0 else None for code in column["of"]]
