"""The figures of a study, drawn from its tables alone. Undefined values are gaps with a note, never zeros.

Every function takes the tables by name (see tables.py) and returns a matplotlib Figure; the runs keep the
order of the table `training`, and their colours are palette.py's. `reference` is the run that the others are
compared with.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deltageom import drawing
from deltageom.drawing import FAINT, GREY, STYLE
from deltageom.frames import MATRIX_KEY
from deltageom.geometry_tables import chance_mean, count_modules, of_measure, of_pairs
from deltageom.palette import Look, looks
from deltageom.records import whole_file
from deltageom.tables import against

Tables = Mapping[str, pd.DataFrame]

CURVES = {  # metric: title of its panel
    "loss": "loss (of different methods:\ndifferent quantities)",
    "grad_norm": "gradient norm before clipping\n(the loss's unit)",
    "delta_norm": "norm of the delta\n(Frobenius, in weights)",
    "kl_to_base": "KL(base || run)\n(nats a token)",
    "weight_share_correct": "share of |d loss / d log-prob|\non correct rows (0 to 1)",
}
SMOOTHED = ("loss", "grad_norm", "weight_share_correct")  # each batch has its own: the others are of the model alone
PANEL_RUNS = 8  # more lines than that in one panel cannot be told apart
FIGURES: dict[str, Callable[[Tables, str], Figure]] = {}  # by name, in the order of the summary


def _figure_of_study(draw: Callable[[Tables, str], Figure]) -> Callable[[Tables, str], Figure]:
    """Draw in the project's style, whatever the caller's, and list the function in FIGURES."""

    @wraps(draw)
    def styled(tables: Tables, reference: str) -> Figure:
        with mpl.rc_context(STYLE):  # type: ignore[arg-type]
            return draw(tables, reference)

    FIGURES[draw.__name__] = styled
    return styled


@_figure_of_study
def training_curves(tables: Tables, _reference: str) -> Figure:
    """Metrics of every run over its optimiser steps, a panel a metric; those of a batch with their running mean."""
    table, look = tables["training_curves"], _looks(tables)
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
        if metric == "weight_share_correct":
            ax.set_ylim(-0.03, 1.03)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    figure.supxlabel("optimiser step", fontsize=9)
    drawing.legend(figure, list(table["run"].unique()), look)
    drawing.title(figure, "Training. Pale: each batch; bold: its running mean over 1/25 of the run's steps")
    drawing.note_undefined(figure, table, "value", "values")
    return figure


@_figure_of_study
def accuracy(tables: Tables, _reference: str) -> Figure:
    """Accuracy of every model with its 95 % interval, a panel a benchmark; base as line and band."""
    table, look = tables["accuracy"], _looks(tables)
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
    names, n = [drawing.label(run) for run in square.index], len(square)
    cell = 0.56 if n <= 12 else 0.42
    figure = drawing.blank(3.1 + cell * n, 1.6 + cell * n)
    ax = figure.subplots()
    digits = 3 if n <= 12 else 2
    values = square.to_numpy(float)
    texts = [[_cosine(value, digits) for value in row] for row in values]
    sns.heatmap(
        np.where(np.isnan(values), 0.0, values), ax=ax, vmin=-1, vmax=1, cmap="vlag", square=True,
        annot=np.array(texts), fmt="", annot_kws={"fontsize": 7.5}, linewidths=0.5, mask=np.isnan(values),
        xticklabels=names, yticklabels=names, cbar_kws={"label": "cosine", "shrink": 0.7},
    )  # fmt: skip
    for text in ax.texts:
        text.set_in_layout(False)  # hundreds of them, all within the axes: the layout is much faster without
    ax.set_facecolor(FAINT)
    for row, column in np.argwhere(np.isnan(values)):  # seaborn leaves masked cells without their text
        ax.text(column + 0.5, row + 0.5, "–", ha="center", va="center", fontsize=7.5)
    ax.grid(visible=False)
    ax.tick_params(axis="x", rotation=45)
    for text in ax.get_xticklabels():
        text.set(ha="right", rotation_mode="anchor")
    ax.tick_params(axis="y", rotation=0)
    drawing.title(figure, f"Cosine between weight updates, all {count_modules(tables)} modules stacked")
    if np.isnan(values).any():
        drawing.note(figure, "– : undefined (an update of norm zero).")
    return figure


@_figure_of_study
def cosine_by_layer(tables: Tables, reference: str) -> Figure:
    """Cosine of each run's update with the reference's, a layer's modules stacked."""
    frame = against(of_pairs(tables["geometry_layer"]), reference, _order(tables))
    title = f"Cosine with {drawing.label(reference)} by layer, the modules of a layer stacked"
    return _by_layer(tables, [(frame, "-")], "cosine", "cosine", title)


@_figure_of_study
def orthogonal_fraction_by_layer(tables: Tables, reference: str) -> Figure:
    """Share of each run's update that is orthogonal to the reference's, a layer's modules stacked."""
    frame = against(of_pairs(tables["geometry_layer"]), reference, _order(tables))
    title = f"Part of each update orthogonal to {drawing.label(reference)}'s by layer, "
    title += "the modules of a layer stacked"
    return _by_layer(tables, [(frame, "-")], "orthogonal_fraction_stacked", "|dW − Proj dW| / |dW|", title)


@_figure_of_study
def cka_by_layer(tables: Tables, reference: str) -> Figure:
    """Linear CKA of each model's hidden states with the reference's: debiased solid, biased dashed."""
    frame = against(tables["cka"], reference, ["base", *_order(tables)])
    lines = [(frame[frame["estimator"] == kind], dash) for kind, dash in (("debiased", "-"), ("biased", "--"))]
    title = f"Linear CKA with {drawing.label(reference)} (n = {drawing.span(frame['n'])} prompts)"
    title += "; solid: debiased, dashed: biased"
    return _by_layer(tables, lines, "similarity", "CKA", title, "layer")


@_figure_of_study
def principal_angles(tables: Tables, reference: str) -> Figure:
    """Smallest and largest principal angle with the reference: median, quartiles, range over the modules."""
    frame, look = against(of_pairs(tables["geometry_module"]), reference, _order(tables)), _looks(tables)
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


def _chance_angles(tables: Tables, reference: str, measure: str) -> dict[str, float]:
    """What chance gives each run with the reference: with random B and the runs' own A, else random subspaces."""
    rows = against(of_measure(tables["geometry_global"], measure), reference, _order(tables))
    return dict(zip(rows["run"], chance_mean(rows), strict=True))


@_figure_of_study
def connectivity_paths(tables: Tables, reference: str) -> Figure:
    """Loss along the straight path from the reference's update to each other run's, a panel a run."""
    frame, look = against(tables["connectivity"], reference, _order(tables)), _looks(tables)
    runs = list(frame["run"].unique())
    if not runs:
        return drawing.nothing()
    columns = min(6, math.ceil(math.sqrt(1.5 * len(runs))))
    figure, axes = drawing.panels(len(runs), columns, width=2.0, height=1.75)
    for ax, run in zip(axes, runs, strict=True):
        path = frame[frame["run"] == run].sort_values("alpha", ascending=False)
        share, loss = 1 - path["alpha"].to_numpy(float), path["loss"].to_numpy(float)
        ends = [(0.0, loss[0], look[reference]), (1.0, loss[-1], look[run])]
        ax.plot([0, 1], [loss[0], loss[-1]], color=GREY, linestyle="--", linewidth=0.9)
        ax.plot(share, loss, color=look[run].colour, linewidth=1.5, marker=".", markersize=4)
        for x, y, style in ends:
            ax.plot(x, y, style.marker, color=style.colour, markersize=6, clip_on=False, zorder=3)
        ax.set_title(drawing.label(run))
        ax.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        ax.yaxis.set_major_locator(MaxNLocator(5))
    figure.supxlabel(f"share of the run's update (0: {drawing.label(reference)})", fontsize=9)
    figure.supylabel("loss (nats a token)", fontsize=9)
    title = f"Loss of the boxed answer from {drawing.label(reference)} to each run"
    n = drawing.span(frame["n"])
    drawing.title(figure, f"{title} (n = {n} problems); dashed: straight line between the ends")
    drawing.note_undefined(figure, frame, "loss", "points")
    return figure


def save(figure: Figure, folder: Path, name: str) -> None:
    """folder/name.svg and folder/name.png, the same bytes every time."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        for kind, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            with whole_file(folder / f"{name}.{kind}") as aside:
                buffer = io.BytesIO()
                figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
                aside.write_bytes(buffer.getvalue())


def _by_layer(
    tables: Tables,
    lines: Sequence[tuple[pd.DataFrame, str]],
    value: str,
    label: str,
    title: str,
    xlabel: str = "layer",
) -> Figure:
    """Lines over layers, one a run and (frame, dash); many runs take several panels, others faint."""
    frame, look = pd.concat([part for part, _ in lines]), _looks(tables)
    runs = list(frame["run"].unique())
    if not runs:
        return drawing.nothing()
    layers = np.arange(frame["layer"].min(), frame["layer"].max() + 1)
    groups = _groups(runs, tables)
    size = (5.6, 3.3) if len(groups) == 1 else (2.5, 2.1)
    figure, axes = drawing.panels(len(groups), 3, *size, legend=1.6)
    for ax, (method, group) in zip(axes, groups, strict=True):
        ax.set_title(method)
        for part, dash in lines:
            for run in dict.fromkeys(part["run"]):
                line = part[part["run"] == run].set_index("layer")[value].reindex(layers).to_numpy(float)
                if run in group:
                    drawing.layer_line(ax, layers, line, look[run], dash)
                elif dash == "-":
                    ax.plot(layers, line, color=FAINT, linewidth=0.7, zorder=1)
        ax.set_xlim(layers[0] - 0.04 * layers.size, layers[-1] + 0.04 * layers.size)  # a gap at an end shows
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel(label, fontsize=9)
    drawing.legend(figure, [run for _, group in groups for run in group], look)
    drawing.title(figure, title)
    drawing.note_undefined(figure, frame, value, "values")
    return figure


def _groups(runs: Sequence[str], tables: Tables) -> list[tuple[str, list[str]]]:
    """Titles and runs of the panels: one panel for few runs, else by method, at most PANEL_RUNS in each."""
    if len(runs) <= PANEL_RUNS:
        return [("", list(runs))]
    methods = _methods(tables)
    groups: dict[str, list[str]] = {}
    for run in runs:
        groups.setdefault(methods.get(run, run), []).append(run)  # base is its own
    return [
        (method, group[start : start + PANEL_RUNS])
        for method, group in groups.items()
        for start in range(0, len(group), PANEL_RUNS)
    ]


def _order(tables: Tables) -> list[str]:
    return list(tables["training"]["run"])


def _looks(tables: Tables) -> dict[str, Look]:
    return looks(_methods(tables))


def _methods(tables: Tables) -> dict[str, str]:
    return dict(zip(tables["training"]["run"], tables["training"]["method"], strict=True))


def _cosine(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return "–" if math.isnan(value) else text.replace("-", "−") if float(text) else text.lstrip("-")
