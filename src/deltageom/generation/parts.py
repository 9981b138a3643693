"""A generation that several jobs share: which requests are whose, the marks that they leave, and what the merge checks.

All of them keep their completions in the same folder of shards, by the requests of the whole. So another number of jobs
finds what those before it have kept.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deltageom.errors import UserError
from deltageom.generation.shards import Shards, versions

PEAKS = ("peak_memory_mib", "peak_gpu_memory_mib")


def check(jobs: int, prompts: int, what: str) -> None:
    """Raises UserError where there are more jobs than prompts."""
    if jobs > prompts:
        raise UserError(f"{what}.jobs {jobs} is more than the {prompts} prompts that they share: set it to {prompts}")


def share(order: Sequence[int], shards: Shards, part: int, parts: int) -> list[int]:
    """Those of the requests in `order` that part 1, 2, ... of `parts` makes: whole batches, dealt in turn.

    So every batch is the one that it would be in a single job. Another generation begins with another part, for one
    with a single batch should not always fall to the first.
    """
    batches = [order[at : at + shards.batch_size] for at in range(0, len(order), shards.batch_size)]
    first = int(shards.folder.name, 16)
    return [index for number, batch in enumerate(batches) if (first + number) % parts == part - 1 for index in batch]


def mark(scratch: Path, part: int, parts: int) -> Path:
    """What a part's job writes once it is done: its provenance record. The rules say the same."""
    return scratch / f"{part}-of-{parts}.json"


def with_parts(record: dict[str, Any], scratch: Path, parts: int) -> dict[str, Any]:
    """The provenance record of the job that merged: with the parts' machine, their seconds summed, their highest peaks.

    `parts` has each part's own.
    """
    marks = [mark(scratch, part, parts) for part in range(1, parts + 1)]
    of_parts = [json.loads(path.read_bytes()) for path in marks if path.is_file()]
    if not of_parts:
        return record
    everyone = [record, *of_parts]
    peaks = {key: [one[key] for one in everyone if one[key] is not None] for key in PEAKS}
    return record | {
        "machine": of_parts[0]["machine"],
        "started": min(one["started"] for one in everyone),
        "wall_seconds": round(sum(one["wall_seconds"] for one in everyone), 3),
        **{key: max(values, default=None) for key, values in peaks.items()},
        "parts": [{key: one[key] for key in ("machine", "started", "wall_seconds", *PEAKS)} for one in of_parts],
    }


def forget_others(scratch: Path, parts: int) -> None:
    """Removes the marks of other numbers of jobs, which nothing reads; Snakemake removes those of this one."""
    for path in set(scratch.glob("*-of-*.json")) - {mark(scratch, part, parts) for part in range(1, parts + 1)}:
        path.unlink(missing_ok=True)


def check_whole(generations: Iterable[tuple[Sequence[int], Shards]], scratch: Path, parts: int) -> None:
    """Raises UserError where shards lack a completion of the requests; each generation is its requests in order.

    The parts that should have made it lose their marks, so that the next start of Snakemake runs these parts again.
    """
    lacking: Counter[int] = Counter()
    for order, shards in generations:
        kept = shards.indices()
        for part in range(1, parts + 1):
            lacking[part] += sum(index not in kept for index in share(order, shards, part, parts))
    if not (lacking := +lacking):
        return
    reasons = dict.fromkeys(_why(mark(scratch, part, parts)) for part in lacking)
    for part in lacking:
        mark(scratch, part, parts).unlink(missing_ok=True)
    which = ", ".join(f"{number} of part {part}" for part, number in lacking.items())
    raise UserError(
        f"of {parts} jobs' completions these are not in {scratch}: {which}; {'; '.join(reasons)}. Start Snakemake "
        "again: it makes these alone, and keeps the others"
    )


def _why(path: Path) -> str:
    """Why the completions of the part with this mark are not there for this job."""
    here = dict(versions())
    try:
        theirs = json.loads(path.read_bytes())["versions"]
    except (OSError, ValueError, KeyError, TypeError):
        return "the part has not ended"
    if other := [name for name in sorted({*here, *theirs}) if name in here and theirs.get(name) != here[name]]:
        was = ", ".join(f"{name} {theirs.get(name, 'missing')}" for name in other)
        now = ", ".join(f"{name} {here[name]}" for name in other)
        return f"they were made with {was} and this job has {now}, so let all run in one environment"
    return "shards were lost since"
