"""Before training: the gradients of the runs' losses at the base, beside the cosines of the trained updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deltageom.fields import Section
from deltageom.measures.interface import Drawing, Measure, Row, one_per_run, read_rows
from deltageom.study.checks.online import has_base_gradient

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from deltageom.measures.interface import Study, Tables

OF_RUN = ["norm", "gradient_norm", "gradient_delta", "sign_delta"]
OF_PAIR = ["gradient", "sign", "delta"]


def rows(_settings: Section, inputs: Mapping[str, Path], runs: Mapping[str, Path]) -> list[Row]:
    """Those of `first_steps.compare`. inputs: by run the folder of its gradient; runs: of its trained adapter."""
    from deltageom.measures.shared import first_steps

    return first_steps.compare(inputs, runs)


def build(results: Path, runs: Sequence[str]) -> dict[str, pd.DataFrame]:
    """gradients: a row per run, gradients_pairs: per pair; at each module, each layer (no module) and over all."""
    import pandas as pd

    from deltageom.display.columns import typed

    ordered = sorted(runs)
    found = pd.concat([read_rows(results / "gradients" / f"{run}.csv").assign(a=run) for run in ordered])
    found = found.reindex(columns=["a", "b", "layer", "module", *OF_RUN, *OF_PAIR])  # one run has no pair
    pairs = found[found["b"].notna()][["a", "b", "layer", "module", *OF_PAIR]]
    own = found[found["b"].isna()].rename(columns={"a": "run"})[["run", "layer", "module", *OF_RUN]]
    own = own.sort_values("run", key=lambda names: names.map(list(runs).index), kind="stable")
    return {
        "gradients": typed(own).reset_index(drop=True),
        "gradients_pairs": typed(pairs).reset_index(drop=True),
    }


def over_all(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with all modules stacked."""
    return table[table["layer"].isna() & table["module"].isna()].drop(columns=["layer", "module"])


def scatter(tables: Tables, reference: str) -> Figure:
    """Cosine of two runs' first steps against the cosine of their trained deltas, a point per pair."""
    from deltageom.display import drawing
    from deltageom.display.against import against
    from deltageom.display.by_layer import look_of, order_of

    pairs, look = over_all(tables["gradients_pairs"]), look_of(tables)
    others = pairs[(pairs["a"] != reference) & (pairs["b"] != reference)]
    shown = against(pairs, reference, order_of(tables))
    if shown.empty:
        return drawing.nothing()
    kinds = {"gradient": "of the gradients", "sign": "of AdamW's first steps"}
    figure, axes = drawing.panels(len(kinds), len(kinds), 2.9, 2.7, legend=1.6)
    for ax, (column, what) in zip(axes, kinds.items(), strict=True):
        ax.axline((0, 0), slope=1, color=drawing.GREY, linestyle="--", linewidth=0.9, zorder=1)
        ax.plot(others[column], others["delta"], "o", color=drawing.FAINT, markersize=3.5, zorder=2)
        for row in shown.to_dict("records"):
            style = look[row["run"]]
            ax.plot(row[column], row["delta"], style.marker, color=style.colour, markersize=6, zorder=3)
        ax.set_xlabel(f"cosine {what}")
    axes[0].set_ylabel("cosine of the trained updates")
    drawing.legend(figure, list(shown["run"]), look)
    title = f"Each run with {drawing.label(reference)}, before and after training; pale: all other pairs"
    drawing.title(figure, f"{title}; dashed: the same cosine")
    for column in ("delta", *kinds):
        drawing.note_undefined(figure, shown, column, f"cosines ({column})")
    return figure


def details(study: Study, _tables: Tables) -> str:
    from deltageom.text import escape

    reference = escape(study["measures"]["compare_with"])
    return f"With {reference}, gradients over {_batches(study)}; pale: pairs without {reference}."


def text(study: Study, tables: Tables) -> str:
    from deltageom.display.against import against
    from deltageom.display.by_layer import order_of
    from deltageom.display.markdown import cell, markdown
    from deltageom.text import escape

    reference = study["measures"]["compare_with"]
    pairs = over_all(tables["gradients_pairs"])
    names = {"gradient": "cosine of gradients", "sign": "of AdamW's first steps", "delta": "of trained updates"}
    own = {"norm": "norm of the step", "gradient_norm": "norm of dL/dB"}
    own |= {"gradient_delta": "cosine of step and trained update", "sign_delta": "of AdamW's first step and it"}
    parts = [
        f"The gradient of each run's own loss at the base, over {_batches(study)}: -scale dL/dB A, the step of "
        "gradient descent with learning rate 1, all modules stacked. AdamW's first step has g / (|g| + 1e-8) in place "
        "of the gradient g of B. Norms are those of each loss as it is scaled: they are not comparable between losses.",
        markdown(against(pairs, reference, order_of(tables)).rename(columns=names)),
        markdown(over_all(tables["gradients"]).rename(columns=own)),
    ]
    known = pairs.dropna()
    if len(known) > 5:
        ranks = known[OF_PAIR].rank().corr()["delta"]
        parts.append(
            f"Over the {len(known)} pairs, the rank correlation with the cosine of the trained updates is "
            f"{cell(ranks['gradient'])} for the gradients and {cell(ranks['sign'])} for AdamW's first steps. Pairs "
            "share runs, so this is a description and no test."
        )
    whole = [escape(name) for name, run in study["runs"].items() if run["training"]["adapter"] == "none"]
    if whole:
        parts.append(f"Left out, because they have no adapter whose A the others could share: {', '.join(whole)}.")
    return "\n\n".join(parts)


def _batches(study: Study) -> str:
    count = study["measures"]["gradients"]["batches"]
    return "its first global batch" if count == 1 else f"its first {count} global batches"


def of_runs(table: pd.DataFrame) -> pd.DataFrame:
    return over_all(table).rename(columns={"run": "a"}).melt(["a"], OF_RUN, "measure")


def of_pairs(table: pd.DataFrame) -> pd.DataFrame:
    return over_all(table).melt(["a", "b"], OF_PAIR, "measure")


MEASURE = Measure(
    title="Before training",
    records=one_per_run("gradients"),
    rows=rows,
    build=build,
    tables={
        "gradients": "The gradient of each run's loss at the base, in every module, layer and over all: its norm, and "
        "its cosine with the update that the run's training has made.",
        "gradients_pairs": "Cosines of every two runs' gradients at the base and of AdamW's first steps, beside the "
        "cosine of their trained updates, in every module, layer and over all.",
    },
    text=text,
    figures={
        "gradients": Drawing(
            "Cosine of two runs' gradients at the base against the cosine of their trained updates: on the dashed "
            "line, training has left it as it was.",
            scatter,
            details,
        )
    },
    # the gradients themselves, which no table reads
    others=lambda runs: [f"base_gradient/{run}" for run in runs],
    numbers={"gradients": of_runs, "gradients_pairs": of_pairs},
    takes=lambda runs: [name for name, run in runs.items() if run and has_base_gradient(run)],
)
