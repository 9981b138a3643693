"""Prediction depth: after how many layers what a run predicts, read by the logit lens, is what it ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deltageom.measures.interface import Drawing, Measure, Row, one_per_run, read_rows
from deltageom.measures.shared.settings import LogitLensSettings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from deltageom.measures.interface import Study, Tables

OF_RUN = ["run", "depth", "depth_se", "base_depth", "base_depth_se", "difference", "difference_se", "layers", "n"]
OF_LAYER = ["run", "layer", "agreement", "base_agreement", "n"]


def rows(settings: LogitLensSettings, inputs: Mapping[str, Path], runs: Mapping[str, Path]) -> list[Row]:  # noqa: ARG001
    """Those of `lens.read_lens`. inputs: base, a folder or hub id; run, a run's folder; answers, the base's, graded."""
    from deltageom.measures.shared import lens
    from deltageom.measures.shared.losses import own_answers
    from deltageom.models.load import load_tokenizer

    wanted, base = settings.logit_lens, str(inputs["base"])
    tokenizer = load_tokenizer(base, settings.base)
    texts = own_answers.correct(tokenizer, [inputs["answers"]], wanted.problems, wrong_too=True)
    read = [text for text in texts if text.answer]
    return list(lens.read_lens(base, settings.base, settings.device, inputs["run"], read, wanted.batch_size))


def build(results: Path, runs: Sequence[str]) -> dict[str, pd.DataFrame]:
    """logit_lens: a row per run; logit_lens_layers: a row per (run, layer), layer 0 being the embeddings."""
    from deltageom.display.columns import frame
    from deltageom.evaluation.statistics import ratio_of_sums

    whole, layers = list[Row](), list[Row]()
    for run in runs:
        found = read_rows(results / "logit_lens" / f"{run}.csv")
        sides = {side: rows.set_index("problem_id") for side, rows in found[found["layer"].isna()].groupby("side")}
        base, own = sides["base"], sides["run"].loc[sides["base"].index]
        row: Row = {"run": run, "n": len(own), "layers": int(found["layer"].max())}
        for name, depth in (
            ("depth", own["depth"]),
            ("base_depth", base["depth"]),
            ("difference", own["depth"] - base["depth"]),
        ):
            row[name], row[f"{name}_se"] = ratio_of_sums(depth, base["tokens"])
        whole.append(row)
        agreed = found[found["layer"].notna()].groupby(["layer", "side"])[["agreed", "tokens"]].sum()
        share = (agreed["agreed"] / agreed["tokens"]).unstack()
        layers += [
            {"run": run, "layer": layer, "agreement": own_share, "base_agreement": base_share, "n": len(own)}
            for layer, base_share, own_share in share[["base", "run"]].itertuples()
        ]
    return {"logit_lens": frame(whole, OF_RUN), "logit_lens_layers": frame(layers, OF_LAYER)}


def draw(tables: Tables, reference: str) -> Figure:  # noqa: ARG001
    """The share of tokens whose prediction after each layer is the final one, a line per run and the base's dashed."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    from deltageom.display import drawing
    from deltageom.display.by_layer import look_of

    found, look = tables["logit_lens_layers"], look_of(tables)
    figure, (ax,) = drawing.panels(1, 1, 5.0, 3.2, legend=1.6)
    base = found[found["run"] == found["run"].iloc[0]].sort_values("layer")
    ax.plot(base["layer"].to_numpy(float), base["base_agreement"].to_numpy(float), "--", color=drawing.GREY)
    for run, layers in found.groupby("run", sort=False):
        ordered = layers.sort_values("layer")
        at, values = ordered["layer"].to_numpy(float), ordered["agreement"].to_numpy(float)
        drawing.layer_line(ax, at, np.asarray(values), look[str(run)], "-")
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_xlabel("layer (0: the embeddings)")
    ax.set_ylabel("share of tokens")
    drawing.legend(figure, list(found["run"].unique()), look)
    n = drawing.span(found["n"])
    drawing.title(figure, f"Predictions that are the final ones (n = {n} problems); dashed: the base")
    return figure


def details(study: Study, tables: Tables) -> str:
    from deltageom.display import drawing
    from deltageom.text import escape

    wanted = study["measures"]["logit_lens"]
    return (
        f"On the base's answers to {drawing.span(tables['logit_lens']['n'])} problems of {escape(wanted['benchmark'])}."
    )


def text(study: Study, tables: Tables) -> str:
    from deltageom.display import drawing
    from deltageom.display.markdown import markdown
    from deltageom.text import escape

    found, wanted = tables["logit_lens"], study["measures"]["logit_lens"]
    names = {"depth": "depth", "depth_se": "standard error", "difference": "more than the base's"}
    names |= {"difference_se": "its standard error"}
    return "\n\n".join(
        [
            f"After how many of the {drawing.span(found['layers'])} layers the prediction stands, averaged over the "
            f"tokens of the base's answers to {drawing.span(found['n'])} problems of {escape(wanted['benchmark'])}: "
            "the logit lens reads every layer's state by the final norm and head, which are made for the last one. "
            "Standard errors are over problems; the difference is taken on the same tokens.",
            markdown(found[["run", *names]].rename(columns=names)),
        ]
    )


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(columns={"run": "a"}).melt(["a"], ["depth", "difference"], "measure")


MEASURE = Measure(
    title="Prediction depth",
    records=one_per_run("logit_lens"),
    rows=rows,
    build=build,
    tables={
        "logit_lens": "After how many layers each run's prediction stands, by the logit lens on the base's answers, "
        "beside the base's own depth and the paired difference, with standard errors over problems.",
        "logit_lens_layers": "Share of tokens whose prediction after each layer is the final one, of each run and of "
        "the base.",
    },
    text=text,
    figures={
        "logit_lens": Drawing(
            "Share of tokens whose prediction after each layer, by the logit lens, is the model's final one.",
            draw,
            details,
        )
    },
    inputs=("base", "run", "answers"),
    settings=LogitLensSettings,
    numbers={"logit_lens": numbers},
)
