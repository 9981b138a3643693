"""What training does to the hidden states: how far each run has moved them from the base's, and which way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltageom.measures.interface import Drawing, Measure, Row, one_per_run, read_rows
from deltageom.measures.shared.settings import RepresentationSettings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deltageom.measures.interface import Study, Tables

OF_RUN = ["run", "layer", "cka", "cka_low", "cka_high", "procrustes", "shift", "n"]
OF_PAIR = ["a", "b", "layer", "shift_cosine", "shift_cosine_se", "procrustes", "n", "unmoved"]


def rows(settings: RepresentationSettings, inputs: Mapping[str, Path], runs: Mapping[str, Path]) -> list[Row]:
    """Those of `representations.compare`. inputs: base and a, their hidden states; runs: those of the runs after a."""
    from deltageom.measures.shared import representations

    wanted = settings.representations
    return list(representations.compare(inputs["base"], inputs["a"], runs, wanted.resamples, wanted.seed))


def build(results: Path, runs: Sequence[str]) -> dict[str, pd.DataFrame]:
    """representations: a row per (run, layer), against the base; representations_pairs: a row per (pair, layer)."""
    import pandas as pd

    from deltageom.display.columns import typed

    found = {run: read_rows(results / "representations" / f"{run}.csv") for run in runs}
    own = pd.concat([rows[rows["b"].isna()].assign(run=run) for run, rows in found.items()])
    pairs = pd.concat([rows[rows["b"].notna()].assign(a=run) for run, rows in sorted(found.items())])
    return {
        "representations": typed(own[OF_RUN]).reset_index(drop=True),
        "representations_pairs": typed(pairs[OF_PAIR]).reset_index(drop=True),
    }


def by_layer(tables: Tables, reference: str) -> Figure:
    """Left, CKA with the base and its interval; right, the mean cosine of the shift with the reference's."""
    from deltageom.display import drawing
    from deltageom.display.against import against
    from deltageom.display.by_layer import look_of, order_of

    own, look = tables["representations"], look_of(tables)
    with_reference = against(tables["representations_pairs"], reference, order_of(tables))
    figure, axes = drawing.panels(2, 2, 3.0, 2.8, legend=1.6, sharey=False)
    for run, found in own.groupby("run", sort=False):
        _line(axes[0], found, "cka", ("cka_low", "cka_high"), look[str(run)])
    cosines = with_reference.assign(
        low=with_reference["shift_cosine"] - with_reference["shift_cosine_se"],
        high=with_reference["shift_cosine"] + with_reference["shift_cosine_se"],
    )
    for run, found in cosines.groupby("run", sort=False):
        _line(axes[1], found, "shift_cosine", ("low", "high"), look[str(run)])
    axes[0].set_title("debiased CKA with the base")
    axes[1].set_title(f"mean cosine of the shift\nwith {drawing.label(reference)}'s")
    figure.supxlabel("layer", fontsize=9)
    drawing.legend(figure, list(own["run"].unique()), look)
    title = f"Hidden states of {drawing.span(own['n'])} prompts by layer; bars: 95 % interval (left)"
    drawing.title(figure, f"{title}, standard error (right)")
    drawing.note_undefined(figure, own, "cka", "CKA values")
    drawing.note_undefined(figure, cosines, "shift_cosine", "cosines")
    return figure


def _line(ax: Axes, found: pd.DataFrame, value: str, ends: tuple[str, str], look: Any) -> None:
    """A run's values over layers with a bar from end to end; a layer without a value is a gap."""
    from matplotlib.ticker import MaxNLocator

    from deltageom.display import drawing

    by_layer = found.set_index("layer").astype(dict.fromkeys((value, *ends), float))
    drawing.layer_line(ax, by_layer.index.to_numpy(float), by_layer[value].to_numpy(float), look, "-")
    ax.vlines(by_layer.index.to_numpy(float), by_layer[ends[0]], by_layer[ends[1]], color=look.colour, linewidth=0.8)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))


def details(study: Study, tables: Tables) -> str:
    from deltageom.display.markdown import values
    from deltageom.text import escape

    return f"Right, with {escape(study['measures']['compare_with'])}; n = {values(tables['representations']['n'])}."


def text(study: Study, tables: Tables) -> str:
    from deltageom.display.against import against
    from deltageom.display.by_layer import order_of
    from deltageom.display.markdown import markdown, values
    from deltageom.text import escape

    reference, wanted = study["measures"]["compare_with"], study["measures"]["cka"]
    own = tables["representations"]
    pairs = against(tables["representations_pairs"], reference, order_of(tables))
    parts = [
        f"Hidden states on the first {values(own['n'])} prompts of {escape(wanted['benchmark'])} (pooling: "
        f"{wanted['pooling']}), each run's against the base's: debiased linear CKA with a 95 % interval over prompts, "
        "Procrustes distance (0: equal up to a rotation and a scale; with fewer prompts than dimensions it is small "
        "for unrelated states too) and the length of the shift per spread of the base's states, at the last layer, "
        f"{own['layer'].max()}; and the layer with the lowest CKA.",
        markdown(_last_and_lowest(own)),
    ]
    if not pairs.empty:
        parts += [
            f"The shift of each run from the base beside that of {escape(reference)} on the same prompts: the mean "
            "cosine with its standard error over prompts at the last layer, the lowest and the highest mean of any "
            "layer, and the Procrustes distance of the two runs at the last layer.",
            markdown(_shifts(pairs)),
        ]
    still = tables["representations_pairs"]["unmoved"].sum()
    if still:
        parts.append(
            f"Left out are {still} cosines of a pair on one prompt in one layer, because one of the two shifts is 0."
        )
    return "\n\n".join(parts)


def _last_and_lowest(own: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    table: list[Row] = []
    for run, layers in own.groupby("run", sort=False):
        cka, last = layers.set_index("layer")["cka"].astype(float), layers.sort_values("layer").iloc[-1]
        lowest = cka.idxmin() if cka.notna().any() else None
        table.append(
            {"run": run, "CKA": last["cka"], "from": last["cka_low"], "to": last["cka_high"]}
            | {"Procrustes": last["procrustes"], "shift": last["shift"], "lowest CKA": cka.min(), "at layer": lowest}
        )
    return pd.DataFrame(table)


def _shifts(pairs: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    table: list[Row] = []
    for run, layers in pairs.groupby("run", sort=False):
        last, cosine = layers.sort_values("layer").iloc[-1], layers["shift_cosine"].astype(float)
        table.append(
            {"run": run, "cosine": last["shift_cosine"], "standard error": last["shift_cosine_se"]}
            | {"lowest": cosine.min(), "highest": cosine.max(), "Procrustes": last["procrustes"]}
        )
    return pd.DataFrame(table)


def of_runs(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(columns={"run": "a"}).melt(["a", "layer"], ["cka", "procrustes"], "measure")


def of_pairs(table: pd.DataFrame) -> pd.DataFrame:
    return table.melt(["a", "b", "layer"], ["shift_cosine"], "measure")


MEASURE = Measure(
    title="Hidden states and the base",
    records=one_per_run("representations"),
    rows=rows,
    build=build,
    tables={
        "representations": "Each run's hidden states against the base's, layer by layer: debiased linear CKA with its "
        "95 % interval over prompts, Procrustes distance, and the length of the shift per spread of the base's states.",
        "representations_pairs": "Of every two runs, layer by layer: the mean over prompts of the cosine of their "
        "shifts from the base, and the Procrustes distance of their hidden states.",
    },
    text=text,
    figures={
        "representations": Drawing(
            "Debiased linear CKA of each run's hidden states with the base's (left), and the mean cosine of the run's "
            "shift from the base with that of the run that the others are compared with (right), layer by layer.",
            by_layer,
            details,
        )
    },
    inputs=("base", "a"),
    settings=RepresentationSettings,
    numbers={"representations": of_runs, "representations_pairs": of_pairs},
    # the base's hidden states; a run's are among the jobs of `cka`, which has none where there is a single run
    others=lambda runs: [f"hidden_states/{model}" for model in ("base", *(runs if len(runs) == 1 else []))],
)
