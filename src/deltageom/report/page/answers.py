"""What the page says in sentences: those of the summary as plain text, and where in the network the updates part."""

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from deltageom.display.against import against
from deltageom.report.summary_replicates import headline

Tables = Mapping[str, pd.DataFrame]

NEEDED = ("training", "geometry_global", "accuracy")
LISTED = 8  # runs in a sentence; the pictures have all


def answers(study: Mapping[str, Any], tables: Tables) -> list[tuple[str, str]]:
    """Sentences as plain text: what each is about, with its colon (or nothing), and what it says.

    Empty where a table that they are made from is not there.
    """
    if any(name not in tables for name in NEEDED):
        return []
    first, *others = [plain(line) for line in headline(study, tables).splitlines()]
    return [_parted(line) for line in (*others[:1], *_where(study, tables), *others[1:], first)]


def plain(line: str) -> str:
    """Markdown as `text.escape` and the summary write it: without marks of a list and of code, nothing escaped."""
    return html.unescape(re.sub(r"\\([\\`*\[\]|~$_])|`", r"\1", line.removeprefix("- ")))


def _parted(line: str) -> tuple[str, str]:
    lead, colon, said = line.partition(": ")
    return (f"{lead}:", said) if colon and "(" not in lead else ("", line)


def _where(study: Mapping[str, Any], tables: Tables) -> Iterator[str]:
    """Each run's lowest and highest cosine with the reference, by layer and by kind of module."""
    reference, order = study["measures"]["compare_with"], list(tables["training"]["run"])
    draw = " in replicate 1" if "replicates" in tables else ""
    for name, place, words in (
        ("geometry_layer", "layer", "by layer"),
        ("geometry_module", "kind", "by kind of module, means over layers"),
    ):
        if name not in tables:
            continue
        rows = tables[name][(tables[name]["measure"] == "cosine") & tables[name]["b"].notna()]
        if place == "kind":
            rows = rows.assign(kind=[str(module).rpartition(".")[2] for module in rows["module"]])
        found = against(rows, reference, order).groupby(["run", place], sort=False)["value"].mean().dropna()
        if found.index.get_level_values(place).nunique() < 2:
            continue
        said = []
        for run in [run for run in order if run in found.index.get_level_values("run")]:
            values = found[run].sort_values()
            low, high = (f"{values.iloc[i]:z.2f} ({_called(place, values.index[i])})" for i in (0, -1))
            said.append((values.iloc[0], f"{run} {low} to {high}"))
        shown = [text for _, text in sorted(said)][:LISTED]
        cut = f", and {len(said) - LISTED} more" if len(said) > LISTED else ""
        yield f"Where they part from {reference}'s, lowest to highest cosine {words}{draw}: {', '.join(shown)}{cut}."


def _called(place: str, name: Any) -> str:
    return f"layer {int(name)}" if place == "layer" else str(name)
