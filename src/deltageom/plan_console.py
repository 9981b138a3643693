"""What `deltageom plan` prints."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deltageom import plan_costs as costs
from deltageom.plan import Plan
from deltageom.plan_assumptions import GPUS, Assumptions
from deltageom.plan_inputs import Inputs
from deltageom.plan_measured import Measured

WIDTH = 120  # where the output goes to no terminal
SHOWN_RUNS = 16
UNKNOWN = "unknown"


def show(name: str, plan: Plan, inputs: Inputs, assumed: Assumptions, measured: Mapping[str, Measured]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    jobs = sum(plan.job_counts().values())
    console.print(f"Study {escape(name)}: {jobs} jobs, {len(plan.runs)} runs")
    for note in inputs.notes:
        console.print(f"  {escape(note)}", soft_wrap=True)
    console.print(_rules(plan, measured))
    if measured:
        console.print("True time: Snakemake's benchmark files. x: true over estimated, where every job is measured.")
    for warning in plan.warnings:
        console.print(f"warning: {escape(warning)}", soft_wrap=True)
    for line in totals(plan, inputs, measured):
        console.print(line, soft_wrap=True)
    console.print("", _runs(plan), sep="\n")
    if len(plan.runs) > SHOWN_RUNS:
        console.print(f"The first {SHOWN_RUNS} of {len(plan.runs)} runs.")
    console.print("\nAssumed, each an option:")
    for field in fields(assumed):
        value = getattr(assumed, field.name)
        if value is not None or field.default is None:
            shown = "" if value is None else f" {value:g}"
            given = "" if value == field.default else "; as given"
            about = field.metadata
            unit = f" {about['unit']}" * bool(about["unit"])
            source = f" ({about['source']})" if value == field.default and value is not None else ""
            option = f"--{field.name.replace('_', '-')}{shown}{unit}"
            console.print(f"  {option:<30} {escape(about['says'])}{source}{given}", soft_wrap=True)


def totals(plan: Plan, inputs: Inputs, measured: Mapping[str, Measured]) -> list[str]:
    machine = plan.machine
    lines = []
    if plan.gpu_seconds():
        card, used = GPUS[machine.gpu], _total(plan.gpu_seconds(), duration)
        lines.append(f"GPU time   {used} on {machine.gpu} ({card.bfloat16:g} TFLOP/s bf16, {card.bandwidth:g} TB/s)")
    lines.append(f"core time  {_total(plan.core_seconds(), duration)}{' beside them' if lines else ''}")
    gpus = f"{machine.gpus}x{machine.gpu} (--gpu) and " if plan.gpu_seconds() else ""
    lines.append(
        f"wall time  about {_total(plan.walls(), duration)} on {gpus}{machine.cores} cores (--cores), "
        "rules one after another"
    )
    largest = max((value for value in plan.scratch().values() if not math.isnan(value)), default=0.0)
    lines.append(f"disk       {_total(plan.disk(), size)} of results, {size(largest)} more while jobs run")
    if inputs.downloads:
        lines.append(f"download   {_total(inputs.downloads, size)} from the hub: {', '.join(inputs.downloads)}")
    jobs = plan.job_counts()
    done = [rule for rule in plan.core_seconds() if rule in measured and measured[rule].jobs == jobs.get(rule)]
    cpu, _ = costs.known_sum({rule: measured[rule].cpu_seconds for rule in done})
    estimate, _ = costs.known_sum({rule: plan.core_seconds()[rule] for rule in done})
    if cpu:
        lines.append(
            f"measured   at least {duration(cpu)} of core time, {duration(estimate)} estimated for what is done"
        )
    return lines


def duration(seconds: float) -> str:
    """Two or three digits: 0.5 s, 14 s, 3.2 min, 2.1 h, 5.3 d."""
    if math.isnan(seconds):
        return UNKNOWN
    for unit, length, most in (("s", 1, 100), ("min", 60, 6000), ("h", 3600, 48 * 3600)):
        if seconds < most:
            return f"{_digits(seconds / length)} {unit}"
    return f"{_digits(seconds / 86400)} d"


def size(count: float) -> str:
    """Bytes, in powers of a thousand."""
    if math.isnan(count):
        return UNKNOWN
    for unit, length in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if count < 999.5 * length:
            return f"{_digits(count / length)} {unit}"
    return f"{_digits(count / 1e12)} TB"


def _digits(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _total(values: Mapping[str, float], form: Callable[[float], str]) -> str:
    known, unknown = costs.known_sum(values)
    if not unknown:
        return form(known)
    return f"{form(known)} and an unknown part ({', '.join(unknown)})"


def _rules(plan: Plan, measured: Mapping[str, Measured]) -> Table:
    table = Table()
    table.add_column("rule")
    names = ["jobs", "GPUs a job", "time, all jobs", "wall", "disk"]
    for name in [*names, *(["done", "true time", "x", "true disk", "x"] if measured else [])]:
        table.add_column(name, justify="right")
    walls = plan.walls()
    for stage in plan.stages:
        jobs = len(stage.jobs)
        times = [duration(stage.seconds), duration(walls[stage.rule])] if jobs else ["", ""]
        cells = [str(jobs) if jobs else "", str(stage.gpus or ""), *times, size(stage.disk)]
        if measured:
            cells += _true(stage.seconds, stage.disk, jobs, measured.get(stage.rule))
        table.add_row(escape(stage.rule), *cells)
    return table


def _true(seconds: float, disk: float, jobs: int, found: Measured | None) -> list[str]:
    if found is None:
        return [""] * 5
    whole = found.jobs == jobs
    return [
        str(found.jobs) if jobs else "",
        "" if math.isnan(found.seconds) else duration(found.seconds),
        _ratio(found.seconds, seconds) if whole else "",
        "" if math.isnan(found.disk) else size(found.disk),
        _ratio(found.disk, disk) if whole else "",
    ]


def _ratio(true: float, estimate: float) -> str:
    return "" if math.isnan(true) or math.isnan(estimate) or not estimate else f"{true / estimate:.2g}"


def _runs(plan: Plan) -> Table:
    table = Table()
    for name in ("run", "method", "trained on"):
        table.add_column(name)
    for name in ("rows", "passes", "tokens"):
        table.add_column(name, justify="right")
    for one in plan.runs[:SHOWN_RUNS]:
        counts = [UNKNOWN if math.isnan(n) else f"{n:,.0f}" for n in (one.rows, one.tokens)]
        passes = UNKNOWN if math.isnan(one.epochs) else f"{one.epochs:.3g}"
        table.add_row(escape(one.run), one.method, one.unit, counts[0], passes, counts[1])
    return table
