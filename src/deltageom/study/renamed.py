"""What had another name in version 0.1: an error names the new one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deltageom.errors import UserError
from deltageom.study.layers import Layer, Tree

# keys, values and methods of version 0.1 that have other names now
RENAMED = {"embedded": "toy", "measures.reference": "measures.compare_with"}
RENAMED_VALUES = {
    "base.model": ("embedded", "toy"),
    "source": ("embedded", "toy"),
    "statistics.family": ("reference", "compare_with"),
}
RENAMED_METHODS = {"sft_reference": "sft_solutions"}


def check_results(folder: Path) -> None:
    """Raises UserError for results of version 0.1: its settings had other names, so every job would be done again."""
    for record in (folder / "provenance.json", folder / "provenance" / "pretrain.json"):
        try:
            made_with = json.loads(record.read_bytes())["settings"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if "embedded" in made_with:
            raise UserError(
                f"{folder}: is of version 0.1, and every job would write over it: move it away to keep it, or delete it"
            )


def check_names(layer: Layer) -> None:
    """Raises UserError for a key or a value that has another name now."""
    for path, value in _walk(layer.tree):
        if path in RENAMED:
            raise UserError(f"{layer.origin}: {path}: is called {RENAMED[path]} now: rename the key")
        for key, (old, new) in RENAMED_VALUES.items():
            if value == old and (path == key or (key == "source" and path.endswith(".source"))):
                raise UserError(f"{layer.origin}: {path}: {old} is called {new} now: write that")


def _walk(tree: Tree, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every key by its dotted path, with its value."""
    for key, value in tree.items():
        path = f"{above}{key}"
        yield path, value
        if isinstance(value, dict):
            yield from _walk(value, f"{path}.")
