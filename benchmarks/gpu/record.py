"""What a part of the GPU benchmark has found: a file of lines, each written the moment it is known.

A line is {"planned": [cells]}, a cell {"cell": name, ...numbers} or {"cell": name, "reason": why there are none}, or
{"ended": why the part stopped early}.
"""

import gc
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Record:
    """The file of one part; `attempt` turns whatever a cell raises into that cell's reason."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **line: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def plan(self, cells: Sequence[str]) -> None:
        """The cells that are to come: the table names those that are never reached."""
        self.write(planned=list(cells))

    def attempt(self, cell: str, measure: Callable[[], Line], **shared: Any) -> None:
        """Writes what `measure` returns with `shared`, or why it returned nothing; then frees the device's memory."""
        print(f"-- {cell}", flush=True)
        try:
            found = measure()
        except Exception as error:
            traceback.print_exc()
            found = {"reason": reason(error)}
        self.write(cell=cell, **shared, **found)
        _free()


def reason(error: Exception) -> str:
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return f"out of memory: needs more than {_within_reach():.1f} GiB"
    text = " ".join(str(error).split())
    return f"failed: {type(error).__name__}: {text[:200]}"


def read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def cells(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The lines of each cell, a round each; for a planned cell without one, the reason."""
    planned = [cell for line in lines for cell in line.get("planned", [])]
    ended = next((line["ended"] for line in lines if "ended" in line), "not measured")
    found: dict[str, list[Line]] = {cell: [] for cell in planned}
    for line in lines:
        if "cell" in line:
            found.setdefault(line["cell"], []).append(line)
    return {cell: rounds or [{"cell": cell, "reason": ended}] for cell, rounds in found.items()}


def _within_reach() -> float:
    """GiB that this process could have had: its own and what is free."""
    import psutil
    import torch

    if not torch.cuda.is_available():
        return float(psutil.virtual_memory().total / 2**30)
    return float((torch.cuda.memory_reserved() + torch.cuda.mem_get_info()[0]) / 2**30)


def _free() -> None:
    """A trainer refers to itself; what it held on the device must be gone before the next one is built."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
