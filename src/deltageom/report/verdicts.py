"""Which runs make the reference's update? Verdicts by rule from the intervals over replicates, never without them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import pandas as pd

from deltageom.display.against import against
from deltageom.report.tables.geometry import chance_sd, identity, of_measure
from deltageom.text import escape

Tables = Mapping[str, pd.DataFrame]

MARGIN = 0.1  # of cosines that differ by less, throughout the interval, it is said that they are alike
CHANCE = 2.0  # standard deviations of chance around 0 that count as chance

CLOSER = "closer"
SAME = f"as close, to within {MARGIN:g}"
UNKNOWN = "not told from it"
FARTHER = "farther"
LIKE_CHANCE = "no closer than chance"
ORDER = (CLOSER, SAME, UNKNOWN, FARTHER, LIKE_CHANCE)


@dataclass(frozen=True)
class Verdict:
    """words: of `ORDER`; difference: the run's cosine with the reference less the twin's; low, high: its interval."""

    run: str
    words: str
    difference: float
    low: float
    high: float


def twin_of(study: Mapping[str, Any], reference: str) -> str | None:
    """The first run that differs from the reference only in seeds, and has its initial A: without that, cosines are low
    whatever the loss is."""
    runs = study.get("runs", {})
    if reference not in runs:
        return None
    own = identity(runs[reference])
    return next(
        (
            run
            for run, of in runs.items()
            if run != reference and (found := identity(of)).settings == own.settings and found.init == own.init
        ),
        None,
    )


def verdicts(study: Mapping[str, Any], tables: Tables) -> list[Verdict]:
    """One per run but the reference and its twin; none where there is no interval, or no twin.

    Differences are paired over replicates. A run whose difference includes 0 but is not within `MARGIN` is not told
    from the twin; one that is farther, with a cosine whose interval reaches into chance, is no more alike than chance.
    """
    reference = study["measures"]["compare_with"]
    twin, differences = twin_of(study, reference), tables.get("replicate_differences")
    if twin is None or differences is None:
        return []
    return [
        Verdict(run, _words(low, high, reaches_chance), difference, low, high)
        for run, difference, low, high, reaches_chance in _differences(tables, reference, twin)
        if isfinite(low) and isfinite(high)
    ]


def sentence(study: Mapping[str, Any], tables: Tables) -> str:
    """Markdown: the runs by verdict, or why there is none."""
    reference, n = escape(study["measures"]["compare_with"]), study["replicates"]["count"]
    twin, found = twin_of(study, study["measures"]["compare_with"]), verdicts(study, tables)
    asked = f"Which updates are the same as {reference}'s"
    if twin is None:
        return f"{asked}: no run differs from it only in seeds, so there is no yardstick for what is the same."
    if not found:
        return f"{asked}: {n} replicate{'s' if n > 1 else ''} cannot say, three give an interval."
    said = []
    for words in ORDER:
        runs = [f"{escape(v.run)} {v.difference:+.2f} [{v.low:+.2f}, {v.high:+.2f}]" for v in found if v.words == words]
        said += [f"{words}: {', '.join(runs)}"] if runs else []
    return (
        f"{asked}: the yardstick is {escape(twin)}, the same run with other seeds; cosine with {reference} less the "
        f"yardstick's, paired over {n} replicates: {'; '.join(said)}."
    )


def in_words(study: Mapping[str, Any], found: Sequence[Verdict]) -> str:
    """Plain text: the same without numbers."""
    reference = study["measures"]["compare_with"]
    runs = [(words, ", ".join(one.run for one in found if one.words == words)) for words in ORDER]
    said = "; ".join(f"{words}: {named}" for words, named in runs if named)
    return (
        f"Which updates are the same as {reference}'s: beside {twin_of(study, reference)}, the same run with other "
        f"seeds, {said}."
    )


def _words(low: float, high: float, reaches_chance: bool) -> str:
    if low > 0:
        return CLOSER
    if high < 0:
        return LIKE_CHANCE if reaches_chance else FARTHER
    return SAME if max(-low, high) <= MARGIN else UNKNOWN


def _differences(tables: Tables, reference: str, twin: str) -> Iterator[tuple[str, float, float, float, bool]]:
    """Of each run its cosine less the twin's with its interval, and whether the cosine's own reaches into chance."""
    table = tables["replicate_differences"]
    rows = table[table["measure"] == "cosine"]
    cosines, chance = _cosines(tables, reference), _chance(tables, reference)
    for run in study_runs(tables):
        pair = rows[rows["x"].isin([run, twin]) & rows["y"].isin([run, twin])]
        if run in (reference, twin) or pair.empty or run not in cosines.index:
            continue
        row, sign = pair.iloc[0], 1.0 if pair["x"].iloc[0] == run else -1.0
        low, high = sorted((sign * row["low"], sign * row["high"]))
        yield run, sign * row["difference"], low, high, bool(cosines["low"][run] <= CHANCE * chance.get(run, 0.0))


def study_runs(tables: Tables) -> list[str]:
    return [str(run) for run in tables["training"]["run"]]


def _cosines(tables: Tables, reference: str) -> pd.DataFrame:
    table = tables["replicates"]
    rows = table[(table["source"] == "geometry_global") & (table["measure"] == "cosine") & table["b"].notna()]
    return against(rows, reference, study_runs(tables)).set_index("run")


def _chance(tables: Tables, reference: str) -> dict[str, float]:
    """The standard deviation of each run's cosine with the reference by chance, with the runs' own A."""
    rows = against(of_measure(tables["geometry_global"], "cosine"), reference, study_runs(tables))
    return dict(zip(rows["run"], chance_sd(rows), strict=True))
