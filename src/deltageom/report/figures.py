"""The figures of a study, drawn from its tables alone. Undefined values are gaps with a note, never zeros.

Every function takes the tables by name (see tables.py) and returns a matplotlib Figure; the runs keep the
order of the table `training`, and their colours are palette.py's. `reference` is the run that the others are
compared with.
"""

from collections.abc import Callable, Collection, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deltageom.display import drawing
from deltageom.display.against import against
from deltageom.display.by_layer import by_layer, look_of, order_of
from deltageom.display.columns import MATRIX_KEY
from deltageom.display.drawing import GREY
from deltageom.display.heatmap import heatmap
from deltageom.display.palette import Look
from deltageom.measures import interface as measures
from deltageom.report import paper
from deltageom.report.tables.geometry import chance_mean, count_modules, of_measure, of_pairs

Tables = Mapping[str, pd.DataFrame]

CURVES = {  # metric: title of its panel
    "loss": "loss (of different methods:\ndifferent quantities)",
    "grad_norm": "gradient norm before clipping\n(the loss's unit)",
    "delta_norm": "norm of the delta\n(Frobenius, in weights)",
    "kl_to_base": "KL(base || run)\n(nats per token)",
    "reward": "mean reward of the step's own\nsamples (0 to 1; online runs)",
    "weight_share_correct": "share of |d loss / d log-prob|\non correct rows (0 to 1)",
}
# each batch has its own: the others are of the model alone
SMOOTHED = ("loss", "grad_norm", "reward", "weight_share_correct")
FIGURES: dict[str, Callable[[Tables, str], Figure]] = {}  # by name, in the order of the summary; then the measures'


def _figure_of_study(draw: Callable[[Tables, str], Figure]) -> Callable[[Tables, str], Figure]:
    """Styled, and listed in FIGURES."""
    FIGURES[draw.__name__] = drawing.styled(draw)
    return FIGURES[draw.__name__]


def every_figure(tables: Collection[str] | None = None) -> dict[str, Callable[[Tables, str], Figure]]:
    """FIGURES and those of the measures, by name; given the names of tables, of the measures that have theirs there."""
    shown = [one for one in measures.load_all().values() if tables is None or set(one.tables) <= set(tables)]
    own = {name: one.draw for measure in shown for name, one in measure.figures.items()}
    return FIGURES | {name: drawing.styled(draw) for name, draw in own.items()}


@_figure_of_study
def training_curves(tables: Tables, _reference: str) -> Figure:
    """Metrics of every run over its optimiser steps, a panel per metric; those of a batch with their running mean."""
    table, look = tables["training_curves"], look_of(tables)
    table = table[table["metric"].isin(list(CURVES))]
    shown = [metric for metric in CURVES if table.loc[table["metric"] == metric, "value"].notna().any()]
    if not shown:
        return drawing.nothing("No training metrics.")
    figure, axes = drawing.panels(len(shown), 3, 2.7, 2.3, legend=1.6, sharey=False)
    steps = table.groupby("run")["step"].max()
    for ax, metric in zip(axes, shown, strict=True):
        for run, rows in table[table["metric"] == metric].groupby("run", sort=False):
            values, style = rows.set_index("step")["value"].astype(float), look[str(run)]
            if metric == "kl_to_base":
                drawing.measured(ax, values, style)
            else:
                window = max(1, steps[run] // 25) if metric in SMOOTHED else 0
                drawing.step_line(ax, values.reindex(range(1, steps[run] + 1)), style, window)
        ax.set_title(CURVES[metric])
        if metric == "grad_norm":
            drawing.log_y(ax)
        if metric in ("reward", "weight_share_correct"):
            ax.set_ylim(-0.03, 1.03)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    figure.supxlabel("optimiser step", fontsize=9)
    drawing.legend(figure, list(table["run"].unique()), look)
    drawing.title(figure, "Training. Pale: each batch; bold: its running mean over 1/25 of the run's steps")
    drawing.note_undefined(figure, table, "value", "values")
    return figure


@_figure_of_study
def accuracy(tables: Tables, _reference: str) -> Figure:
    """Accuracy of every model with its 95 % interval, a panel per benchmark; base as line and band."""
    table, look = tables["accuracy"], look_of(tables)
    models, benchmarks = list(table["model"].unique()), list(table["benchmark"].unique())
    figure = drawing.blank(1.6 + 3.0 * len(benchmarks), 1.45 + 0.26 * len(models))
    axes = figure.subplots(1, len(benchmarks), sharey=True, squeeze=False)[0]
    for ax, benchmark in zip(axes, benchmarks, strict=True):
        rows = table[table["benchmark"] == benchmark].set_index("model")
        if "base" in rows.index:
            low, high = rows.loc["base", ["low", "high"]].astype(float)
            if np.isfinite(low):
                ax.axvspan(low, high, color="#F3F3F3", zorder=0)
            ax.axvline(rows.loc["base", "accuracy"], color=GREY, linestyle="--", linewidth=1, zorder=1)
        for position, model in enumerate(models):
            if model in rows.index:
                row, style = rows.loc[model], look[model]
                ax.hlines(position, row["low"], row["high"], color=style.colour, linewidth=1.6)
                ax.plot(row["accuracy"], position, style.marker, color=style.colour, markersize=5.5)
        ax.set_title(f"{drawing.label(benchmark)} (n = {drawing.span(rows['n'])})\n{_protocol(rows)}")
        ax.set_xlabel("accuracy")
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(models)), [drawing.label(model) for model in models])
    axes[0].set_ylim(len(models) - 0.5, -0.5)
    drawing.title(figure, "Accuracy with 95 % interval; dashed line and band: base")
    drawing.note_undefined(figure, table.rename(columns={"model": "run"}), "low", "intervals")
    return figure


def _protocol(rows: pd.DataFrame) -> str:
    """What a benchmark's accuracy is, and which its interval: `pass@1, Wilson`."""
    k = drawing.span(rows["samples"])
    return f"{'pass@1' if k == '1' else f'avg@{k}'}, {', '.join(rows['interval'].unique())}"


@_figure_of_study
def cosine_heatmap(tables: Tables, _reference: str) -> Figure:
    """Cosine between the weight updates of every two runs, all modules stacked."""
    square = tables["cosine_matrix"].set_index(MATRIX_KEY)
    if "replicates" in tables:
        rows = tables["replicates"].query("source == 'geometry_global' and measure == 'cosine'")
        for a, b, mean in rows[["a", "b", "mean"]].itertuples(index=False):
            square.loc[a, b] = square.loc[b, a] = mean
    title = f"Cosine between weight updates, all {count_modules(tables)} modules stacked{_draws(tables)}"
    return heatmap(square, title)


@_figure_of_study
def cosine_by_layer(tables: Tables, reference: str) -> Figure:
    """Cosine of each run's update with the reference's, a layer's modules stacked."""
    table = tables["geometry_layer"]
    if "replicates" in tables:
        means = tables["replicates"].query("source == 'geometry_layer' and measure == 'cosine'")
        keys = ["a", "b", "layer", "measure"]
        table = table.merge(means[[*keys, "mean"]], "left", keys)
        table["value"] = table["mean"].fillna(table["value"])
        table = table.drop(columns="mean")
    frame = against(of_pairs(table), reference, order_of(tables))
    title = f"Cosine with {drawing.label(reference)} by layer, the modules of a layer stacked{_draws(tables)}"
    return by_layer(tables, [(frame, "-")], "cosine", "cosine", title)


@_figure_of_study
def orthogonal_fraction_by_layer(tables: Tables, reference: str) -> Figure:
    """Share of each run's update that is orthogonal to the reference's, a layer's modules stacked."""
    frame = against(of_pairs(tables["geometry_layer"]), reference, order_of(tables))
    title = f"Part of each update orthogonal to {drawing.label(reference)}'s by layer, "
    title += "the modules of a layer stacked"
    return by_layer(tables, [(frame, "-")], "orthogonal_fraction_stacked", "|dW − Proj dW| / |dW|", title)


@_figure_of_study
def principal_angles(tables: Tables, reference: str) -> Figure:
    """Smallest and largest principal angle with the reference: median, quartiles, range over the modules."""
    frame, look = against(of_pairs(tables["geometry_module"]), reference, order_of(tables)), look_of(tables)
    runs = list(frame["run"].unique())
    if not runs:
        return drawing.nothing()
    chance = {
        measure: _chance_angles(tables, reference, measure)
        for measure in (f"{side}_{which}_median" for side in ("left", "right") for which in ("smallest", "largest"))
    }
    figure = drawing.blank(7.6, 1.5 + 0.36 * len(runs))
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for ax, side, meaning in zip(axes, ("left", "right"), ("output", "input"), strict=True):
        for position, run in enumerate(runs):
            rows, style = frame[frame["run"] == run], look[run]
            for which, at in (("smallest", position - 0.17), ("largest", position + 0.17)):
                drawing.spread(ax, rows[f"{side}_{which}"], at, style, filled=which == "smallest")
                drawing.mark(ax, chance[f"{side}_{which}_median"][run], at)
        ax.set_title(f"{side} ({meaning} side)")
        ax.set_xlabel("angle (degrees)")
        ax.set_xticks(range(0, 91, 15))
        ax.set_xlim(-2, 92)
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(runs)), [drawing.label(run) for run in runs])
    axes[0].set_ylim(len(runs) - 0.5, -0.5)
    count = frame["module"].nunique()
    k = drawing.span(frame.loc[frame["left_smallest"].notna(), "k"])
    title = f"Principal angles with {drawing.label(reference)}, top k = {k} singular directions"
    marks = f"Filled: smallest, hollow: largest; median, quartiles, range over {count} modules; | : chance"
    drawing.title(figure, f"{title}. {marks}")
    drawing.note_undefined(figure, frame, "left_smallest", "modules")
    return figure


def _draws(tables: Tables) -> str:
    """What a title says of numbers that are means over replicates."""
    if "replicates" not in tables:
        return ""
    return f"; mean of {drawing.span(tables['replicates']['n'])} replicates"


def _chance_angles(tables: Tables, reference: str, measure: str) -> dict[str, float]:
    """What chance gives each run with the reference: with random B and the runs' own A, else random subspaces."""
    rows = against(of_measure(tables["geometry_global"], measure), reference, order_of(tables))
    return dict(zip(rows["run"], chance_mean(rows), strict=True))


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
    if axes[0].collections and paper.beside(tables["training"], reference, "cosine"):
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


def _paper(ax: Axes, runs: list[str], training: pd.DataFrame, reference: str) -> None:
    for run, value in paper.beside(training, reference, "cosine").items():
        ax.plot(value, runs.index(run), "D", color=drawing.GREY, markerfacecolor="white", markersize=5, zorder=1)
