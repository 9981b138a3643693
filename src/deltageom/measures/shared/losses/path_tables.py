"""Tables and figure of losses along the paths between runs' updates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from deltageom.display.against import against
from deltageom.display.columns import frame
from deltageom.measures.shared.losses.barriers import Barriers, chord_interval
from deltageom.measures.shared.losses.barriers import barriers as of_path

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from deltageom.measures.interface import Tables

RESAMPLES, SEED = 2000, 0  # of the bootstrap over problems


def losses(paths: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """One row per (pair of runs, alpha): loss in nats per token along alpha dW_a + (1 - alpha) dW_b.

    loss = sum of nll / sum of tokens over the n problems. `paths` holds the rows of each (a, b): alpha, problem_id,
    nll, tokens. A missing nll makes the point's loss missing.
    """
    table = []
    for (a, b), path in paths.items():
        for alpha, point in path.groupby("alpha", sort=True):
            loss = point["nll"].sum(skipna=False) / point["tokens"].sum()
            table.append({"a": a, "b": b, "alpha": alpha, "loss": loss, "n": len(point)})
    return frame(table, ["a", "b", "alpha", "loss", "n"])


def barriers(points: pd.DataFrame, paths: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """One row per pair of runs: the highest rise of the loss along the path, by two definitions (nats per token).

    `chord`: above the straight line between the ends (Entezari et al. 2022), at `worst_alpha`, which is missing where
    that is 0; chord_low, chord_high: its 95 % bootstrap interval over problems. `mean_of_ends`: above the mean of the
    ends (Frankle et al. 2020), which is half their difference where the path only rises. `loss_a` is the loss at
    alpha = 1, `loss_b` at alpha = 0; `uniform` that of a model to which all tokens are equally likely. A loss that is
    not finite leaves the barriers missing. `paths` as for `losses`.
    """
    table = []
    for (a, b), path in points[points["alpha"].between(0, 1)].groupby(["a", "b"], sort=False):
        path = path.sort_values("alpha")
        alphas, values = path["alpha"].to_numpy(float), path["loss"].to_numpy(float)
        found, interval = Barriers(math.nan, math.nan, math.nan), (math.nan, math.nan)
        measured = paths[str(a), str(b)]
        measured = measured[measured["alpha"].between(0, 1)]
        nll = measured.pivot(index="alpha", columns="problem_id", values="nll").to_numpy(float)
        if np.isfinite(values).all():
            tokens = measured.drop_duplicates("problem_id").set_index("problem_id")["tokens"].sort_index()
            found = of_path(alphas, values)
            interval = chord_interval(alphas, nll, tokens.to_numpy(float), RESAMPLES, SEED)
        row = {"a": a, "b": b, "chord_low": interval[0], "chord_high": interval[1], "loss_a": values[-1]}
        row |= {"loss_b": values[0], "uniform": measured["uniform"].iloc[0], "n": path["n"].min()}
        table.append(row | asdict(found))
    columns = ["a", "b", "chord", "chord_low", "chord_high", "worst_alpha", "mean_of_ends", "loss_a", "loss_b"]
    return frame(table, [*columns, "uniform", "n"])


def figure(points: pd.DataFrame, tables: Tables, reference: str, what: str) -> Figure:
    """Loss along the straight path from the reference's update to each other run's, a panel per run.

    points: what `losses` gives; what: what the loss is of, as words of the title.
    """
    from matplotlib.ticker import MaxNLocator

    from deltageom.display import drawing
    from deltageom.display.by_layer import look_of, order_of

    found, look = against(points, reference, order_of(tables)), look_of(tables)
    runs = list(found["run"].unique())
    if not runs:
        return drawing.nothing()
    columns = min(6, math.ceil(math.sqrt(1.5 * len(runs))))
    drawn, axes = drawing.panels(len(runs), columns, width=2.0, height=1.75)
    for ax, run in zip(axes, runs, strict=True):
        path = found[found["run"] == run].sort_values("alpha", ascending=False)
        share, loss = 1 - path["alpha"].to_numpy(float), path["loss"].to_numpy(float)
        at_ends = [loss[share == end].sum() for end in (0.0, 1.0)]
        ends = [(0.0, at_ends[0], look[reference]), (1.0, at_ends[1], look[run])]
        ax.plot([0, 1], at_ends, color=drawing.GREY, linestyle="--", linewidth=0.9)
        ax.plot(share, loss, color=look[run].colour, linewidth=1.5, marker=".", markersize=4)
        for x, y, style in ends:
            ax.plot(x, y, style.marker, color=style.colour, markersize=6, clip_on=False, zorder=3)
        ax.set_title(drawing.label(run))
        ax.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        ax.yaxis.set_major_locator(MaxNLocator(5))
    drawn.supxlabel(f"share of the run's update (0: {drawing.label(reference)})", fontsize=9)
    drawn.supylabel("loss (nats per token)", fontsize=9)
    title = f"Loss of {what} from {drawing.label(reference)} to each run"
    n = drawing.span(found["n"])
    drawing.title(drawn, f"{title} (n = {n} problems); dashed: straight line between the ends")
    drawing.note_undefined(drawn, found, "loss", "points")
    return drawn


def shown_barriers(found: pd.DataFrame, tables: Tables, reference: str) -> str:
    """The barriers from the reference to each run, as Markdown, and the highest of all pairs."""
    from deltageom.display.by_layer import order_of
    from deltageom.display.markdown import cell, markdown, readable
    from deltageom.text import escape

    names = {"loss a": f"loss of {reference}", "loss b": "loss of run", "worst alpha": "share of the run"}
    names |= {"mean of ends": "above mean of ends", "chord": "above chord", "chord low": "low", "chord high": "high"}
    shown = against(found, reference, order_of(tables)).drop(columns="uniform")
    shown["worst_alpha"] = 1 - shown["worst_alpha"]
    parts = [markdown(readable(shown).rename(columns=names))]
    if found["chord"].notna().any():
        worst = found.sort_values("chord", ascending=False, kind="stable").iloc[0]
        parts.append(
            f"Highest barrier above the chord, of all {len(found)} pairs: {cell(worst['chord'])} "
            f"({cell(worst['chord_low'])} to {cell(worst['chord_high'])}), between "
            f"{escape(worst['a'])} and {escape(worst['b'])}."
        )
    return "\n\n".join(parts)


def said_of_barriers(found: pd.DataFrame) -> str:
    """Which paths have a barrier above the chord, in a sentence; `found` has at least one."""
    from deltageom.display.markdown import cell
    from deltageom.text import escape

    above = found[found["chord_low"] > 0]
    which = ", ".join(
        f"{escape(row['a'])} - {escape(row['b'])} ({cell(row['chord_low'])} at least)" for _, row in above.iterrows()
    )
    if len(above):
        return (
            f"Of {len(found)} pairs {len(above)} have a barrier above the chord whose interval leaves out 0: {which}."
        )
    return (
        f"No barrier above the chord was found: each of the {len(found)} intervals includes 0, and the highest ends at "
        f"{cell(found['chord_high'].max())} nats per token."
    )
