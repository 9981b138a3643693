"""What `deltageom plan` prints: a study's jobs, what they have to do, and what they took."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from deltageom.planning.jobs import Job
from deltageom.planning.measured import Measured, Rates
from deltageom.planning.work import RunWork, Sampling
from deltageom.study.resolved import Study
from deltageom.terminal import console, duration, size

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Plan:
    """rates: tokens per second, as the user has measured them. disk, downloads: bytes, None where unknown.

    devices: GPUs, or jobs where there are none, that the study may use at once; None if nobody has said.
    """

    study: Study
    jobs: Sequence[Job]
    generation: Sequence[Sampling]
    training: Sequence[RunWork]
    rates: Rates
    rates_from: str
    disk: Mapping[str, int | None]
    downloads: Mapping[str, int | None]
    measured: Mapping[str, Measured]
    devices: int | None = None

    def hours(self) -> dict[str, float | None]:
        """Of the two kinds of work that take the time; None where a rate or a number is missing."""
        times = self.study.replicates.count
        made = [one.tokens for one in self.generation] + [run.sampled for run in self.training]
        generated = None if None in made else times * sum(tokens or 0 for tokens in made)
        trained = times * sum(run.tokens for run in self.training)
        return {
            "generation": generated / self.rates.generated / 3600 if generated and self.rates.generated else None,
            "training": trained / self.rates.trained / 3600 if self.rates.trained else None,
        }

    def clock(self) -> dict[str, float | None]:
        """Hours of the clock on `devices` of the jobs that take the time, one kind after the other."""
        study, times = self.study, self.study.replicates.count
        made = {one.what: one.tokens for one in self.generation}
        sampled = [made.pop("rollouts", 0)]
        models, jobs = len(study.all_runs()) + 1, study.evaluation.jobs
        answered = [tokens and tokens / (models * jobs) for tokens in made.values()]
        generated, rate = self.rates.generated, self.rates.trained
        # a run that samples while it trains does both in turn
        trained = [_sum([_over(run.tokens, rate), _over(run.sampled, generated)]) for run in self.training]
        parallel, processes = study.execution.tensor_parallel, study.execution.processes
        rollouts = [_over(tokens, generated) for tokens in _even(sampled, study.rollouts.jobs, times)]
        answers = [_over(tokens, generated) for tokens in _even([_sum(answered)], 1, times * models * jobs)]
        return {
            "rollouts": self._makespan(rollouts, parallel),
            "training": self._makespan(trained * times, processes),
            "answers": self._makespan(answers, parallel),
        }

    def _makespan(self, hours: Sequence[float | None], each: int) -> float | None:
        """Hours until jobs of so many have ended, the longest first, where a job takes `each` devices."""
        known = [one for one in hours if one is not None]
        if len(known) < len(hours):
            return None
        places = [0.0] * max(1, (self.devices or 1) // each)
        for one in sorted(known, reverse=True):
            places[places.index(min(places))] += one
        return max(places)


def _over(tokens: float | None, rate: float | None) -> float | None:
    """Hours that so many tokens take; no tokens take none, whatever the rate."""
    if tokens == 0:
        return 0.0
    return None if tokens is None or rate is None else tokens / rate / 3600


def _sum(values: Sequence[float | None]) -> float | None:
    return None if None in values else sum(value or 0 for value in values)


def _even(tokens: Sequence[float | None], jobs: int, times: int) -> list[float | None]:
    """Of `jobs` jobs that share each of the generations, as often as they are made."""
    return [one and one / jobs for one in tokens for _ in range(jobs * times)]


def show(plan: Plan) -> None:
    out = console()
    study = plan.study
    derived = f" and {len(study.derived)} derived" if study.derived else ""
    out.print(
        f"Study {escape(study.study)}: {len(plan.jobs)} jobs, {len(study.runs)} runs{derived}, device {study.device}"
    )
    out.print(_rules(plan))
    out.print(_generation(plan), _training(plan), sep="\n")
    if study.replicates.count > 1:
        out.print(f"The tables are of one replicate; hours and disk are of all {study.replicates.count}, at most.")
    if any(one.tokens is None for one in plan.generation):
        out.print("Nobody says how many problems a data set has that is unknown here: give --problems NAME=N.")
    out.print("Tokens are the most that the study allows, unless --mean-tokens N says a completion's mean.")
    grid = Table.grid(padding=(0, 2))
    for what, says in totals(plan):
        grid.add_row(what, escape(says))
    out.print(grid)


def totals(plan: Plan) -> Iterator[tuple[str, str]]:
    """What stands below the tables: hours, disk, downloads."""
    where = "GPU time" if plan.study.device == "cuda" else "time of jobs"
    for what, hours in plan.hours().items():
        known = f"at most {duration(hours * 3600)}, by {plan.rates_from}" if hours else None
        yield f"{where}, {what}", known or f"{UNKNOWN}: give a rate that you have measured (--like, --rate)"
    if plan.devices:
        by_kind = plan.clock()
        of_each = ", ".join(f"{kind} {duration(hours * 3600)}" for kind, hours in by_kind.items() if hours)
        together = _sum(list(by_kind.values()))
        what = "GPUs" if plan.study.device == "cuda" else "jobs at once"
        yield (
            f"time on {plan.devices} {what}",
            UNKNOWN if together is None else f"at most {duration(together * 3600)} ({of_each})",
        )
    for what, taken in plan.disk.items():
        yield f"disk, {what}", UNKNOWN if taken is None else f"at most {size(taken)}"
    for model, taken in plan.downloads.items():
        yield "download", f"{model}, {UNKNOWN if taken is None else size(taken)}"


def _rules(plan: Plan) -> Table:
    table = Table()
    table.add_column("rule")
    for name in ("jobs", *(("done", "time, all jobs", "largest memory") if plan.measured else ())):
        table.add_column(name, justify="right")
    for rule, number in Counter(job.rule for job in plan.jobs).items():
        cells = [str(number)]
        if plan.measured and (found := plan.measured.get(rule)):
            peak = "" if found.peak_mib is None else size(found.peak_mib * 2**20)
            cells += [str(found.jobs), duration(found.seconds), peak]
        table.add_row(escape(rule), *cells)
    return table


def _generation(plan: Plan) -> Table:
    table = Table("completions of", title="Generation", title_justify="left")
    for name in ("completions", "tokens, at most"):
        table.add_column(name, justify="right")
    for one in plan.generation:
        table.add_row(escape(one.what), _number(one.completions), _number(one.tokens))
    return table


def _training(plan: Plan) -> Table:
    table = Table("run", "method", "of", title="Training", title_justify="left")
    for name in ("rows in all steps", "tokens, at most"):
        table.add_column(name, justify="right")
    for run in plan.training:
        table.add_row(escape(run.run), run.method, run.unit, _number(run.rows), _number(run.tokens))
    return table


def _number(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"
