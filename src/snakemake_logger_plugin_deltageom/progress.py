"""How far a run of Snakemake is, and about how long it still takes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from snakemake_logger_plugin_deltageom.words import ALL


@dataclass
class Job:
    rule: str
    wildcards: dict[str, str]
    began: float
    seconds: float = 0.0


class Progress:
    """Times are in seconds, of any clock that runs evenly."""

    def __init__(self) -> None:
        self.began = 0.0
        self.expected: Counter[str] = Counter()
        self.running: dict[int, Job] = {}
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.seen: set[str] = set()

    def expect(self, jobs: Mapping[str, int], now: float) -> None:
        """The beginning: so many jobs by rule."""
        self.expected, self.began = Counter(jobs), now

    @property
    def total(self) -> int:
        return self.expected.total()

    @property
    def finished(self) -> int:
        return sum(len(lengths) for lengths in self.seconds.values())

    def complete(self) -> bool:
        return 0 < self.total <= self.finished

    def start(self, job_id: int, rule: str, wildcards: dict[str, str], now: float) -> None:
        self.seen.add(rule)
        if rule != ALL:
            self.running[job_id] = Job(rule, wildcards, now)

    def finish(self, job_id: int, now: float) -> Job | None:
        """The job with its seconds; nothing for the rule that does nothing."""
        if job := self.running.pop(job_id, None):
            job.seconds = now - job.began
            self.seconds[job.rule].append(job.seconds)
        return job

    def fail(self, job_id: int) -> Job | None:
        return self.running.pop(job_id, None)

    def line(self, now: float) -> str:
        """`[12/69  1m40s, about 2m left]`"""
        left = self.left(now)
        until = f", about {clock(left)} left" if left else ""
        return f"[{self.finished:{len(str(self.total))}}/{self.total}  {clock(now - self.began)}{until}]"

    def left(self, now: float) -> float | None:
        """Seconds, from the mean job of each rule so far and from how many ran at once.

        None while most of the jobs to come are of rules of which none has finished: nobody knows how long they take.
        """
        to_come = {rule: n - len(self.seconds[rule]) for rule, n in self.expected.items()}
        known = sum(n for rule, n in to_come.items() if self.seconds[rule])
        if not self.finished or known < sum(to_come.values()) / 2:
            return None
        means = {rule: fmean(lengths) for rule, lengths in self.seconds.items() if lengths}
        any_job = fmean(length for lengths in self.seconds.values() for length in lengths)
        begun = {number: now - job.began for number, job in self.running.items()}
        work = sum(n * means.get(rule, any_job) for rule, n in to_come.items())
        work -= sum(min(begun[number], means.get(job.rule, any_job)) for number, job in self.running.items())
        spent = sum(sum(lengths) for lengths in self.seconds.values()) + sum(begun.values())
        return work * (now - self.began) / spent if spent else None


def clock(seconds: float) -> str:
    """21 s, 1m40s, 3h05m, 2d04h."""
    whole = round(seconds)
    for length, unit, part, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= length:
            return f"{whole // length}{unit}{whole % length // part:02d}{smaller}"
    return f"{whole} s"
