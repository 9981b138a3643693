"""Linear CKA of the runs' hidden states on the same prompts, layer by layer, biased and debiased."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltageom.fields import Section
from deltageom.measures.interface import Drawing, Measure, Row, one_per_first_run, pairs

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from deltageom.measures.interface import Study, Tables

COLUMNS = ["a", "b", "layer", "estimator", "similarity", "n"]


def rows(_settings: Section, inputs: Mapping[str, Path], runs: Mapping[str, Path]) -> list[Row]:
    """Those of `linear_cka.compare`. inputs: a, a run's hidden states (safetensors); runs: those of the others."""
    from deltageom.measures.shared import linear_cka

    return list(linear_cka.compare(inputs["a"], runs))


def build(results: Path, runs: Sequence[str]) -> dict[str, pd.DataFrame]:
    return {"cka": cka(pairs(results / "cka", runs))}


def cka(similarities: Mapping[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """One row per (pair of models, layer, estimator). `similarities` holds the rows of each (a, b) in cka/<a>.csv."""
    import pandas as pd

    from deltageom.display.columns import typed

    frames = [frame.assign(a=a, b=b)[COLUMNS] for (a, b), frame in similarities.items()]
    return typed(pd.concat(frames) if frames else pd.DataFrame(columns=COLUMNS)).reset_index(drop=True)


def by_layer(tables: Tables, reference: str) -> Figure:
    """Linear CKA of each run's hidden states with the reference's: debiased solid, biased dashed."""
    from deltageom.display import drawing
    from deltageom.display.against import against
    from deltageom.display.by_layer import by_layer, order_of

    frame = against(tables["cka"], reference, ["base", *order_of(tables)])
    lines = [(frame[frame["estimator"] == kind], dash) for kind, dash in (("debiased", "-"), ("biased", "--"))]
    title = f"Linear CKA with {drawing.label(reference)} (n = {drawing.span(frame['n'])} prompts)"
    title += "; solid: debiased, dashed: biased"
    return by_layer(tables, lines, "similarity", "CKA", title, "layer")


def details(study: Study, tables: Tables) -> str:
    from deltageom.display.markdown import values
    from deltageom.text import escape

    wanted = study["measures"]["cka"]
    return (
        f"With {escape(study['measures']['compare_with'])}, n = {values(tables['cka']['n'])} prompts of "
        f"{escape(wanted['benchmark'])}, pooling {wanted['pooling']}; solid: debiased, dashed: biased."
    )


def text(study: Study, tables: Tables) -> str:
    import pandas as pd

    from deltageom.display.against import against
    from deltageom.display.by_layer import order_of
    from deltageom.display.markdown import markdown, values
    from deltageom.text import escape

    reference, wanted = study["measures"]["compare_with"], study["measures"]["cka"]
    frame = against(tables["cka"], reference, order_of(tables))
    table: list[dict[str, Any]] = []
    for run, layers in frame.groupby("run", sort=False):
        debiased, biased = (
            layers[layers["estimator"] == estimator].set_index("layer")["similarity"].astype(float)
            for estimator in ("debiased", "biased")
        )
        low = debiased.idxmin() if debiased.notna().any() else None
        last = layers["layer"].max()
        table.append(
            {"run": run, "last layer, debiased": debiased.get(last), "last layer, biased": biased.get(last)}
            | {"lowest, debiased": debiased.min(), "at layer": low}
        )
    columns = ["run", "last layer, debiased", "last layer, biased", "lowest, debiased", "at layer"]
    said = (
        f"Linear CKA with {escape(reference)} of the hidden states on the first {values(frame['n'])} prompts of "
        f"{escape(wanted['benchmark'])} (pooling: {wanted['pooling']}; from the output of layer 0 on). With fewer "
        "prompts than dimensions the biased estimator is inflated."
    )
    return said + "\n\n" + markdown(pd.DataFrame(table, columns=columns))


MEASURE = Measure(
    title="Hidden states",
    records=one_per_first_run("cka"),
    rows=rows,
    build=build,
    tables={
        "cka": "Linear CKA of every two runs' hidden states, layer by layer, biased and debiased. With fewer prompts "
        "than dimensions the biased estimator is inflated."
    },
    text=text,
    figures={
        "cka_by_layer": Drawing(
            "Linear CKA of two runs' hidden states on the same prompts, layer by layer; with fewer prompts than "
            "dimensions the biased estimator is inflated.",
            by_layer,
            details,
        )
    },
    inputs=("a",),
    numbers={"cka": lambda table: table.rename(columns={"estimator": "measure", "similarity": "value"})},
    # the hidden states themselves, which no table reads; one run has no pair
    others=lambda runs: [f"hidden_states/{run}" for run in runs] if len(runs) > 1 else [],
)
