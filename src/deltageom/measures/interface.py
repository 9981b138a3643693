"""What a measure's file provides. See docs/extending.md for the walk-through.

A measure is numbers about one run or one pair of runs. Its file defines `MEASURE`, found by the file's name: how its
rows are computed, and its tables, figures and words in the report. Beside it one rule, workflow/rules/NAME.smk,
says what its jobs read. `snakemake -n` imports the file, so it imports numpy, torch and pandas only inside functions.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deltageom.measures as package
from deltageom.fields import Section

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from deltageom.study.schema import Run

    Tables = Mapping[str, pd.DataFrame]
    Draw = Callable[[Tables, str], Figure]

Row = dict[str, Any]
Study = Mapping[str, Any]  # the resolved study as plain values


@dataclass(frozen=True)
class Drawing:
    """A figure: `draw(tables, compare_with)`, its caption, and `details(study, tables)` that the summary adds to it."""

    caption: str
    draw: Draw
    details: Callable[[Study, Tables], str] = lambda _study, _tables: ""


@dataclass(frozen=True)
class Measure:
    """A measure, whole.

    title: its section in the summary and in the report.
    records: the files below results/STUDY that its rule leaves for the tables, given its runs' names in sorted order.
        The job of `NAME/x.csv` leaves its provenance as `NAME/x`.
    rows: what `deltageom measure NAME` computes: settings, paths by name (--input), the runs' paths by name (--run).
    build: the tables by name, from the study's folder of results and the runs in the study's order. Columns that hold
        text end in `_id` or `_name`, or are named in display/columns.py, which has the integers too; others are floats.
    tables: a caption per table of `build`.
    text: what the summary says in Markdown above the figures.
    inputs: the names of --input that it cannot do without.
    settings: what the rule passes as --settings.
    others: its further jobs, those that leave nothing for the tables.
    numbers: of a table the numbers that are taken over replicates: a row each, with `value`, `measure` and what says
        which one it is: a, b, benchmark, layer, step, k.
    takes: the names of those of the study's runs that it takes, in their order; a derived run has no training (None).
    option: the measure and the option of it that turn this one on, where that is no key of its own name.
    """

    title: str
    records: Callable[[Sequence[str]], list[str]]
    rows: Callable[[Any, Mapping[str, Path], Mapping[str, Path]], list[Row]]
    build: Callable[[Path, Sequence[str]], dict[str, pd.DataFrame]]
    tables: Mapping[str, str]
    text: Callable[[Study, Tables], str]
    figures: Mapping[str, Drawing] = field(default_factory=dict)
    inputs: Sequence[str] = ()
    settings: type[Section] = Section
    others: Callable[[Sequence[str]], list[str]] = lambda _runs: []
    numbers: Mapping[str, Callable[[pd.DataFrame], pd.DataFrame]] = field(default_factory=dict)
    takes: Callable[[Mapping[str, Run | None]], list[str]] = list
    option: tuple[str, str] | None = None

    def jobs(self, runs: Sequence[str]) -> list[str]:
        """The names of its jobs, as their provenance records have them."""
        return [*(record.rpartition(".")[0] for record in self.records(runs)), *self.others(runs)]


def one_per_run(name: str) -> Callable[[Sequence[str]], list[str]]:
    """Records of a measure of single runs: NAME/RUN.csv."""
    return lambda runs: [f"{name}/{run}.csv" for run in runs]


def one_per_first_run(name: str) -> Callable[[Sequence[str]], list[str]]:
    """Records of a measure of pairs: NAME/A.csv holds the pairs of run A with each of the runs after it."""
    return lambda runs: [f"{name}/{a}.csv" for a in runs[:-1]]


def pairs(folder: Path, runs: Sequence[str]) -> dict[tuple[str, str], pd.DataFrame]:
    """The rows of each pair, from the files of `one_per_first_run`; their column `b` names the other run."""
    return {
        (a, str(b)): rows.drop(columns="b")
        for a in sorted(runs)[:-1]
        for b, rows in read_rows(folder / f"{a}.csv").groupby("b", sort=False)
    }


def read_rows(path: Path) -> pd.DataFrame:
    """What `deltageom measure` wrote; without rows no column but `b`."""
    import pandas as pd

    if path.stat().st_size <= 1:
        return pd.DataFrame(columns=["b"], dtype=str)
    # names are text whatever they look like: "NA" and "1" are good names
    return pd.read_csv(path, dtype={"b": str, "problem_id": str}, keep_default_na=False, na_values=[""])


def names() -> list[str]:
    """Every measure there is: the modules of this package but this one."""
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg and m.name != "interface")


def load(name: str) -> Measure:
    """A measure by its name. Raises KeyError for a name that is none of `names()`."""
    if name not in names():
        raise KeyError(name)
    measure = importlib.import_module(f"deltageom.measures.{name}").MEASURE
    assert isinstance(measure, Measure), f"measures/{name}.py: MEASURE must be a Measure"
    return measure


def load_all() -> dict[str, Measure]:
    """Every measure by name, sorted."""
    return {name: load(name) for name in names()}


def chosen(sections: Mapping[str, Any]) -> dict[str, Measure]:
    """Those that a study has, by name, sorted: `measures.NAME: null` leaves one out; one without a key there is in.

    sections: the study's `measures` as plain values.
    """
    return {name: one for name, one in load_all().items() if _is_on(name, one, sections)}


def _is_on(name: str, one: Measure, sections: Mapping[str, Any]) -> bool:
    if one.option is None:
        return sections.get(name, "") is not None
    name, option = one.option
    return name not in sections or bool((sections[name] or {}).get(option))
