"""Along the training: the cosine of every two runs' updates, and of each run's with its own end, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deltageom.measures.interface import Drawing, Measure, Row, one_per_run, read_rows
from deltageom.measures.shared.settings import TrajectorySettings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deltageom.measures.interface import Study, Tables
    from deltageom.study.schema import Run

OF_RUN = ["run", "layer", "step", "norm", "cosine_to_end"]
OF_PAIR = ["a", "b", "layer", "step", "cosine", "norm_a", "norm_b"]


def takes(runs: Mapping[str, Run | None]) -> list[str]:
    return [name for name, run in runs.items() if run and run.training.snapshots]


def rows(settings: TrajectorySettings, inputs: Mapping[str, Path], runs: Mapping[str, Path]) -> list[Row]:
    """Those of `snapshots.follow`. inputs: a, a run's folder; runs: the folders of those after it."""
    from deltageom.measures.shared import snapshots

    return list(snapshots.follow(inputs["a"], runs, settings.snapshots))


def build(results: Path, runs: Sequence[str]) -> dict[str, pd.DataFrame]:
    return trajectories({run: read_rows(results / "trajectory" / f"{run}.csv") for run in runs})


def trajectories(followed: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """`trajectory`, a row per (run, layer, step), and `trajectory_pairs`, a row per (pair, layer, step).

    `followed` holds by run the rows of trajectory/<run>.csv. layer is missing where all modules are stacked.
    """
    import pandas as pd

    from deltageom.display.columns import typed

    alone = [rows[rows["b"].isna()].assign(run=run) for run, rows in followed.items()]
    pairs = [rows[rows["b"].notna()].assign(a=run) for run, rows in sorted(followed.items())]
    own = pd.concat(alone).rename(columns={"cosine": "cosine_to_end"})
    both = pd.concat(pairs).rename(columns={"norm": "norm_a"})
    return {
        "trajectory": typed(own[OF_RUN]).reset_index(drop=True),
        "trajectory_pairs": typed(both[OF_PAIR]).reset_index(drop=True),
    }


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Of either table those of all modules; a norm is of its run, not of each of its pairs too."""
    whole = table[table["layer"].isna()].rename(columns={"run": "a"})
    keys = [column for column in ("a", "b", "step") if column in whole]
    values = [column for column in ("norm", "cosine_to_end", "cosine") if column in whole]
    return whole.melt(keys, values, "measure")


def of_all_modules(tables: Tables, reference: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """run, step, cosine: with the reference at the same step, and with the run's own end."""
    from deltageom.display.against import against
    from deltageom.display.by_layer import order_of

    pairs, alone = tables["trajectory_pairs"], tables["trajectory"]
    with_reference = against(pairs[pairs["layer"].isna()], reference, order_of(tables))
    to_end = alone[alone["layer"].isna()].rename(columns={"cosine_to_end": "cosine"})
    return with_reference, to_end


def draw(tables: Tables, reference: str) -> Figure:
    """Left, the cosine with the reference at the same step; right, with the run's own end: a line per run."""
    from deltageom.display import drawing
    from deltageom.display.by_layer import look_of

    with_reference, to_end = of_all_modules(tables, reference)
    look, runs = look_of(tables), list(to_end["run"].unique())
    if with_reference.empty:
        return drawing.nothing()
    figure, axes = drawing.panels(2, 2, 3.0, 2.8, legend=1.6)
    parts = ((with_reference, f"with {drawing.label(reference)} at the same step"), (to_end, "with the run's own end"))
    for ax, (frame, what) in zip(axes, parts, strict=True):
        for run, line in frame.groupby("run", sort=False):
            drawing.measured(ax, line.set_index("step")["cosine"].astype(float), look[str(run)])
        ax.set_title(what)
        _steps(ax, sorted(to_end["step"].unique()))
    figure.supxlabel("optimiser step", fontsize=9)
    figure.supylabel("cosine", fontsize=9)
    drawing.legend(figure, runs, look)
    drawing.title(figure, "Cosine of the updates after each snapshot, all modules stacked")
    drawing.note_undefined(figure, to_end, "cosine", "snapshots")
    return figure


def _steps(ax: Axes, steps: Sequence[int]) -> None:
    """The snapshots' steps as ticks, at equal distances where each is twice the one before it."""
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log", base=2)
    ax.set_xticks(steps, [str(step) for step in steps])
    ax.xaxis.set_minor_locator(NullLocator())


def details(study: Study, tables: Tables) -> str:
    from deltageom.text import escape

    steps = ", ".join(str(step) for step in sorted(tables["trajectory"]["step"].unique()))
    return f"Left, with {escape(study['measures']['compare_with'])}; snapshots after steps {steps}."


def text(study: Study, tables: Tables) -> str:
    from deltageom.display.markdown import markdown
    from deltageom.text import escape

    reference = study["measures"]["compare_with"]
    with_reference, to_end = of_all_modules(tables, reference)
    first, last = to_end["step"].min(), to_end["step"].max()
    shown = to_end[["run"]].drop_duplicates().reset_index(drop=True)
    columns = ((with_reference, "cosine", "cosine"), (to_end, "cosine", "with its own end"), (to_end, "norm", "norm"))
    for frame, column, name in columns:
        for step in (first, last):
            at = frame[frame["step"] == step].set_index("run")[column]
            shown[f"{name}, step {step}"] = shown["run"].map(at).astype(float)
    said = (
        f"The updates at the first and at the last snapshot, after steps {first} and {last}, all modules stacked: the "
        f"cosine with {escape(reference)}'s update at the same step, the cosine with the run's own update at its end, "
        "and the Frobenius norm."
    )
    if to_end["cosine"].isna().any():
        said += " An update of norm 0, such as that after the first step of a warm-up, has no cosine."
    return said + "\n\n" + markdown(shown)


MEASURE = Measure(
    title="Along the training",
    records=one_per_run("trajectory"),
    rows=rows,
    build=build,
    tables={
        "trajectory": "Each run's update after each snapshot's step: its Frobenius norm and its cosine with the run's "
        "own update at the end, of each layer and of all modules stacked (no layer).",
        "trajectory_pairs": "Cosine of every two runs' updates after the same step, of each layer and of all modules "
        "stacked (no layer), and their Frobenius norms.",
    },
    text=text,
    figures={
        "trajectory": Drawing(
            "Cosine of each run's update with that of the run that the others are compared with at the same step "
            "(left), and with the run's own update at its end (right), all modules stacked into one vector.",
            draw,
            details,
        )
    },
    inputs=("a",),
    settings=TrajectorySettings,
    numbers={"trajectory": numbers, "trajectory_pairs": numbers},
    takes=takes,
)
