"""The summary of a study, one screen of Markdown: the answer, two tables, and where everything else lies."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from deltageom.display.markdown import cell, markdown
from deltageom.report.summary_replicates import headline, value, varied, widest_scores
from deltageom.report.summary_scores import answered, graded_by
from deltageom.report.tables.geometry import count_modules
from deltageom.report.tables.printed import overview
from deltageom.text import escape

Tables = Mapping[str, pd.DataFrame]

FILES = """\
- [report.html](report.html): the interactive page. Choose two updates and a layer, read what the models wrote.
- [details.md](details.md): every table with its explanation, and every figure with its caption.
- [tables/](tables/): every table, csv in full precision and md; as LaTeX those that a paper prints.
- [figures/](figures/): every figure as svg, pdf and png.
- [provenance.json](provenance.json): settings, code, versions, machine, seconds and memory of each job."""


def summary(study: Mapping[str, Any], tables: Tables) -> str:
    """Markdown. `study` is the resolved study, `tables` those of `build_tables` and of the replicates, if there are."""
    sections = {
        "In short": [headline(study, tables)],
        "Accuracy": [_protocol(study, tables), markdown(_accuracies(tables))],
        "Weight updates": [_measured(study, tables), markdown(overview(study, tables))],
        "Where everything is": [FILES],
    }
    page = [f"# Study {escape(study['study'])}"]
    for title, text in sections.items():
        page += [f"## {title}", *text]
    return "\n\n".join(page) + "\n"


def _protocol(study: Mapping[str, Any], tables: Tables) -> str:
    said = graded_by(study["grading"])
    text = f"{said[0].upper()}{said[1:]}. {answered(study, tables)}"
    if "replicates" not in tables:
        return text
    return f"{text} Means over {study['replicates']['count']} replicates, with intervals over replicates and problems."


def _accuracies(tables: Tables) -> pd.DataFrame:
    """A row per model, a column per benchmark: `.54 [.47, .61]`."""
    table = widest_scores(tables)
    models, benchmarks = list(table["model"].unique()), list(table["benchmark"].unique())
    shown = {(row["model"], row["benchmark"]): value(row) for _, row in table.iterrows()}
    rows = [[model, *(shown.get((model, benchmark)) for benchmark in benchmarks)] for model in models]
    return pd.DataFrame(rows, columns=["model", *benchmarks])


def _measured(study: Mapping[str, Any], tables: Tables) -> str:
    reference, training = escape(study["measures"]["compare_with"]), tables["training"]
    seeds = ", ".join(cell(seed) for seed in training["seed"].dropna().unique())
    k = study["measures"]["geometry"]["top_k"][-1]
    text = (
        f"Against {reference}, {count_modules(tables)} modules together: cosine and orthogonal part of the stacked "
        f"updates, angles (degrees) and overlaps of the leading singular vectors, k = {k}. Seeds of the data's order: "
        f"{seeds}. Chance and seed baselines: details.md."
    )
    if "replicates" not in tables:
        return text
    n = study["replicates"]["count"]
    return f"{text} Means over {n} replicates ({varied(study)} drawn anew); intervals: tables/replicates.csv."
