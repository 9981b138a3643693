"""Linear mode connectivity: the boxed-answer loss along the path between two runs' deltas, and the barriers on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deltageom.measures.interface import Drawing, Measure, Row, one_per_first_run, pairs
from deltageom.measures.shared.settings import ConnectivitySettings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from deltageom.measures.interface import Study, Tables


def rows(settings: ConnectivitySettings, inputs: Mapping[str, Path], runs: Mapping[str, Path]) -> list[Row]:
    """Those of `loss_along_paths`.

    inputs: base, a folder or hub id; a, the folder of the run that alpha weighs; problems, a jsonl file. runs: the
    folders of those that 1 - alpha weighs.
    """
    from deltageom.measures.shared.losses import loss_paths
    from deltageom.problems.problem import read_problems

    problems = read_problems(inputs["problems"])[: settings.connectivity.problems]
    return loss_paths.loss_along_paths(settings, str(inputs["base"]), inputs["a"], dict(runs), problems)


def build(results: Path, runs: Sequence[str]) -> dict[str, pd.DataFrame]:
    from deltageom.measures.shared.losses import path_tables

    measured = pairs(results / "connectivity", runs)
    points = path_tables.losses(measured)
    return {"connectivity": points, "barriers": path_tables.barriers(points, measured)}


def draw(tables: Tables, reference: str) -> Figure:
    from deltageom.measures.shared.losses import path_tables

    return path_tables.figure(tables["connectivity"], tables, reference, "the boxed answer")


def details(study: Study, tables: Tables) -> str:
    from deltageom.display.markdown import values
    from deltageom.text import escape

    wanted = study["measures"]["connectivity"]
    n, reference = values(tables["connectivity"]["n"]), escape(study["measures"]["compare_with"])
    return (
        f"From {reference} to each run, n = {n} problems of {escape(wanted['benchmark'])}, {wanted['points']} points; "
        "dashed: the chord."
    )


def text(study: Study, tables: Tables) -> str:
    from deltageom.display.markdown import cell, values
    from deltageom.measures.shared.losses import path_tables
    from deltageom.text import escape

    reference, found = study["measures"]["compare_with"], tables["barriers"]
    n, benchmark = values(found["n"]), escape(study["measures"]["connectivity"]["benchmark"])
    parts = [
        f"Loss (nats per token) of the gold boxed answer on the first {n} problems of {benchmark}, along the "
        f"straight path from {escape(reference)}'s update to each run's. Barriers: the highest loss above the chord "
        "between the ends, with its 95 % bootstrap interval over problems and the share of the run's update there; "
        "and above the mean of the ends, which is half their difference where the path only rises.",
        path_tables.shown_barriers(found, tables, reference),
    ]
    ends, uniform = found[["loss_a", "loss_b"]].stack(), found["uniform"].max()
    if found["chord"].notna().any() and ends.min() > uniform:
        parts.insert(
            1,
            f"Every run's loss here is above {cell(uniform)} nats per token, which a model that guesses all tokens "
            "alike has: no run expects a boxed answer right after the prompt, and these are paths between losses "
            "of something that none of them does.",
        )
    return "\n\n".join(parts)


MEASURE = Measure(
    title="Linear mode connectivity",
    records=one_per_first_run("connectivity"),
    rows=rows,
    build=build,
    tables={
        "connectivity": "Loss of the gold boxed answer at each point of the straight path between two runs' updates.",
        "barriers": "The highest loss on each path above the chord between its ends, with a bootstrap interval over "
        "problems, and above the mean of the ends; 0 above the chord is a straight valley.",
    },
    text=text,
    figures={
        "connectivity_paths": Drawing(
            "Loss of the gold boxed answer along the straight path between two runs' updates.", draw, details
        )
    },
    inputs=("base", "a", "problems"),
    settings=ConnectivitySettings,
    numbers={"barriers": lambda table: table.melt(["a", "b"], ["chord", "mean_of_ends"], "measure")},
)
