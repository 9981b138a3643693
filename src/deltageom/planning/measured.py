"""What a study's jobs took in truth: Snakemake's benchmark files, the records of provenance, the sizes of results."""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from deltageom.errors import UserError
from deltageom.planning.jobs import Job


@dataclass(frozen=True)
class Measured:
    """Of a rule's jobs that have run: how many, their seconds together, and the most memory that one of them took."""

    jobs: int
    seconds: float
    peak_mib: float | None


@dataclass(frozen=True)
class Rates:
    """Tokens per second that a finished study made and trained on, all of its jobs' time counted; None if unknown."""

    generated: float | None
    trained: float | None


def by_rule(jobs: Iterable[tuple[Job, Path]]) -> dict[str, Measured]:
    """Of the rules of which a job has run; each job with the folder of its results."""
    rows: dict[str, list[tuple[float, float | None]]] = {}
    for job, results in jobs:
        if (seconds := _seconds(results / "benchmarks" / f"{job.record}.tsv")) is not None:
            rows.setdefault(job.rule, []).append((seconds, _peak(results / "provenance" / f"{job.record}.json")))
    return {
        rule: Measured(len(found), sum(s for s, _ in found), max((p for _, p in found if p is not None), default=None))
        for rule, found in rows.items()
    }


def rates(results: Path) -> Rates:
    """Of the rollouts' completions, and of all runs' training. Raises UserError if there is no such folder."""
    if not results.is_dir():
        raise UserError(f"{results}: no such folder: --like names a study that has run here")
    return Rates(_generated(results), _trained(results))


def size(folder: Path) -> int:
    """Bytes of all files below it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _generated(results: Path) -> float | None:
    path = results / "rollouts" / "completions.parquet"
    seconds = _shared(results / "provenance" / "rollouts.json") or _seconds(results / "benchmarks" / "rollouts.tsv")
    if not seconds or not path.is_file():
        return None
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    lengths = pc.list_value_length(pq.read_table(path, columns=["token_ids"])["token_ids"])
    return int(pc.sum(lengths).as_py()) / seconds


def _trained(results: Path) -> float | None:
    import pandas as pd

    tokens, seconds = 0.0, 0.0
    for path in sorted(results.glob("runs/*/metrics.parquet")):
        metrics, taken = pd.read_parquet(path), _seconds(results / "benchmarks" / "train" / f"{path.parent.name}.tsv")
        seen = metrics.loc[metrics["metric"] == "tokens", "value"]
        if taken and len(seen):
            tokens, seconds = tokens + float(seen.max()), seconds + taken
    return tokens / seconds if seconds else None


def _shared(path: Path) -> float | None:
    """Of all jobs together that shared a generation, by its record; None for one that a single job made."""
    try:
        record = json.loads(path.read_bytes())
        return float(record["wall_seconds"]) if record["parts"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _seconds(path: Path) -> float | None:
    """Of wall time, the mean over a file's rows, one per repetition; None where it has not run."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return fmean(float(row["s"]) for row in csv.DictReader(file, delimiter="\t"))
    except (OSError, ValueError, KeyError, TypeError):  # missing, empty, or "-" for a job too short to be measured
        return None


def _peak(path: Path) -> float | None:
    try:
        found = json.loads(path.read_bytes())["peak_memory_mib"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return float(found) if isinstance(found, int | float) else None
