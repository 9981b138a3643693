"""The figure of several studies: each run's cosine with the reference, study by study."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from deltageom.display import drawing
from deltageom.display.against import against
from deltageom.display.by_layer import look_of
from deltageom.report.studies import Finished, right_share


@drawing.styled
def studies_figure(studies: Mapping[str, Finished], reference: str) -> Figure:
    """Over the share of right rollouts where the studies differ in it, else study by study; bars are t intervals.

    In grey what chance with the runs' own A gives of the cosine, two standard deviations, of the first study.
    """
    names, found = list(studies), list(studies.values())
    shares = [right_share(study) for study in found]
    varied = np.isfinite(shares).all() and len({round(share, 3) for share in shares}) == len(shares)
    at = dict(zip(names, shares if varied else range(len(names)), strict=True))
    order = list(dict.fromkeys(run for study in found for run in study.tables["training"]["run"]))
    look = look_of({"training": pd.concat([study.tables["training"] for study in found]).drop_duplicates("run")})
    rows = pd.concat([_cosines(study, reference, order).assign(at=at[name]) for name, study in studies.items()])
    figure = drawing.blank(max(6.0, 2.2 + 1.1 * len(names)), 4.0)
    ax = figure.subplots()
    ax.axhline(0, color=drawing.GREY, linewidth=0.8)
    chance = found[0].tables["geometry_global"].query("measure == 'cosine'")["chance_own_sd"].max()
    if np.isfinite(chance):
        ax.axhspan(-2 * chance, 2 * chance, color="#E8E8E8", zorder=0)
    found_runs = list(rows["run"].unique())
    apart = 0.008 * (max(at.values()) - min(at.values()))  # else the bars would hide each other
    for run, of_run in rows.groupby("run", sort=False):
        one, style = of_run.sort_values("at"), look[str(run)]
        one = one.assign(at=one["at"] + apart * (found_runs.index(run) - (len(found_runs) - 1) / 2))
        ax.plot(one["at"], one["mean"], style.marker + "-", color=style.colour, markersize=5, linewidth=1.1)
        ax.vlines(one["at"], one["low"], one["high"], color=style.colour, linewidth=0.9)
    if varied:
        ax.set_xlabel("share of right rollouts")
    else:
        ax.set_xticks(range(len(names)), [drawing.label(name) for name in names], rotation=30, ha="right")
    ax.set_ylabel(f"cosine with {drawing.label(reference)}")
    drawing.legend(figure, [run for run in order if run in set(rows["run"])], look)
    drawing.title(figure, f"Cosine of each update with {drawing.label(reference)}'s in {len(names)} studies")
    drawing.note(figure, "Bars: 95 % t intervals over replicates. Grey: 2 sd of chance (own A).")
    return figure


def _cosines(study: Finished, reference: str, order: list[str]) -> pd.DataFrame:
    numbers = study.numbers
    rows = numbers[(numbers["source"] == "geometry_global") & (numbers["measure"] == "cosine")]
    return against(rows, reference, order)[["run", "mean", "low", "high"]]
