"""The figure over replicates: every run's cosine with the reference, and its accuracy, with spread and interval."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deltageom.display import drawing
from deltageom.display.against import against
from deltageom.display.by_layer import look_of, order_of
from deltageom.display.palette import Look
from deltageom.report.paper import AGAINST_SFT

Tables = Mapping[str, pd.DataFrame]


@drawing.styled
def replicates(tables: Tables, reference: str) -> Figure:
    """A panel for the cosine with the reference, hollow diamonds the paper's, and one for each benchmark's accuracy."""
    table, look = tables["replicates"], look_of(tables)
    scores = table[table["source"] == "accuracy"]
    benchmarks = list(scores["benchmark"].unique())
    cosines = table[(table["source"] == "geometry_global") & (table["measure"] == "cosine")]
    cosines = against(cosines, reference, order_of(tables))
    runs = ["base", *order_of(tables)]
    figure = drawing.blank(3.2 + 2.6 * len(benchmarks), 1.5 + 0.28 * len(runs))
    axes = figure.subplots(1, 1 + len(benchmarks), sharey=True, squeeze=False)[0]
    _spreads(axes[0], runs, cosines.set_index("run"), look)
    _paper(axes[0], runs, tables["training"], reference)
    axes[0].set_xlabel(f"cosine with {drawing.label(reference)}")
    for ax, benchmark in zip(axes[1:], benchmarks, strict=True):
        _spreads(ax, runs, scores[scores["benchmark"] == benchmark].set_index("a"), look)
        ax.set_xlabel(f"accuracy on {drawing.label(str(benchmark))}")
    axes[0].set_yticks(range(len(runs)), [drawing.label(run) for run in runs])
    axes[0].set_ylim(len(runs) - 0.5, -0.5)
    n = drawing.span(cosines["n"]) if len(cosines) else drawing.span(scores["n"])
    drawing.title(figure, f"Over {n} replicates: mean, range (thick) and 95 % t interval (thin)")
    if axes[0].collections and _of_paper(tables["training"], reference):
        drawing.note(figure, "Hollow diamonds: arXiv 2606.23740 (Qwen3-4B, one seed), of the same loss.")
    return figure


def _spreads(ax: Axes, runs: list[str], rows: pd.DataFrame, look: Mapping[str, Look]) -> None:
    for position, run in enumerate(runs):
        if run not in rows.index:
            continue
        row, style = rows.loc[run], look[run]
        if np.isfinite(row["low"]):
            ax.hlines(position, row["low"], row["high"], color=style.colour, linewidth=0.9)
        ax.hlines(position, row["smallest"], row["largest"], color=style.colour, linewidth=3.2, alpha=0.6)
        ax.plot(row["mean"], position, style.marker, color=style.colour, markersize=5.5)
    ax.grid(axis="y", visible=False)


def _of_paper(training: pd.DataFrame, reference: str) -> dict[str, float]:
    methods = dict(zip(training["run"], training["method"], strict=True))
    if methods.get(reference) != "sft":
        return {}
    first = training.drop_duplicates("method")
    values = AGAINST_SFT["cosine"]
    return {run: values[methods[run]] for run in first["run"] if methods[run] in values}


def _paper(ax: Axes, runs: list[str], training: pd.DataFrame, reference: str) -> None:
    for run, value in _of_paper(training, reference).items():
        ax.plot(value, runs.index(run), "D", color=drawing.GREY, markerfacecolor="white", markersize=5, zorder=1)
