"""Distance in behaviour: how far a run's policy is from the base's, by KL on what each of them writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deltageom.measures.interface import Drawing, Measure, Row, one_per_run, read_rows
from deltageom.measures.shared.settings import BehaviourSettings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from deltageom.measures.interface import Study, Tables

# by its name in the table: whose samples, and which sum over their tokens
PER_TOKEN = {
    "forward_kl": ("base", "kl"),
    "forward_k3": ("base", "k3"),
    "reverse_kl": ("run", "kl"),
    "reverse_k3": ("run", "k3"),
    "agreement": ("base", "agreed"),
    "base_entropy": ("base", "entropy"),
    "run_entropy": ("run", "entropy"),
}
OF_SAMPLES = ["base_length", "run_length", "base_ended", "run_ended"]
NUMBERS = [*PER_TOKEN, *OF_SAMPLES]
COLUMNS = ["run", "n", *(column for name in PER_TOKEN for column in (name, f"{name}_se")), *OF_SAMPLES]


def rows(settings: BehaviourSettings, inputs: Mapping[str, Path], _runs: Mapping[str, Path]) -> list[Row]:
    """Those of `policies.distances`. inputs: base, a folder or hub id; run, a run's folder; problems, a jsonl file."""
    from deltageom.measures.shared import policies
    from deltageom.problems.problem import read_problems

    problems = read_problems(inputs["problems"])[: settings.behaviour.prompts]
    return policies.distances(settings, str(inputs["base"]), inputs["run"], problems)


def build(results: Path, runs: Sequence[str]) -> dict[str, pd.DataFrame]:
    return {"behaviour": behaviour({run: read_rows(results / "behaviour" / f"{run}.csv") for run in runs})}


def behaviour(samples: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per run, from the rows of behaviour/<run>.csv: means over tokens, with standard errors over samples."""
    from deltageom.display.columns import frame
    from deltageom.evaluation.statistics import ratio_of_sums

    table = []
    for run, found in samples.items():
        of = {str(side): drawn for side, drawn in found.groupby("side")}
        row: Row = {"run": run, "n": len(of["base"])}
        for name, (side, what) in PER_TOKEN.items():
            row[name], row[f"{name}_se"] = ratio_of_sums(of[side][what], of[side]["tokens"])
        for side, drawn in of.items():
            row |= {f"{side}_length": drawn["tokens"].mean(), f"{side}_ended": drawn["ended"].mean()}
        table.append(row)
    return frame(table, COLUMNS)


def scatter(tables: Tables, _reference: str) -> Figure:
    """Both KL against the norm of the update; accuracy on the study's first benchmark against KL(base || run)."""
    from deltageom.display import drawing
    from deltageom.display.by_layer import look_of

    geometry, accuracy, look = tables["geometry_global"], tables["accuracy"], look_of(tables)
    norms = geometry[(geometry["measure"] == "norm") & geometry["b"].isna()].set_index("a")["value"]
    benchmark = str(accuracy["benchmark"].iloc[0])
    scores = accuracy[accuracy["benchmark"] == benchmark].set_index("model")["accuracy"]
    shown = tables["behaviour"].assign(
        norm=lambda table: table["run"].map(norms), accuracy=lambda table: table["run"].map(scores)
    )
    figure = drawing.blank(8.2, 3.4)
    by_norm, by_score = figure.subplots(1, 2)
    for row in shown.to_dict("records"):
        style = look[row["run"]]
        marked = {"marker": style.marker, "color": style.colour, "markersize": 6, "linestyle": "none"}
        by_norm.errorbar(row["norm"], row["forward_kl"], row["forward_kl_se"], elinewidth=0.9, **marked)
        by_norm.errorbar(
            row["norm"], row["reverse_kl"], row["reverse_kl_se"], elinewidth=0.9, markerfacecolor="white", **marked
        )
        by_score.plot(row["forward_kl"], row["accuracy"], **marked)
    by_norm.set_xlabel("norm of the update (compared modules)")
    by_norm.set_ylabel("KL (nats per token)")
    by_score.set_xlabel("KL(base || run) (nats per token)")
    by_score.set_ylabel(f"accuracy on {drawing.label(benchmark)}")
    if "base" in scores:
        by_score.axhline(scores["base"], color=drawing.GREY, linestyle="--", linewidth=1, zorder=1)
    drawing.legend(figure, list(shown["run"]), look)
    title = "Filled: KL(base || run) on the base's samples; hollow: KL(run || base) on the run's; bars: standard error"
    drawing.title(figure, f"{title} over n = {drawing.span(shown['n'])} samples; dashed: the base's accuracy")
    drawing.note_undefined(figure, shown, "norm", "norms")
    return figure


def details(study: Study, tables: Tables) -> str:
    from deltageom.display.markdown import values
    from deltageom.text import escape

    wanted = study["measures"]["behaviour"]
    return (
        f"n = {values(tables['behaviour']['n'])} prompts of {escape(wanted['benchmark'])}, one sample of each model "
        f"for each, at most {wanted['max_tokens']} tokens, seed {wanted['seed']}."
    )


def text(study: Study, tables: Tables) -> str:
    from deltageom.display.markdown import cell, markdown
    from deltageom.text import escape

    wanted, found = study["measures"]["behaviour"], tables["behaviour"]
    of_kl = {"forward_kl": "KL(base, run)", "reverse_kl": "KL(run, base)"}
    of_kl |= {"forward_k3": "k3 of KL(base, run)", "reverse_k3": "k3 of KL(run, base)"}
    kl = found[["run", *(name for name in COLUMNS if name.removesuffix("_se") in of_kl)]]
    kl = kl.rename(columns={**of_kl, **{f"{name}_se": f"se of {words}" for name, words in of_kl.items()}})
    others = found[["run", *(name for name in COLUMNS[2:] if name.removesuffix("_se") not in of_kl)]]
    farthest = found.sort_values("forward_kl", ascending=False, kind="stable").iloc[0]
    return "\n\n".join(
        [
            f"How far each run's policy is from the base's, in nats per token, on the first {cell(found['n'].max())} "
            f"problems of {escape(wanted['benchmark'])}: KL(base, run) on samples of the base, KL(run, base) on "
            f"samples of the run, both at temperature 1 and at most {wanted['max_tokens']} tokens. Each KL is the "
            "exact sum over the vocabulary at each token, and k3 is its estimate from the sampled tokens; standard "
            "errors (se) are over samples.",
            markdown(kl),
            "Agreement: the share of the base's tokens at which both models have the same most likely token; entropies "
            "in nats per token, lengths in tokens, and the share of samples that ended, each on the model's own "
            "samples.",
            markdown(others.rename(columns=lambda column: column.replace("_", " "))),
            f"Farthest from the base by KL(base, run): {escape(farthest['run'])}, {cell(farthest['forward_kl'])} nats "
            "per token.",
        ]
    )


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(columns={"run": "a"}).melt(["a"], NUMBERS, "measure")


MEASURE = Measure(
    title="Distance in behaviour",
    records=one_per_run("behaviour"),
    rows=rows,
    build=build,
    tables={
        "behaviour": "How far each run's policy is from the base's: KL per token in both directions, exact and by k3, "
        "on samples of each, with agreement, entropies and lengths, and standard errors over samples."
    },
    text=text,
    figures={
        "behaviour": Drawing(
            "KL between base and run, in both directions, against the norm of the run's update; and accuracy on the "
            "study's first benchmark against KL(base || run).",
            scatter,
            details,
        )
    },
    inputs=("base", "run", "problems"),
    settings=BehaviourSettings,
    numbers={"behaviour": numbers},
)
