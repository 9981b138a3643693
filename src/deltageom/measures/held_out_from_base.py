"""Mode connectivity from the base: the loss of a run's and the base's own correct answers along the run's update.

The paths of measures/held_out_paths.py with the base, whose delta is zero, as their other end: alpha dW.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deltageom.measures.interface import Drawing, Measure, Row, one_per_run, read_rows
from deltageom.measures.shared.settings import HeldOutPathsSettings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from deltageom.measures.interface import Study, Tables

WHAT = "the base's and the run's own correct answers"


def rows(settings: HeldOutPathsSettings, inputs: Mapping[str, Path], runs: Mapping[str, Path]) -> list[Row]:  # noqa: ARG001
    """Those of `own_loss_along_paths`, to the base alone."""
    from deltageom.measures.shared.losses import loss_paths

    return loss_paths.own_loss_along_paths(settings, inputs, {"base": None})


def build(results: Path, runs: Sequence[str]) -> dict[str, pd.DataFrame]:
    """As of pairs of a run and `base`."""
    from deltageom.measures.shared.losses import path_tables

    measured = {
        (run, str(b)): rows.drop(columns="b")
        for run in runs
        for b, rows in read_rows(results / "held_out_from_base" / f"{run}.csv").groupby("b")
    }
    points = path_tables.losses(measured)
    return {"held_out_from_base": points, "held_out_base_barriers": path_tables.barriers(points, measured)}


def draw(tables: Tables, reference: str) -> Figure:  # noqa: ARG001
    from deltageom.measures.shared.losses import path_tables

    return path_tables.figure(tables["held_out_from_base"], tables, "base", WHAT)


def details(study: Study, tables: Tables) -> str:
    from deltageom.display import drawing
    from deltageom.text import escape

    wanted, n = study["measures"]["held_out_paths"], drawing.span(tables["held_out_from_base"]["n"])
    return f"n = {n} problems of {escape(wanted['benchmark'])} that either end solves, {wanted['points']} points."


def text(study: Study, tables: Tables) -> str:
    from deltageom.display import drawing
    from deltageom.measures.shared.losses import path_tables
    from deltageom.text import escape

    found, benchmark = tables["held_out_base_barriers"], escape(study["measures"]["held_out_paths"]["benchmark"])
    if found.empty:
        return (
            f"Neither the base nor a run has answered a problem of {benchmark} correctly: there is no text to follow."
        )
    return "\n\n".join(
        [
            f"Loss (nats per token) along the straight path from the base to each run, of {WHAT} to "
            f"{drawing.span(found['n'])} problems of {benchmark} per run, each text once. A run is left out where "
            "neither it nor the base has a correct answer. The intervals are 95 % bootstraps over problems, for one "
            "run each.",
            path_tables.shown_barriers(found, tables, "base"),
            path_tables.said_of_barriers(found),
        ]
    )


MEASURE = Measure(
    title="Mode connectivity from the base",
    records=one_per_run("held_out_from_base"),
    rows=rows,
    build=build,
    tables={
        "held_out_from_base": f"Loss of {WHAT} at each point of the straight path from the base to each run: alpha 0 "
        "is the base.",
        "held_out_base_barriers": f"The highest loss of {WHAT} on each path above the chord between base and run, with "
        "a bootstrap interval over problems, and above the mean of the ends.",
    },
    text=text,
    figures={
        "held_out_from_base": Drawing(f"Loss of {WHAT} along the straight path from the base to each.", draw, details)
    },
    inputs=("base", "a", "answers", "answers_of_base"),
    settings=HeldOutPathsSettings,
    numbers={"held_out_base_barriers": lambda table: table.melt(["a", "b"], ["chord", "mean_of_ends"], "measure")},
    option=("held_out_paths", "from_base"),
)
