"""Linear mode connectivity: the boxed-answer loss along the path between two runs' deltas, and the barriers on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deltageom.measures.interface import Drawing, Measure, Row, one_per_first_run, pairs
from deltageom.study.settings import ConnectivitySettings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from deltageom.measures.interface import Study, Tables


RESAMPLES, SEED = 2000, 0  # of the bootstrap over problems


def rows(settings: ConnectivitySettings, inputs: Mapping[str, Path], runs: Mapping[str, Path]) -> list[Row]:
    """Those of `loss_along_paths`.

    inputs: base, a folder or hub id; a, the folder of the run that alpha weighs; problems, a jsonl file. runs: the
    folders of those that 1 - alpha weighs.
    """
    from deltageom.measures.shared import loss_paths
    from deltageom.problems.problem import read_problems

    problems = read_problems(inputs["problems"])[: settings.connectivity.problems]
    return loss_paths.loss_along_paths(settings, str(inputs["base"]), inputs["a"], dict(runs), problems)


def build(results: Path, runs: Sequence[str]) -> dict[str, pd.DataFrame]:
    measured = pairs(results / "connectivity", runs)
    losses = connectivity(measured)
    return {"connectivity": losses, "barriers": barriers(losses, measured)}


def connectivity(paths: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """One row per (pair of runs, alpha): loss in nats per token along alpha dW_a + (1 - alpha) dW_b.

    loss = sum of nll / sum of tokens over the n problems. `paths` holds the rows of each (a, b) in
    connectivity/<a>.csv: alpha, problem_id, nll, tokens. A missing nll makes the point's loss missing.
    """
    from deltageom.display.columns import frame

    table = []
    for (a, b), path in paths.items():
        for alpha, point in path.groupby("alpha", sort=True):
            loss = point["nll"].sum(skipna=False) / point["tokens"].sum()
            table.append({"a": a, "b": b, "alpha": alpha, "loss": loss, "n": len(point)})
    return frame(table, ["a", "b", "alpha", "loss", "n"])


def barriers(losses: pd.DataFrame, paths: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """One row per pair of runs: the highest rise of the loss along the path, by two definitions (nats per token).

    `chord`: above the straight line between the ends (Entezari et al. 2022), at `worst_alpha`, which is missing where
    that is 0; chord_low, chord_high: its 95 % bootstrap interval over problems. `mean_of_ends`: above the mean of the
    ends (Frankle et al. 2020), which is half their difference where the path only rises. `loss_a` is the loss at
    alpha = 1, `loss_b` at alpha = 0; `uniform` that of a model to which all tokens are equally likely. A loss that is
    not finite leaves the barriers missing. `paths` as for `connectivity`.
    """
    from dataclasses import asdict

    import numpy as np

    from deltageom.display.columns import frame
    from deltageom.measures.shared.barriers import Barriers, chord_interval
    from deltageom.measures.shared.barriers import barriers as of_path

    table = []
    for (a, b), path in losses.groupby(["a", "b"], sort=False):
        path = path.sort_values("alpha")
        alphas, values = path["alpha"].to_numpy(float), path["loss"].to_numpy(float)
        found, interval = Barriers(math.nan, math.nan, math.nan), (math.nan, math.nan)
        measured = paths[str(a), str(b)]
        points = measured.pivot(index="alpha", columns="problem_id", values="nll").to_numpy(float)
        if np.isfinite(values).all():
            tokens = measured.drop_duplicates("problem_id").set_index("problem_id")["tokens"].sort_index()
            found = of_path(alphas, values)
            interval = chord_interval(alphas, points, tokens.to_numpy(float), RESAMPLES, SEED)
        row = {"a": a, "b": b, "chord_low": interval[0], "chord_high": interval[1], "loss_a": values[-1]}
        row |= {"loss_b": values[0], "uniform": measured["uniform"].iloc[0], "n": path["n"].min()}
        table.append(row | asdict(found))
    columns = ["a", "b", "chord", "chord_low", "chord_high", "worst_alpha", "mean_of_ends", "loss_a", "loss_b"]
    return frame(table, [*columns, "uniform", "n"])


def paths(tables: Tables, reference: str) -> Figure:
    """Loss along the straight path from the reference's update to each other run's, a panel per run."""
    from matplotlib.ticker import MaxNLocator

    from deltageom.display import drawing
    from deltageom.display.against import against
    from deltageom.display.by_layer import look_of, order_of

    frame, look = against(tables["connectivity"], reference, order_of(tables)), look_of(tables)
    runs = list(frame["run"].unique())
    if not runs:
        return drawing.nothing()
    columns = min(6, math.ceil(math.sqrt(1.5 * len(runs))))
    figure, axes = drawing.panels(len(runs), columns, width=2.0, height=1.75)
    for ax, run in zip(axes, runs, strict=True):
        path = frame[frame["run"] == run].sort_values("alpha", ascending=False)
        share, loss = 1 - path["alpha"].to_numpy(float), path["loss"].to_numpy(float)
        ends = [(0.0, loss[0], look[reference]), (1.0, loss[-1], look[run])]
        ax.plot([0, 1], [loss[0], loss[-1]], color=drawing.GREY, linestyle="--", linewidth=0.9)
        ax.plot(share, loss, color=look[run].colour, linewidth=1.5, marker=".", markersize=4)
        for x, y, style in ends:
            ax.plot(x, y, style.marker, color=style.colour, markersize=6, clip_on=False, zorder=3)
        ax.set_title(drawing.label(run))
        ax.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        ax.yaxis.set_major_locator(MaxNLocator(5))
    figure.supxlabel(f"share of the run's update (0: {drawing.label(reference)})", fontsize=9)
    figure.supylabel("loss (nats per token)", fontsize=9)
    title = f"Loss of the boxed answer from {drawing.label(reference)} to each run"
    n = drawing.span(frame["n"])
    drawing.title(figure, f"{title} (n = {n} problems); dashed: straight line between the ends")
    drawing.note_undefined(figure, frame, "loss", "points")
    return figure


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
    from deltageom.display.against import against
    from deltageom.display.by_layer import order_of
    from deltageom.display.markdown import cell, markdown, readable, values
    from deltageom.text import escape

    reference, found = study["measures"]["compare_with"], tables["barriers"]
    n, benchmark = values(found["n"]), escape(study["measures"]["connectivity"]["benchmark"])
    names = {"loss a": f"loss of {reference}", "loss b": "loss of run", "worst alpha": "share of the run"}
    names |= {"mean of ends": "above mean of ends", "chord": "above chord", "chord low": "low", "chord high": "high"}
    shown = against(found, reference, order_of(tables)).drop(columns="uniform")
    shown["worst_alpha"] = 1 - shown["worst_alpha"]
    parts = [
        f"Loss (nats per token) of the gold boxed answer on the first {n} problems of {benchmark}, along the "
        f"straight path from {escape(reference)}'s update to each run's. Barriers: the highest loss above the chord "
        "between the ends, with its 95 % bootstrap interval over problems and the share of the run's update there; "
        "and above the mean of the ends, which is half their difference where the path only rises.",
        markdown(readable(shown).rename(columns=names)),
    ]
    if found["chord"].notna().any():
        ends, uniform = found[["loss_a", "loss_b"]].stack(), found["uniform"].max()
        if ends.min() > uniform:
            parts.append(
                f"Every run's loss here is above {cell(uniform)} nats per token, which a model that guesses all tokens "
                "alike has: no run expects a boxed answer right after the prompt, and these are paths between losses "
                "of something that none of them does."
            )
        worst = found.sort_values("chord", ascending=False, kind="stable").iloc[0]
        parts.append(
            f"Highest barrier above the chord, of all {len(found)} pairs: {cell(worst['chord'])}, between "
            f"{escape(worst['a'])} and {escape(worst['b'])}."
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
            "Loss of the gold boxed answer along the straight path between two runs' updates.", paths, details
        )
    },
    inputs=("base", "a", "problems"),
    settings=ConnectivitySettings,
    numbers={"barriers": lambda table: table.melt(["a", "b"], ["chord", "mean_of_ends"], "measure")},
)
