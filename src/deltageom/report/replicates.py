"""Tables over the replicates of a study: every number's mean and spread, and which run is closer to the reference.

`replicates` holds the tables of each replicate by name, in their order; all have the same rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deltageom.display.against import against
from deltageom.display.columns import typed
from deltageom.evaluation.over_replicates import crossed_bootstrap, paired, spread
from deltageom.measures.interface import load_all
from deltageom.report.tables.geometry import of_measure
from deltageom.study.running import Statistics

Replicates = Sequence[Mapping[str, pd.DataFrame]]
Scores = Mapping[tuple[str, str], NDArray[np.float64]]

KEYS = ["source", "a", "b", "benchmark", "layer", "step", "measure", "k"]
STATISTICS = ["n", "mean", "sd", "low", "high", "smallest", "largest", "problems_low", "problems_high"]
DIFFERENCES = ["measure", "benchmark", "x", "y", "n", "difference", "sd", "low", "high", "p", "can_show"]
ENDING = ("delta_norm", "kl_to_base", "kl_exact", "correct", "mixed_problems", "selected")
COMPARED = ("cosine", "orthogonal_fraction_stacked")


def replicates_table(replicates: Replicates, scores: Scores | None, settings: Statistics) -> pd.DataFrame:
    """One row per number of a run (`a`), a pair (`a`, `b`) or a model's accuracy, with its statistics over replicates.

    source: the table that it is of. `scores`: by (model, benchmark) the mean score (replicates, problems) of each
    problem, for the interval over problems too (problems_low, problems_high); None where each replicate has problems
    of its own, over which the t interval is then, too.
    """
    found = pd.concat(
        [long_table(tables).assign(replicate=i) for i, tables in enumerate(replicates)], ignore_index=True
    )
    rows = []
    for keys, group in found.groupby(KEYS, sort=False, dropna=False):
        row = dict(zip(KEYS, keys, strict=True)) | asdict(spread(group["value"]))
        if scores is not None and row["source"] == "accuracy":
            of_both = crossed_bootstrap(scores[row["a"], row["benchmark"]], settings.resamples, settings.seed)
            row["problems_low"], row["problems_high"] = of_both or (np.nan, np.nan)
        rows.append(row)
    return typed(pd.DataFrame(rows, columns=[*KEYS, *STATISTICS]), ["layer", "k", "n"])


def differences_table(replicates: Replicates, reference: str) -> pd.DataFrame:
    """One row per measure and two runs x, y: its value of x less that of y, paired over replicates.

    Of the geometry the values are those with the reference; of an accuracy x and y are models. can_show: whether so
    many replicates could reach p = .05 at all.
    """
    rows = []
    for measure, benchmark, values in _compared(replicates, reference):
        for x, y in combinations(values.columns, 2):
            found, p, can_show = paired(values[x] - values[y])
            row = {"measure": measure, "benchmark": benchmark, "x": x, "y": y, "n": found.n, "difference": found.mean}
            rows.append(row | {"sd": found.sd, "low": found.low, "high": found.high, "p": p, "can_show": can_show})
    return typed(pd.DataFrame(rows, columns=DIFFERENCES))


def long_table(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The numbers of one draw of a study, from its tables, a row each: KEYS and value."""
    training = tables["training"].rename(columns={"run": "a"})
    by_layer = tables["geometry_layer"]
    ending = [name for name in ENDING if name in training]
    parts = {
        "accuracy": tables["accuracy"].rename(columns={"model": "a", "accuracy": "value"}).assign(measure="accuracy"),
        "training": training.melt(["a"], ending, "measure").dropna(subset="value"),
        "geometry_global": tables["geometry_global"],
        "geometry_layer": by_layer[by_layer["measure"] == "cosine"],
    }
    for measure in load_all().values():
        parts |= {name: numbers(tables[name]) for name, numbers in measure.numbers.items() if name in tables}
    return pd.concat([part.assign(source=name).reindex(columns=[*KEYS, "value"]) for name, part in parts.items()])


def _compared(replicates: Replicates, reference: str) -> Iterator[tuple[str, str | None, pd.DataFrame]]:
    """Measure, benchmark, and the values (replicates, runs)."""
    order = [str(run) for run in replicates[0]["training"]["run"]]
    for measure in COMPARED:
        of_each = [
            against(of_measure(tables["geometry_global"], measure), reference, order).set_index("run")["value"]
            for tables in replicates
        ]
        yield measure, None, pd.DataFrame(of_each).reset_index(drop=True)
    for benchmark in replicates[0]["accuracy"]["benchmark"].unique():
        scores = [of[of["benchmark"] == benchmark] for of in (tables["accuracy"] for tables in replicates)]
        wide = pd.DataFrame([one.set_index("model")["accuracy"] for one in scores])
        yield "accuracy", str(benchmark), wide.reset_index(drop=True)
