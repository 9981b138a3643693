"""Figures by layer, and the order and look of runs that every figure takes from the table `training`."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deltageom.display import drawing
from deltageom.display.drawing import FAINT
from deltageom.display.palette import Look, looks

Tables = Mapping[str, pd.DataFrame]

PANEL_RUNS = 8  # more lines than that in one panel cannot be told apart


def by_layer(
    tables: Tables,
    lines: Sequence[tuple[pd.DataFrame, str]],
    value: str,
    label: str,
    title: str,
    xlabel: str = "layer",
) -> Figure:
    """Lines over layers, one a run and (frame, dash); many runs take several panels, others faint."""
    frame, look = pd.concat([part for part, _ in lines]), look_of(tables)
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
    methods = methods_of(tables)
    groups: dict[str, list[str]] = {}
    for run in runs:
        groups.setdefault(methods.get(run, run), []).append(run)  # base is its own
    return [
        (method, group[start : start + PANEL_RUNS])
        for method, group in groups.items()
        for start in range(0, len(group), PANEL_RUNS)
    ]


def order_of(tables: Tables) -> list[str]:
    return list(tables["training"]["run"])


def look_of(tables: Tables) -> dict[str, Look]:
    return looks(methods_of(tables))


def methods_of(tables: Tables) -> dict[str, str]:
    return dict(zip(tables["training"]["run"], tables["training"]["method"], strict=True))
