"""What the figures share: style, sizes, panels, small print. Knows nothing of tables or methods."""

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from deltageom.display.palette import Look
from deltageom.files import whole_file

P = ParamSpec("P")

GREY = "#888888"
FAINT = "#D5D5D5"
STYLE: dict[str, object] = {
    **sns.axes_style("ticks", {"axes.grid": True, "grid.color": "#ECECEC"}),
    **sns.plotting_context("paper"),
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same picture on every machine
    "text.parse_math": False,  # a $ in a name is a $
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.formatter.useoffset": False,
    "figure.titlesize": 10,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType: publishers refuse type 3
    "svg.hashsalt": "deltageom",
}
# what would differ from one time to the next, by the kinds of files
UNDATED: dict[str, dict[str, None]] = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draws in the project's style, whatever the caller's."""

    @wraps(draw)
    def in_style(*arguments: P.args, **named: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):  # type: ignore[arg-type]
            return draw(*arguments, **named)

    return in_style


def save(figure: Figure, path: Path) -> None:
    """The same bytes every time. Raises KeyError for an ending that is none of UNDATED."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure.savefig(buffer, format=path.suffix[1:], dpi=160, metadata=UNDATED[path.suffix])
    with whole_file(path) as aside:
        aside.write_bytes(buffer.getvalue())


def layer_line(ax: Axes, layers: np.ndarray, values: np.ndarray, look: Look, dash: str) -> None:
    """values (layers,), broken where they are NaN."""
    ax.plot(layers, values, dash, color=look.colour, linewidth=1.2)
    if dash == "-":  # markers also show a value between two gaps
        ax.plot(layers, values, look.marker, color=look.colour, markersize=3.8 if layers.size <= 12 else 2.2)


def spread(ax: Axes, values: pd.Series, position: float, look: Look, filled: bool) -> None:
    """Median (marker), quartiles (thick) and range (thin) of the defined values, if there are any."""
    defined = values.dropna().to_numpy(float)
    if defined.size:
        low, q25, median, q75, high = np.percentile(defined, [0, 25, 50, 75, 100])
        ax.hlines(position, low, high, color=look.colour, linewidth=0.8)
        ax.hlines(position, q25, q75, color=look.colour, linewidth=3)
        face = look.colour if filled else "white"
        ax.plot(median, position, look.marker, color=look.colour, markerfacecolor=face, markersize=5.5, zorder=3)


def mark(ax: Axes, value: float, position: float) -> None:
    """A short upright line, for a level that a value is held against; none where it is missing."""
    if np.isfinite(value):
        ax.vlines(value, position - 0.15, position + 0.15, color=GREY, linewidth=1.2, zorder=2)


def step_line(ax: Axes, values: pd.Series, look: Look, window: int = 0) -> None:
    """values by step (steps,), broken where they are missing, with the run's marker at the last one.

    With a window, they are pale, under their running mean over the last `window` steps (fewer at the start).
    """
    shown = values.where(np.isfinite(values))
    if window:
        ax.plot(shown.index, shown, color=look.colour, linewidth=0.6, alpha=0.2, zorder=1)
        shown = shown.rolling(window, min_periods=1).mean().where(shown.notna())
    known = shown.notna()
    alone = known & ~known.shift(1, fill_value=False) & ~known.shift(-1, fill_value=False)
    marked = np.flatnonzero(alone | (known.index == known[known].index.max()))  # a line through one value is invisible
    ax.plot(
        shown.index, shown, color=look.colour, linewidth=1.3, marker=look.marker, markersize=3.5, markevery=list(marked)
    )


def measured(ax: Axes, values: pd.Series, look: Look) -> None:
    """values by step (measurements,): a marker each, joined by a thin line that breaks where one is not finite."""
    shown = values.where(np.isfinite(values))
    ax.plot(shown.index, shown, color=look.colour, linewidth=0.7, marker=look.marker, markersize=3.5)


def log_y(ax: Axes) -> None:
    """A log scale that leaves out what is not positive, with plain numbers for the style's text.parse_math."""
    ax.set_yscale("log", nonpositive="mask")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def panels(
    count: int, columns: int, width: float, height: float, legend: float = 0.0, sharey: bool = True
) -> tuple[Figure, list[Axes]]:
    """`count` panels of width x height inches in rows, with equal axes; `legend` inches stay free for one."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = blank(max(1.0 + width * columns + legend, 4.5), 1.3 + height * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=sharey, squeeze=False).ravel()
    for ax in grid[count:]:
        ax.set_visible(False)
    for ax in grid[max(count - columns, 0) : count]:
        ax.tick_params(labelbottom=True)  # the lowest of its column, also above an empty place
    return figure, list(grid[:count])


def blank(width: float, height: float) -> Figure:
    """An empty figure, inches; drawn by Agg whatever the machine's display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def nothing(text: str = "Nothing to compare with the reference.") -> Figure:
    figure = blank(4.5, 1.2)
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure


def legend(figure: Figure, runs: Sequence[str], look: Mapping[str, Look]) -> None:
    handles = [Line2D([], [], color=look[r].colour, marker=look[r].marker, markersize=4) for r in runs]
    columns = math.ceil(len(runs) * 0.19 / (figure.get_figheight() - 0.6))
    figure.legend(handles, [label(r) for r in runs], loc="outside right upper", fontsize=8, ncols=columns)


def title(figure: Figure, text: str) -> None:
    figure.suptitle(_wrapped(figure, text, 12.5), fontsize=9.5)


def note(figure: Figure, text: str) -> None:
    """Small print under everything else, where the layout keeps room for it."""
    above = figure.get_supxlabel()
    figure.supxlabel("\n".join(filter(None, [above, _wrapped(figure, text, 13)])), fontsize=8.5)


def note_undefined(figure: Figure, frame: pd.DataFrame, column: str, unit: str) -> None:
    """Say how many of each run's values are missing, if any are."""
    undefined = ~frame[column].map(math.isfinite).astype(bool)
    found = undefined.groupby(frame["run"], sort=False).agg(["sum", "size"])
    if not found["sum"].any():
        return
    counts = [f"{missing} of {size} {unit}" for missing, size in found.to_numpy()]
    if len(counts) > 1 and len(set(counts)) == 1:
        text = f"each run {counts[0]}"
    else:
        text = ", ".join(f"{label(run)} {c}" for run, c in zip(found.index, counts, strict=True) if c[0] != "0")
    note(figure, f"Undefined, left out: {text}.")


def _wrapped(figure: Figure, text: str, letters_per_inch: float) -> str:
    return textwrap.fill(text, int(figure.get_figwidth() * letters_per_inch), break_long_words=False)


def label(name: str) -> str:
    """A name short enough for a tick or a title; long ones lose their middle."""
    return name if len(name) <= 28 else f"{name[:17]}…{name[-10:]}"


def span(values: pd.Series) -> str:
    """`300`, or `30–300` where the values differ."""
    low, high = values.min(), values.max()
    return "–" if pd.isna(low) else f"{low:.0f}" if low == high else f"{low:.0f}–{high:.0f}"
