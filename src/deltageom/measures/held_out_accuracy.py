"""Accuracy between two updates: what models on the straight path answer, graded as evaluations are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deltageom.measures.interface import Drawing, Measure, Row, one_per_run, read_rows
from deltageom.measures.shared.settings import HeldOutAccuracySettings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from deltageom.measures.interface import Study, Tables


def rows(settings: HeldOutAccuracySettings, inputs: Mapping[str, Path], runs: Mapping[str, Path]) -> list[Row]:
    """Those of `path_accuracy.correct_along_paths`, between a run and each of some others; none without another.

    inputs: base, a folder or hub id; a, the folder of the run that alpha weighs; problems, a jsonl file. runs: the
    folders of those that 1 - alpha weighs, beside the base where that is asked for.
    """
    from deltageom.measures.shared import path_accuracy
    from deltageom.problems.problem import read_problems

    wanted = settings.held_out_accuracy
    others = {**runs, **({"base": None} if wanted.from_base else {})}
    if not others:  # the last run, which all others before it have their path to
        return []
    problems = read_problems(inputs["problems"])[: wanted.problems]
    return path_accuracy.correct_along_paths(settings, str(inputs["base"]), inputs["a"], others, problems)


def build(results: Path, runs: Sequence[str]) -> dict[str, pd.DataFrame]:
    """A row per path and alpha; the intervals are Wilson's, as of every accuracy with one answer per problem."""
    from deltageom.display.columns import frame
    from deltageom.evaluation.statistics import wilson

    table = []
    for a in sorted(runs):
        found = read_rows(results / "held_out_accuracy" / f"{a}.csv")
        for (b, alpha), point in found.groupby(["b", "alpha"], sort=False) if len(found) else ():
            low, high = wilson(int(point["correct"].sum()), len(point))
            row = {"a": a, "b": b, "alpha": alpha, "n": len(point), "accuracy": point["correct"].mean()}
            table.append(row | {"low": low, "high": high})
    return {"held_out_accuracy": frame(table, ["a", "b", "alpha", "n", "accuracy", "low", "high"])}


def draw(tables: Tables, reference: str) -> Figure:
    """A panel per path from the reference, to another run or to the base."""
    from deltageom.display import drawing
    from deltageom.display.against import against
    from deltageom.display.by_layer import look_of, order_of

    found, look = against(tables["held_out_accuracy"], reference, order_of(tables)), look_of(tables)
    ends = list(found["run"].unique())
    if not ends:
        return drawing.nothing()
    figure, axes = drawing.panels(len(ends), 4, width=2.0, height=1.75)
    for ax, run in zip(axes, ends, strict=True):
        path = found[found["run"] == run].sort_values("alpha", ascending=False)
        share = 1 - path["alpha"].to_numpy(float)
        ax.vlines(share, path["low"].to_numpy(float), path["high"].to_numpy(float), color=drawing.GREY, linewidth=0.9)
        ax.plot(share, path["accuracy"].to_numpy(float), look[run].marker + "-", color=look[run].colour, markersize=4)
        ax.set_title(drawing.label(run))
        ax.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    figure.supxlabel(f"share of the other (0: {drawing.label(reference)})", fontsize=9)
    figure.supylabel("accuracy", fontsize=9)
    n = drawing.span(found["n"])
    drawing.title(figure, f"Accuracy on the path from {drawing.label(reference)} to each (n = {n} problems)")
    return figure


def details(study: Study, tables: Tables) -> str:
    from deltageom.display import drawing
    from deltageom.text import escape

    n = drawing.span(tables["held_out_accuracy"]["n"])
    return (
        f"n = {n} problems of {escape(study['measures']['held_out_paths']['benchmark'])}, greedy; Wilson's intervals."
    )


def text(study: Study, tables: Tables) -> str:
    from deltageom.display import drawing
    from deltageom.display.against import against
    from deltageom.display.by_layer import order_of
    from deltageom.display.markdown import cell, markdown
    from deltageom.text import escape

    reference, found = study["measures"]["compare_with"], tables["held_out_accuracy"]
    if found.empty:
        return "There is one run, so no path between two."
    turned = against(found, reference, order_of(tables))
    turned["share"] = (1 - turned["alpha"]).round(9)
    shown = turned.pivot(index="run", columns="share", values="accuracy").reindex(turned["run"].unique())
    worst = found.sort_values("accuracy", kind="stable").iloc[0]
    return "\n\n".join(
        [
            f"Accuracy on {drawing.span(found['n'])} problems of "
            f"{escape(study['measures']['held_out_paths']['benchmark'])} along the straight path from "
            f"{escape(reference)}'s update to each other's, by the share of the other; to base: to no update. Answers "
            "are greedy, by transformers; the table held_out_accuracy has the intervals (Wilson).",
            markdown(shown.rename(columns="{:g}".format).rename_axis("to").reset_index()),
            f"Lowest accuracy of all {len(found)} points: {cell(worst['accuracy'])} ({cell(worst['low'])} to "
            f"{cell(worst['high'])}), on the path of {escape(worst['a'])} and {escape(worst['b'])} at alpha "
            f"{cell(worst['alpha'])}.",
        ]
    )


def _numbers(table: pd.DataFrame) -> pd.DataFrame:
    measure = [f"accuracy at {alpha}" for alpha in table["alpha"]]
    return table[["a", "b"]].assign(measure=measure, value=table["accuracy"])


MEASURE = Measure(
    title="Accuracy between updates",
    records=one_per_run("held_out_accuracy"),
    rows=rows,
    build=build,
    tables={
        "held_out_accuracy": "Accuracy of the model at chosen points of the straight path between two updates, with "
        "95 % intervals (Wilson)."
    },
    text=text,
    figures={"held_out_accuracy": Drawing("Accuracy along the straight path between two updates.", draw, details)},
    inputs=("base", "a", "problems"),
    settings=HeldOutAccuracySettings,
    numbers={"held_out_accuracy": _numbers},
    option=("held_out_paths", "accuracy"),
)
