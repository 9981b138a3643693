"""What `snakemake` prints of this project: a line per finished job, errors whole, and of a dry run one screen.

Snakemake finds a logger plugin by this package's name, and profiles/default chooses it. Snakemake's own output goes to
.snakemake/log/ as ever, and with --logger-deltageom-full to the terminal instead of this.
"""

import os
import re
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from logging import INFO, LogRecord
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

from snakemake_logger_plugin_deltageom import plan, words
from snakemake_logger_plugin_deltageom.progress import Progress, clock

RESULTS = ("report.html", "summary.md")
# What Snakemake says at each start, or of a dry run's jobs one by one.
USUAL = (
    *("Using workflow specific profile", "Config file config.yaml is extended", "Assuming unrestricted shared"),
    *("Building DAG of jobs", "Using shell:", "Provided ", "Conda environments: ignored", "Select jobs to execute"),
    *("Reasons:", "Some jobs were triggered by provenance", "Rules with provenance triggered", "This was a dry-run"),
    *("Would remove temporary", "Removing temporary", "Elapsed time:"),
)
# Jobs that share a generation leave nothing once it is merged.
OF_PARTS = re.compile(r"Rules with missing metadata:(?: \w+_part)+\s*$")
LOG_IS = "Complete log(s): "
# Said again at the end, with what failed and why.
AGAIN = ("Exiting because a job execution failed", "WorkflowError:\nAt least one job did not complete")


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    full: bool = field(
        default=False,
        metadata={"help": "print what Snakemake prints by itself: every job's inputs, outputs and reason"},
    )
    plan: bool = field(
        default=False,
        metadata={"help": "print of a dry run one line of JSON, for programs"},
    )


class LogHandler(LogHandlerBase):
    """Prints to standard error, and of a dry run to standard output, as Snakemake does."""

    def __post_init__(self) -> None:
        self.dry = self.common_settings.dryrun
        self.screen = sys.stdout if self.common_settings.stdout else sys.stderr
        self.full = isinstance(self.settings, LogHandlerSettings) and self.settings.full
        self.study: str | None = None
        self.progress = Progress()
        self.planned: list[plan.Job] = []
        self.rules: list[str] = []
        self.failed: list[str] = []
        self.how_it_ended = ""
        self.log = ""
        self.nothing_to_do = self.closed = False

    @property
    def writes_to_stream(self) -> bool:
        return not self.full  # else Snakemake prints by itself

    @property
    def writes_to_file(self) -> bool:
        return False

    @property
    def has_filter(self) -> bool:
        return False  # --quiet and -p work as ever

    @property
    def has_formatter(self) -> bool:
        return False

    @property
    def needs_rulegraph(self) -> bool:
        return False

    def emit(self, record: LogRecord) -> None:
        if self.full:
            return
        try:
            self._tell(record, getattr(record, "event", None))
            self.screen.flush()
        except BrokenPipeError:
            self.full = True  # nobody reads on
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """The end of Snakemake: what a dry run plans, or what has been done."""
        if not (self.full or self.closed):
            self.closed = True
            with suppress(BrokenPipeError):
                self._print(self._plan() if self.dry else self._end())
                self.screen.flush()
        super().close()

    def _plan(self) -> str:
        if isinstance(self.settings, LogHandlerSettings) and self.settings.plan:
            return plan.as_json(self.planned, self.rules)
        return plan.shown(self.study, self.planned, self.rules)

    def _print(self, *lines: str) -> None:
        for line in lines:
            if line:
                print(line, file=self.screen)

    def _tell(self, record: LogRecord, event: LogEvent | None) -> None:
        found: dict[str, Any] = record.__dict__
        match event:
            case LogEvent.RUN_INFO:
                self._begin(found["stats"])
            case LogEvent.JOB_INFO if self.dry:
                self.planned.append(
                    plan.Job(found["rule_name"], dict(found["wildcards"]), list(found["output"]), found["reason"])
                )
            case LogEvent.JOB_INFO:
                self.progress.start(found["jobid"], found["rule_name"], dict(found["wildcards"]), time.monotonic())
            case LogEvent.JOB_FINISHED:
                self._finished(found["job_id"])
            case LogEvent.JOB_ERROR:
                self._failed(found)
            case LogEvent.ERROR if job := re.search(
                r"CalledProcessError in .*(returned .*|died .*)", self._text(record)
            ):
                self.how_it_ended = job[1]  # told with the job, without its whole command
            case LogEvent.ERROR if self.failed and record.getMessage().startswith(AGAIN):
                pass
            case LogEvent.SHELLCMD | LogEvent.DEBUG_DAG | LogEvent.GROUP_ERROR | LogEvent.ERROR:
                self._print(self.format(record))
            case None:
                self._message(record)

    @staticmethod
    def _text(record: LogRecord) -> str:
        return " ".join(record.getMessage().split())

    def _message(self, record: LogRecord) -> None:
        text = record.getMessage() if record.msg else ""
        if study := getattr(record, "study", None):
            self.study = study
        elif text.startswith(LOG_IS):
            self.log = ", ".join(os.path.relpath(path) for path in text.removeprefix(LOG_IS).split(", "))
        elif not (text.startswith(AGAIN if record.levelno > INFO else USUAL) or OF_PARTS.search(text)):
            self.nothing_to_do |= text.startswith("Nothing to be done")
            self._print(text)

    def _begin(self, stats: dict[str, int]) -> None:
        self.rules = [rule for rule in stats if rule not in ("total", words.ALL)]
        self.progress.expect({rule: stats[rule] for rule in self.rules}, time.monotonic())
        if not self.dry:
            self._print(
                f"{f'study {self.study}: ' if self.study else ''}{words.count(self.progress.total, 'job')} to do"
            )

    def _finished(self, job_id: int) -> None:
        if job := self.progress.finish(job_id, time.monotonic()):
            now = self.progress.line(time.monotonic())
            self._print(f"{now} {words.done(job.rule, job.wildcards)}: {clock(job.seconds)}")

    def _failed(self, found: dict[str, Any]) -> None:
        job = self.progress.fail(found["jobid"])
        name = words.name(found["rule_name"], job.wildcards if job else {})
        logs = [str(log) for log in found["log"]]
        told = next((error for log in logs if (error := own_error(Path(log)))), "")
        told = told or f"no error is in its log; the command {self.how_it_ended or 'did not give its outputs'}"
        where = "".join(f"\n  log: {log}" for log in logs)
        self._print(f"{self.progress.line(time.monotonic())} FAILED {name}{''.join(f', log: {log}' for log in logs)}")
        self.failed.append(f"{name}: {told}{where}")

    def _end(self) -> str:
        """How it ended and where the results lie; nothing where no job was looked at, as after --unlock."""
        progress, lines = self.progress, []
        took = clock(time.monotonic() - progress.began)
        ended = f"{progress.finished} of {words.count(progress.total, 'job')} done in {took}"
        if self.failed:
            lines += [f"{ended}, {len(self.failed)} failed:", *self.failed]
        elif progress.total:
            lines += [ended]
        if self.nothing_to_do or (progress.complete() and words.ALL in progress.seen):
            paths = [Path("results", self.study or "", name) for name in RESULTS]
            lines += [f"{path.stem}: {path}" for path in paths if self.study and path.is_file()]
        if self.log:
            lines += [f"full log: {self.log}"]
        return "\n".join(lines)


def own_error(log: Path) -> str:
    """What a command of this project wrote last, which is its error if it ended by one."""
    with suppress(OSError):
        text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
        if found := re.search(r"^deltageom [\w-]+: (?!.*^deltageom [\w-]+: ).*", text, re.MULTILINE | re.DOTALL):
            return found[0].strip()
    return ""
