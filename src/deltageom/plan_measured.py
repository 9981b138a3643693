"""What a study's jobs took in truth: Snakemake's benchmark files, and the sizes of the results."""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from deltageom.plan_work import Stage

OF_RUNS = ("train", "train_whole")  # two rules, one folder of benchmarks


@dataclass(frozen=True)
class Measured:
    """Of a rule: how many of its jobs have a benchmark file, their seconds of wall and of CPU, the bytes they left.

    NaN where there is none. Snakemake samples the CPU time, after a while twice a minute: a lower bound.
    """

    jobs: int
    seconds: float
    cpu_seconds: float
    disk: float


def read(results: Path, stages: Iterable[Stage]) -> dict[str, Measured]:
    """By rule, those of which anything is there."""
    found = {}
    for stage in stages:
        rows = [_row(path) for path in _benchmarks(results / "benchmarks", stage)]
        disk = size([results / name for name in stage.files])
        if rows or disk:
            seconds, cpu = (sum(row[i] for row in rows) if rows else math.nan for i in (0, 1))
            found[stage.rule] = Measured(len(rows), seconds, cpu, disk or math.nan)
    return found


def size(paths: Iterable[Path]) -> int:
    """Bytes of files and of folders' contents, as `du --apparent-size` counts them; links count as themselves."""
    total = 0
    for path in paths:
        inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
        for file in inside:
            try:
                found = file.lstat()
            except OSError:  # gone meanwhile, for jobs may be running
                continue
            if not file.is_dir() or file.is_symlink():
                total += found.st_size
    return total


def _benchmarks(folder: Path, stage: Stage) -> list[Path]:
    if stage.rule in OF_RUNS:
        paths = [folder / "train" / f"{Path(run).name}.tsv" for run in stage.files]
    else:
        paths = [folder / f"{stage.rule}.tsv", *sorted((folder / stage.rule).rglob("*.tsv"))]
    return [path for path in paths if path.is_file()]


def _row(path: Path) -> tuple[float, float]:
    """Seconds of wall and of CPU, means over a file's rows: one a repetition of the job."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return _mean([row.get("s") for row in rows]), _mean([row.get("cpu_time") for row in rows])


def _mean(texts: list[str | None]) -> float:
    try:
        return sum(float(text or "nan") for text in texts) / len(texts)
    except (ValueError, ZeroDivisionError):  # "-" and "NA", and an empty file
        return math.nan
