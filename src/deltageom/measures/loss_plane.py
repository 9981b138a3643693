"""The loss on the plane through three models in weight space: what lies around and between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deltageom.measures.interface import Drawing, Measure, Row, read_rows
from deltageom.measures.shared.settings import LossPlaneSettings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from deltageom.measures.interface import Study, Tables

COLUMNS = ["model", "along", "across", "loss", "n"]


def rows(settings: LossPlaneSettings, inputs: Mapping[str, Path], runs: Mapping[str, Path]) -> list[Row]:
    """Those of `planes.losses_on_plane`, of what any of the three has answered correctly.

    inputs: base, a folder or hub id; answers_of_NAME, the graded ones of each of the three models. runs: the folders of
    those of them that are runs.
    """
    from deltageom.measures.shared.losses import own_answers, planes
    from deltageom.models.load import load_tokenizer

    wanted, base = settings.loss_plane, str(inputs["base"])
    answers = [inputs[f"answers_of_{name}"] for name in wanted.models]
    texts = own_answers.correct(load_tokenizer(base, settings.base), answers, wanted.problems)
    if not texts:
        return []
    models = {name: runs.get(name) for name in wanted.models}
    shape = wanted.points, wanted.margin, wanted.batch_size
    return list(planes.losses_on_plane(base, settings.base, settings.device, models, texts, *shape))


def build(results: Path, runs: Sequence[str]) -> dict[str, pd.DataFrame]:  # noqa: ARG001
    """loss_plane: a row per point, the three models first; none where none of them has answered correctly."""
    from deltageom.display.columns import frame

    found = read_rows(results / "loss_plane" / "points.csv")
    points: list[Row] = found.to_dict("records") if "loss" in found else []  # type: ignore[assignment]
    return {"loss_plane": frame(points, COLUMNS)}


def draw(tables: Tables, reference: str) -> Figure:  # noqa: ARG001
    """Contours of the loss, with the three models where they are; a step is as long along x as along y."""
    from matplotlib.ticker import MaxNLocator

    from deltageom.display import drawing
    from deltageom.display.by_layer import look_of

    found = tables["loss_plane"]
    if found.empty:
        return drawing.nothing()
    at = found["model"].notna()
    square = found[~at].pivot(index="across", columns="along", values="loss")
    figure, (ax,) = drawing.panels(1, 1, 5.2, 4.2)
    levels = MaxNLocator(14).tick_values(square.min().min(), square.max().max())
    filled = ax.contourf(square.columns, square.index, square.to_numpy(float), levels=levels, cmap="cividis_r")
    figure.colorbar(filled, ax=ax, label="loss (nats per token)")
    look = look_of(tables)
    for name, x, y, loss in found.loc[at, ["model", "along", "across", "loss"]].itertuples(index=False):
        colour, marker = (look[name].colour, look[name].marker) if name in look else ("black", "*")
        ax.plot(x, y, marker, color=colour, markersize=9, markeredgecolor="white")
        label = f"{drawing.label(name)} {loss:.3f}"
        ax.annotate(label, (x, y), (0, 8), textcoords="offset points", ha="center", fontsize=8)
    ax.set_aspect("equal")
    ax.grid(visible=False)
    ax.set_xlabel("distance in weight space")
    ax.set_ylabel("distance in weight space")
    drawing.title(figure, f"Loss on the plane through three models (n = {drawing.span(found['n'])} problems)")
    return figure


def details(study: Study, tables: Tables) -> str:
    from deltageom.display import drawing
    from deltageom.text import escape

    wanted = study["measures"]["loss_plane"]
    n = drawing.span(tables["loss_plane"]["n"])
    return f"n = {n} problems of {escape(wanted['benchmark'])}; {wanted['points']} x {wanted['points']} points."


def text(study: Study, tables: Tables) -> str:
    from deltageom.display.markdown import cell, markdown
    from deltageom.text import escape

    wanted, found = study["measures"]["loss_plane"], tables["loss_plane"]
    benchmark, names = escape(wanted["benchmark"]), escape(", ".join(wanted["models"]))
    if found.empty:
        return f"None of {names} has answered a problem of {benchmark} correctly: there is no text to take a loss of."
    at = found["model"].notna()
    lowest = found.loc[[found["loss"].astype(float).idxmin()]].iloc[0]
    return "\n\n".join(
        [
            f"Loss (nats per token) of the correct answers of {names} to problems of {benchmark}, each text once, on "
            "the plane through the three, in an orthonormal basis: distances are those of weight space. One draw of "
            "each model.",
            markdown(found.loc[at, ["model", "along", "across", "loss"]]),
            f"The lowest loss of all points that were tried is {cell(lowest['loss'])}, at "
            f"({cell(lowest['along'])}, {cell(lowest['across'])}).",
        ]
    )


MEASURE = Measure(
    title="Loss on a plane",
    records=lambda _runs: ["loss_plane/points.csv"],
    rows=rows,
    build=build,
    tables={"loss_plane": "Loss at points of the plane through three models: first at the models, then on a grid."},
    text=text,
    figures={"loss_plane": Drawing("Loss on the plane through three models in weight space.", draw, details)},
    inputs=("base",),
    settings=LossPlaneSettings,
)
