"""How far a study is: its jobs by run and stage, held against those that Snakemake would run, and why it would."""

import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from deltageom.errors import UserError
from deltageom.planning.jobs import Job
from deltageom.terminal import console

RECORDS = "/provenance/"  # the folder of the jobs' records, which say of every job which one it is
ANSWER = "--logger-deltageom-plan"  # of a dry run a line of JSON, see snakemake_logger_plugin_deltageom

NEW, FOLLOWS = "not made yet", "follows "  # reasons that need no line of their own


@dataclass(frozen=True)
class Planned:
    """What Snakemake would run: every job that has a record, by its results and record; how many in all; and `rows`,
    a line of words for the jobs of a rule that would run for the same reason."""

    jobs: frozenset[tuple[Path, str]]
    number: int
    rows: Sequence[Sequence[str]]


def planned(study: str | None) -> Planned:
    """By a dry run of Snakemake in the working directory. Raises UserError with its words if it cannot plan."""
    config = [] if study is None else ["--config", f"study={study}"]
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--logger", "deltageom", ANSWER, *config]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise UserError(f"Snakemake cannot plan it:\n{(done.stderr or done.stdout).strip()}")
    answer = json.loads(lines[-1])
    found = (_record(output) for job in answer["jobs"] for output in job["output"])
    return Planned(frozenset(filter(None, found)), len(answer["jobs"]), answer["rows"])


def show(study: str, jobs: Iterable[tuple[Job, Path]], models: Sequence[str], plan: Planned) -> None:
    """A row a model and a column a stage, of all replicates together; the other stages in a line; then why."""
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for job, results in jobs:
        if not job.rule.endswith("_part"):
            stage, _, name = job.record.partition("/")
            count = counts[stage, name if name in models else ""]
            count[0] += (results, job.record) not in plan.jobs
            count[1] += 1
    of_models = list(dict.fromkeys(stage for stage, model in counts if model))
    others = {stage: count for (stage, model), count in counts.items() if not model}
    total = sum(all_of for _, all_of in counts.values())
    out = console()
    out.print(f"study {escape(study)}: {sum(done for done, _ in counts.values())} of {total} jobs are done")
    for what, chosen in (("done", True), ("to do", False)):
        if named := [_named(stage, count) for stage, count in others.items() if (count[0] == count[1]) is chosen]:
            out.print(f"{what}: {', '.join(named)}")
    out.print(_table(of_models, models, counts))
    if not plan.rows:
        out.print("Snakemake would run nothing.")
        return
    out.print(f"{plan.number} would run:")
    grid, many = Table.grid(padding=(0, 2)), Counter[str]()
    for number, rule, of, why in plan.rows:
        if why == NEW or why.startswith(FOLLOWS):
            many["were not made yet" if why == NEW else "follow from others"] += int(number)
        else:
            grid.add_row(number, rule, escape(of), escape(why))
    out.print(grid)
    for plain, jobs_of in many.items():
        out.print(f"{jobs_of} {plain}")


def _table(stages: Sequence[str], models: Sequence[str], counts: Mapping[tuple[str, str], Sequence[int]]) -> Table:
    table = Table("model", *stages)
    for model in models:
        cells = [_cell(counts[stage, model]) if (stage, model) in counts else "" for stage in stages]
        table.add_row(escape(model), *cells)
    return table


def _cell(count: Sequence[int]) -> str:
    done, total = count
    if done == total:
        return "[green]done[/]"
    return f"[yellow]{done} of {total}[/]" if done else "[bold]to do[/]"


def _named(stage: str, count: Sequence[int]) -> str:
    done, total = count
    return stage if total == 1 else f"{stage} {total}" if done in (0, total) else f"{stage} {done} of {total}"


def _record(output: str) -> tuple[Path, str] | None:
    """results/toy/provenance/train/sft.json is the record train/sft in results/toy; None for another output."""
    results, found, record = output.rpartition(RECORDS)
    return (Path(results), record.removesuffix(".json")) if found else None
