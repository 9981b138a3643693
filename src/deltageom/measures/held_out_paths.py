"""Mode connectivity on held-out answers: the loss of the two runs' own correct answers along the path between them.

The boxed answer right after the prompt (measures/connectivity.py) is a text that no run writes; these are texts that
both ends' models write, so that a rise between the ends is a rise in something that they do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deltageom.measures.interface import Drawing, Measure, Row, one_per_first_run, pairs
from deltageom.measures.shared.settings import HeldOutPathsSettings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from deltageom.measures.interface import Study, Tables

WHAT = "the runs' own correct answers"


def rows(settings: HeldOutPathsSettings, inputs: Mapping[str, Path], runs: Mapping[str, Path]) -> list[Row]:
    """Those of `own_loss_along_paths`; runs: the folders of those that 1 - alpha weighs."""
    from deltageom.measures.shared.losses import loss_paths

    return loss_paths.own_loss_along_paths(settings, inputs, runs)


def build(results: Path, runs: Sequence[str]) -> dict[str, pd.DataFrame]:
    from deltageom.measures.shared.losses import path_tables

    measured = pairs(results / "held_out_paths", runs)
    points = path_tables.losses(measured)
    return {"held_out_paths": points, "held_out_barriers": path_tables.barriers(points, measured)}


def draw(tables: Tables, reference: str) -> Figure:
    from deltageom.measures.shared.losses import path_tables

    return path_tables.figure(tables["held_out_paths"], tables, reference, WHAT)


def details(study: Study, tables: Tables) -> str:
    from deltageom.display import drawing
    from deltageom.text import escape

    wanted, n = study["measures"]["held_out_paths"], drawing.span(tables["held_out_paths"]["n"])
    return f"n = {n} problems of {escape(wanted['benchmark'])} that either end solves, {wanted['points']} points."


def text(study: Study, tables: Tables) -> str:
    from deltageom.display import drawing
    from deltageom.measures.shared.losses import path_tables
    from deltageom.text import escape

    reference, found = study["measures"]["compare_with"], tables["held_out_barriers"]
    benchmark = escape(study["measures"]["held_out_paths"]["benchmark"])
    if found.empty:
        return f"No run has answered a problem of {benchmark} correctly: there is no text whose loss could be followed."
    return "\n\n".join(
        [
            f"Loss (nats per token) along the straight path from {escape(reference)}'s update to each run's, of {WHAT} "
            f"to {drawing.span(found['n'])} problems of {benchmark} per pair: what either end answered and was graded "
            "correct, each text once. A pair of which neither has a correct answer is left out. The intervals are 95 % "
            "bootstraps over problems, for one pair each.",
            path_tables.shown_barriers(found, tables, reference),
            path_tables.said_of_barriers(found),
        ]
    )


MEASURE = Measure(
    title="Mode connectivity on held-out answers",
    records=one_per_first_run("held_out_paths"),
    rows=rows,
    build=build,
    tables={
        "held_out_paths": f"Loss of {WHAT} at each point of the straight path between two runs' updates.",
        "held_out_barriers": f"The highest loss of {WHAT} on each path above the chord between its ends, with a "
        "bootstrap interval over problems, and above the mean of the ends; 0 above the chord is a straight valley.",
    },
    text=text,
    figures={
        "held_out_paths": Drawing(f"Loss of {WHAT} along the straight path between two runs' updates.", draw, details)
    },
    inputs=("base", "a", "answers"),
    settings=HeldOutPathsSettings,
    numbers={"held_out_barriers": lambda table: table.melt(["a", "b"], ["chord", "mean_of_ends"], "measure")},
)
