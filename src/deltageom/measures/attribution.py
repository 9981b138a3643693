"""Where an update acts: what a run's loss keeps of its fall with one part of the update alone, and without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deltageom.measures.interface import Drawing, Measure, Row, one_per_run, read_rows
from deltageom.measures.shared.settings import AttributionSettings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from deltageom.measures.interface import Study, Tables

RESAMPLES, SEED = 2000, 0  # of the bootstrap over problems
COLUMNS = ["run", "layer", "module_name", "alone", "alone_low", "alone_high", "lost", "lost_low", "lost_high"]
COLUMNS += ["norm_share", "loss_base", "loss_run", "n"]
VIEWS = {"alone": "brought by the part alone", "lost": "lost without the part", "norm_share": "of the squared norm"}


def rows(settings: AttributionSettings, inputs: Mapping[str, Path], runs: Mapping[str, Path]) -> list[Row]:  # noqa: ARG001
    """Those of `parts.losses_of_parts`, of what the run has answered correctly.

    inputs: base, a folder or hub id; run, the run's folder; answers, its graded ones.
    """
    from deltageom.measures.shared.losses import own_answers, parts
    from deltageom.models.load import load_tokenizer

    wanted, base = settings.attribution, str(inputs["base"])
    texts = own_answers.correct(load_tokenizer(base, settings.base), [inputs["answers"]], wanted.problems)
    if not texts:
        return []
    return list(parts.losses_of_parts(base, settings.base, settings.device, inputs["run"], texts, wanted.batch_size))


def build(results: Path, runs: Sequence[str]) -> dict[str, pd.DataFrame]:
    """attribution: a row per (run, layer) and per (run, kind of module); none for a run without a correct answer."""
    from deltageom.display.columns import frame

    table = [{"run": run, **row} for run in runs for row in _of_run(read_rows(results / "attribution" / f"{run}.csv"))]
    return {"attribution": frame(table, COLUMNS)}


def _of_run(measured: pd.DataFrame) -> list[Row]:
    from deltageom.measures.shared.losses.parts import resampled, shares

    if measured.empty or "way" not in measured:
        return []
    measured = measured.astype({"module": object}).fillna({"layer": -1, "module": ""})
    nll = measured.pivot_table(index=["layer", "module", "way"], columns="problem_id", values="nll", aggfunc="first")
    tokens = measured.drop_duplicates("problem_id").set_index("problem_id")["tokens"][nll.columns].to_numpy(float)
    place = {key: number for number, key in enumerate(nll.index)}
    ends = place[-1, "", "none"], place[-1, "", "all"]
    loss = nll.to_numpy(float).sum(1) / tokens.sum()
    draws = resampled(nll.to_numpy(float), tokens, RESAMPLES, SEED)
    norms = measured.groupby(["layer", "module"])["squared_norm"].first()
    table = []
    for layer, module in sorted(norms.index.drop((-1, "")), key=lambda place: (place[0] < 0, place)):
        row: Row = {"layer": int(layer) if layer >= 0 else None, "module_name": module or None}
        row |= {"norm_share": norms[layer, module] / norms[-1, ""], "n": len(tokens)}
        row |= {"loss_base": loss[ends[0]], "loss_run": loss[ends[1]]}
        chosen = [*ends, place[layer, module, "only"], place[layer, module, "without"]]
        found = shares(*loss[chosen])
        spread = shares(*draws[:, chosen].T)
        for name, value, values in zip(("alone", "lost"), found, spread, strict=True):
            row |= {name: float(value)} | dict(zip((f"{name}_low", f"{name}_high"), _interval(values), strict=True))
        table.append(row)
    return table


def _interval(values: object) -> tuple[float, float]:
    """95 %; (NaN, NaN) where a resample of the problems has no fall of the loss to take a share of."""
    import numpy as np

    low, high = np.quantile(np.asarray(values, dtype=float), [0.025, 0.975])
    return float(low), float(high)


def draw(tables: Tables, reference: str) -> Figure:  # noqa: ARG001
    """Runs by parts, layers first: a panel per column of `VIEWS`."""
    import numpy as np
    import seaborn as sns

    from deltageom.display import drawing

    found = tables["attribution"]
    if found.empty:
        return drawing.nothing()
    named = found.assign(part=_names(found))
    runs, parts = list(named["run"].unique()), list(named["part"].unique())
    figure, axes = drawing.panels(3, 1, 1.8 + 0.42 * len(parts), 0.7 + 0.28 * len(runs), sharey=False)
    for ax, (column, what) in zip(axes, VIEWS.items(), strict=True):
        values = named.pivot(index="run", columns="part", values=column).loc[runs, parts].to_numpy(float)
        sns.heatmap(
            values, ax=ax, vmin=-1, vmax=1, cmap="vlag", annot=len(parts) <= 16, fmt=".2f", annot_kws={"fontsize": 7},
            mask=np.isnan(values), xticklabels=parts, yticklabels=[drawing.label(run) for run in runs], linewidths=0.5,
            cbar_kws={"label": "share"},
        )  # fmt: skip
        ax.grid(visible=False)
        ax.set_title(f"share {what}")
        ax.tick_params(axis="x", rotation=45)
        ax.tick_params(axis="y", rotation=0)
    drawing.title(figure, f"Where the loss falls, by part of the update (n = {drawing.span(found['n'])} problems)")
    return figure


def _names(found: pd.DataFrame) -> list[str]:
    """A layer by its number, a kind of module by its last name."""
    return [
        f"layer {int(layer)}" if module is None or module != module else str(module).rpartition(".")[2]
        for layer, module in zip(found["layer"], found["module_name"], strict=True)
    ]


def details(study: Study, tables: Tables) -> str:
    from deltageom.display import drawing
    from deltageom.text import escape

    wanted = study["measures"]["attribution"]
    return f"n = {drawing.span(tables['attribution']['n'])} problems of {escape(wanted['benchmark'])}."


def text(study: Study, tables: Tables) -> str:
    from deltageom.display import drawing
    from deltageom.display.markdown import markdown
    from deltageom.text import escape

    found, benchmark = tables["attribution"], escape(study["measures"]["attribution"]["benchmark"])
    if found.empty:
        return f"No run has answered a problem of {benchmark} correctly: there is no text whose loss could be followed."
    named = found.assign(part=_names(found))
    shown = []
    for run, parts in named.groupby("run", sort=False):
        row: Row = {"run": run, "loss of the base": parts["loss_base"].iloc[0], "of the run": parts["loss_run"].iloc[0]}
        for column, what in (("alone", "most alone"), ("lost", "most lost without")):
            if parts[column].notna().any():
                top = parts.nlargest(1, column).iloc[0]
                row |= {what: f"{top['part']}: {_share(top, column)}"}
        shown.append(row)
    return "\n\n".join(
        [
            f"Loss (nats per token) of each run's own correct answers to {drawing.span(found['n'])} problems of "
            f"{benchmark}: of the base, of the run, and of the base with one layer, or one kind of module, of the "
            "run's update alone, or with all but it. Shares are of the fall from the base to the run, with 95 % "
            "bootstrap intervals over problems; they need not add up to 1.",
            markdown(_frame(shown)),
        ]
    )


def _share(row: pd.Series, column: str) -> str:
    from deltageom.display.markdown import cell

    return f"{cell(row[column])} ({cell(row[f'{column}_low'])} to {cell(row[f'{column}_high'])})"


def _frame(shown: list[Row]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(shown)


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    """A kind of module, which is not among what says which number one is, stands in the measure's name."""
    long = table.rename(columns={"run": "a"}).melt(["a", "layer", "module_name"], list(VIEWS), "measure")
    kind = long["module_name"].notna()
    long.loc[kind, "measure"] += "_" + long.loc[kind, "module_name"]
    return long.drop(columns="module_name")


MEASURE = Measure(
    title="Where an update acts",
    records=one_per_run("attribution"),
    rows=rows,
    build=build,
    tables={
        "attribution": "Of each run, by layer and by kind of module: what share of the fall of the loss of its own "
        "correct answers from the base to the run this part of the update brings alone, and what share is lost "
        "without it, with 95 % bootstrap intervals over problems, beside its share of the squared norm.",
    },
    text=text,
    figures={
        "attribution": Drawing(
            "Share of the fall of the loss from the base to the run that one part of the update brings alone (top), "
            "that is lost without it (middle), and its share of the squared norm (bottom).",
            draw,
            details,
        )
    },
    inputs=("base", "run", "answers"),
    settings=AttributionSettings,
    numbers={"attribution": numbers},
)
