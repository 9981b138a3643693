"""Cells and tables of the benchmarks in markdown."""

import statistics
from collections.abc import Sequence


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A pipe table; the first row is its heading."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def ratio(values: Sequence[float], others: Sequence[float]) -> str:
    """Median and range of the ratios within each round."""
    ratios = [one / other for one, other in zip(values, others, strict=True)]
    if len(ratios) == 1:
        return f"{ratios[0]:.2f}"
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
