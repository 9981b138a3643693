"""A dry run on one screen: a line for the jobs of a rule that would run for the same reason."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from snakemake_logger_plugin_deltageom import reasons, words

WIDTH = 120  # where the output goes to no terminal
MORE = "Snakemake's own plan, job by job: snakemake -n --logger-deltageom-full"


@dataclass(frozen=True)
class Job:
    rule: str
    wildcards: dict[str, str]
    output: list[str]
    reason: str


def shown(study: str | None, jobs: Sequence[Job], order: Sequence[str]) -> str:
    """`order`: the rules as they follow from each other. Empty where nothing would run."""
    jobs = [job for job in jobs if job.rule != words.ALL]
    if not jobs:
        return ""
    title = f"{f'study {study}: ' if study else ''}{words.count(len(jobs), 'job')} would run"
    return "\n".join([title, "", *_table([("jobs", "rule", "of", "why"), *_rows(jobs, order)]), "", MORE])


def as_json(jobs: Sequence[Job], order: Sequence[str]) -> str:
    """In one line: `jobs` with rule and outputs each, and `rows` as they would be shown, none of them cut."""
    jobs = [job for job in jobs if job.rule != words.ALL]
    plain = [{"rule": job.rule, "output": [reasons.path(file) for file in job.output]} for job in jobs]
    return json.dumps({"jobs": plain, "rows": _rows(jobs, order)})


def _rows(jobs: Sequence[Job], order: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """How many, of which rule, of what and why, for the jobs of a rule that would run for the same reason."""
    makers = {reasons.path(file): job.rule for job in jobs for file in job.output}
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        made = any(Path(reasons.path(file)).exists() for file in job.output)
        why = reasons.short(job.reason, made, makers)
        groups.setdefault((job.rule, why), []).append(job)
    at = {rule: number for number, rule in enumerate([*order, *(job.rule for job in jobs if job.rule not in order)])}
    return [
        (str(len(alike)), rule, _of(alike), why)
        for (rule, why), alike in sorted(
            groups.items(), key=lambda group: (at[group[0][0]], -len(group[1]), group[0][1])
        )
    ]


def _of(jobs: Sequence[Job]) -> str:
    """In which replicates, and the runs, layers or problem sets."""
    names = sorted(
        {" ".join(words.of(job.wildcards)) for job in jobs}, key=lambda name: name.zfill(6) if name.isdigit() else name
    )
    numbers = sorted({words.replicate(job.wildcards) or 1 for job in jobs})
    text = ", ".join(name for name in names if name)
    if numbers == [1]:
        return text
    where = f"{'replicate' if len(numbers) == 1 else 'replicates'} {', '.join(map(str, numbers))}"
    return f"{where}: {text}" if text else where


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns under each other. The third is cut where it would not fit, the last one only for a terminal."""
    terminal = shutil.get_terminal_size((WIDTH, 24)).columns
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    room = max(40, terminal - first - second - 8)
    third = min(max(len(row[2]) for row in rows), room * 2 // 5)
    fourth = room - third if sys.stdout.isatty() else max(len(row[3]) for row in rows)
    return [
        f"  {row[0]:>{first}}  {row[1]:<{second}}  {_cut(row[2], third):<{third}}  {_cut(row[3], fourth)}".rstrip()
        for row in rows
    ]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
