"""What the page says in sentences: those of the summary as plain text, and where in the network the updates part."""

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from deltageom.display.against import against
from deltageom.report import verdicts
from deltageom.report.summary_replicates import headline, numbers_against, value

Tables = Mapping[str, pd.DataFrame]

NEEDED = ("training", "geometry_global", "accuracy")
LISTED = 8  # runs in a sentence; the pictures have all


def answers(study: Mapping[str, Any], tables: Tables) -> list[tuple[str, str]]:
    """Sentences as plain text: what each is about, with its colon (or nothing), and what it says.

    Empty where a table that they are made from is not there.
    """
    if any(name not in tables for name in NEEDED):
        return []
    first, verdict, *others = [plain(line) for line in headline(study, tables).splitlines()]
    found = verdicts.verdicts(study, tables)
    verdict = verdicts.in_words(study, found) if found else verdict
    where = _where(study, tables, by_layer=not found)  # the table of verdicts has it
    return [_parted(line) for line in (verdict, *others[:1], *where, *others[1:], first)]


def plain(line: str) -> str:
    """Markdown as `text.escape` and the summary write it: without marks of a list and of code, nothing escaped."""
    return html.unescape(re.sub(r"\\([\\`*\[\]|~$_])|`", r"\1", line.removeprefix("- ")))


def _parted(line: str) -> tuple[str, str]:
    lead, colon, said = line.partition(": ")
    return (f"{lead}:", said) if colon and "(" not in lead else ("", line)


def verdict_table(study: Mapping[str, Any], tables: Tables) -> list[dict[str, str]]:
    """The verdicts as rows of text: run, cosine, less (than the yardstick's), verdict, least and most (by layer)."""
    reference = study["measures"]["compare_with"]
    if any(name not in tables for name in NEEDED) or not (found := verdicts.verdicts(study, tables)):
        return []
    cosines = {row["run"]: value(row) for _, row in numbers_against(study, tables, "cosine").iterrows()}
    layers = {run: of.sort_values("mean") for run, of in _by_layer(tables, reference).groupby("run", sort=False)}
    rows = []
    for one in sorted(found, key=lambda one: (verdicts.ORDER.index(one.words), -one.difference)):
        ends = [layers[one.run].iloc[i] for i in (0, -1)] if one.run in layers else []
        least, most = (f"{int(end['layer'])}: {value(end)}" for end in ends) if ends else ("", "")
        less = f"{one.difference:+.2f} [{one.low:+.2f}, {one.high:+.2f}]"
        rows.append(
            {"run": one.run, "verdict": one.words, "cosine": cosines[one.run], "less": less}
            | {"least": least, "most": most}
        )
    return rows


def _by_layer(tables: Tables, reference: str) -> pd.DataFrame:
    """Cosines with the reference by run and layer: `mean`, with `low` and `high` where there are replicates."""
    if "replicates" in tables:
        rows = tables["replicates"][tables["replicates"]["source"] == "geometry_layer"]
    else:
        rows = tables["geometry_layer"].drop(columns=["low", "high"], errors="ignore").rename(columns={"value": "mean"})
    rows = rows[(rows["measure"] == "cosine") & rows["b"].notna()]
    return against(rows, reference, list(tables["training"]["run"])).dropna(subset="mean")


def _by_kind(tables: Tables, reference: str) -> pd.DataFrame:
    """The same by kind of module, means over layers, of one draw."""
    rows = tables["geometry_module"][tables["geometry_module"]["measure"] == "cosine"]
    rows = rows[rows["b"].notna()].assign(kind=lambda of: [str(m).rpartition(".")[2] for m in of["module"]])
    found = against(rows, reference, list(tables["training"]["run"]))
    return found.groupby(["run", "kind"], sort=False)["value"].mean().dropna().reset_index(name="mean")


def _where(study: Mapping[str, Any], tables: Tables, by_layer: bool) -> Iterator[str]:
    """Each run's lowest and highest cosine with the reference, by layer and by kind of module."""
    reference = study["measures"]["compare_with"]
    replicated = "replicates" in tables
    for name, place, found_of, words in (
        ("geometry_layer", "layer", _by_layer, "by layer" + (", means over replicates" if replicated else "")),
        (
            "geometry_module",
            "kind",
            _by_kind,
            "by kind of module, means over layers" + (" in replicate 1" if replicated else ""),
        ),
    ):
        if name not in tables or (place == "layer" and not by_layer):
            continue
        found = found_of(tables, reference)
        if found[place].nunique() < 2:
            continue
        said = []
        for run, rows in found.groupby("run", sort=False):
            ordered = rows.sort_values("mean")
            low, high = (
                f"{end['mean']:z.2f} ({_called(place, end[place])})" for _, end in ordered.iloc[[0, -1]].iterrows()
            )
            said.append((ordered["mean"].iloc[0], f"{run} {low} to {high}"))
        shown = [text for _, text in sorted(said)][:LISTED]
        cut = f", and {len(said) - LISTED} more" if len(said) > LISTED else ""
        yield f"Where they part from {reference}'s, lowest to highest cosine {words}: {', '.join(shown)}{cut}."


def _called(place: str, name: Any) -> str:
    return f"layer {int(name)}" if place == "layer" else str(name)
