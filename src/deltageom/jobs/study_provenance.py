"""Where a whole study came from, as one table: its jobs' provenance merged, and the digests of its results.

Imports nothing heavier than pydantic, for the Snakemake process reads the jobs' names on every start.
"""

import json
import os
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from deltageom.errors import UserError
from deltageom.jobs import still_true
from deltageom.study.replicates import FOLDER as REPLICATES
from deltageom.study.resolved import Study
from deltageom.study.sharing import stage_of

Record = dict[str, Any]

GIT_SECONDS = 10  # a checkout on a slow disk is no reason to wait for long
KEYS = ("command", "settings", "code_sha256", "versions", "machine", "started", "wall_seconds", "peak_memory_mib")
ON_A_GPU = "peak_gpu_memory_mib"  # not in records of earlier versions


def read(folder: Path, names: Iterable[str], shared: Mapping[str, Path] | None = None) -> dict[str, Record]:
    """The jobs' records by name, each with the `study` that it is of.

    They lie in `folder`, provenance/ of the study's results; of a stage in `shared` in provenance/ of another study's.
    Raises UserError for a file that is missing or no such record.
    """
    shared = shared or {}
    records = {}
    for name in names:
        results = shared.get(stage_of(name, shared), folder.parent)
        path = results / folder.name / f"{name}.json"
        try:
            record = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise UserError(f"{path}: no such file: the job has not run") from None
        except ValueError as error:
            raise UserError(f"{path}: not JSON: {error}") from None
        if missing := [key for key in KEYS if key not in record] if isinstance(record, dict) else KEYS:
            raise UserError(f"{path}: is no job's provenance: it has no {missing[0]!r}")
        records[name] = record | {"study": results.relative_to(_of_all_studies(results)).as_posix()}
    return records


def merge(study: Study, jobs: Mapping[str, Record], results: Mapping[str, str], git: Record | None) -> Record:
    """One JSON object of the study, its jobs' records and its results' digests; the same input, the same bytes.

    `versions` has the version that most jobs ran with, a job's own `versions` where it differs, `mixed` what is not
    the same in all jobs, value by value: versions of packages, Python and platform, and a command's devices.
    """
    settings = study.model_dump(mode="json", exclude={"execution"})  # how jobs run is in each one's machine
    versions = _usual_versions(jobs.values())
    machines = sorted({_canonical(record["machine"]) for record in jobs.values()})
    return {
        "study": study.study,
        "settings": settings,
        "settings_sha256": still_true.of_values(settings),
        "seeds": dict(_seeds(settings)),
        "git": git,
        "mixed": _mixed(jobs),
        "versions": versions,
        "machines": [json.loads(machine) for machine in machines],
        "job_settings": {still_true.of_values(record["settings"]): record["settings"] for record in jobs.values()},
        "jobs": {
            name: {
                **{key: record[key] for key in KEYS if key not in ("settings", "versions", "machine")},
                "study": record["study"],
                ON_A_GPU: record.get(ON_A_GPU),
                "settings": still_true.of_values(record["settings"]),
                "machine": machines.index(_canonical(record["machine"])),
                "versions": {
                    package: record["versions"].get(package)
                    for package, usual in versions.items()
                    if record["versions"].get(package) != usual
                },
            }
            for name, record in jobs.items()
        },
        "totals": _totals(jobs.values()),
        "results": dict(results),
    }


def digests(files: Iterable[Path], folder: Path) -> dict[str, str]:
    """SHA-256 of each file, by its path below `folder`, the study's results; of another study's `../STUDY/...`.

    Raises UserError for a file that is not there, or is not below the folder that holds the results of all studies.
    """
    found, root = {}, _of_all_studies(folder)
    for path in files:
        if not path.is_relative_to(root) or ".." in path.relative_to(root).parts:
            raise UserError(f"{path}: is not below {root}, the folder of the studies' results")
        found[Path(os.path.relpath(path, folder)).as_posix()] = _file_digest(path)
    return found


def verify(path: Path) -> int:
    """How many results are what the study's provenance in `path` says. Raises UserError naming those that are not."""
    try:
        results = json.loads(path.read_bytes())["results"].items()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: is no study's provenance.json: it lists no results") from None
    wrong = []
    up = "../" * (len(path.parent.parts) - len(_of_all_studies(path.parent).parts))
    for name, recorded in results:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name.removeprefix(up)).parts:
            raise UserError(f"{path}: lists {name!r}, which is not below the folder of the studies' results")
        if not (path.parent / name).is_file():
            wrong.append(f"{name}: missing")
        elif _file_digest(path.parent / name) != recorded:
            wrong.append(f"{name}: not the file that was recorded")
    if wrong:
        raise UserError(f"{path}: of {len(results)} results {len(wrong)} do not fit:\n  " + "\n  ".join(wrong))
    return len(results)


def _of_all_studies(folder: Path) -> Path:
    """The folder of the results of all studies, from that of one, or of one of its replicates."""
    return folder.parents[2] if folder.parent.name == REPLICATES else folder.parent


def checkout(folder: Path) -> Record | None:
    """Commit of the git checkout that `folder` belongs to, and whether its files there differ from it; None without
    one. That a checkout merely lies around the project counts as none: its Snakefile must be tracked."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit or _git(folder, "ls-files", "--error-unmatch", "Snakefile") is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--", ".")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says, without trailing newline; None if it fails, is not there or takes too long."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", folder, *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _usual_versions(records: Iterable[Record]) -> dict[str, str]:
    """By package the version of most jobs that have it; of equally many, the one that sorts last."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        for package, version in record["versions"].items():
            counts[package][version] += 1
    return {package: max(of, key=lambda version: (of[version], version)) for package, of in sorted(counts.items())}


def _mixed(jobs: Mapping[str, Record]) -> Record:
    """By what is not the same in all jobs: each value, and the jobs that had it."""
    seen: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    packages = {package for record in jobs.values() for package in record["versions"]}
    for name, record in sorted(jobs.items()):
        machine = record["machine"]
        facts = {package: record["versions"].get(package, "not installed") for package in packages}
        facts |= {"python": machine["python"], "platform": machine["platform"]}
        facts |= {name: machine[name] for name in ("cpu", "kernels") if machine.get(name)}
        facts[f"device of {record['command']}"] = machine["device"]  # some commands never use a GPU
        for fact, value in facts.items():
            seen[fact][value].append(name)
    return {fact: dict(values) for fact, values in seen.items() if len(values) > 1}


def _totals(records: Iterable[Record]) -> Record:
    """Jobs, their seconds summed and the highest peak, by command and of all."""
    by_command: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_command[record["command"]].append(record)
        by_command["all"].append(record)
    return {
        command: {
            "jobs": len(of),
            "wall_seconds": round(sum(record["wall_seconds"] for record in of), 3),
            "peak_memory_mib": max(record["peak_memory_mib"] for record in of),
            ON_A_GPU: max((record[ON_A_GPU] for record in of if record.get(ON_A_GPU) is not None), default=None),
        }
        for command, of in by_command.items()
    }


def _seeds(tree: Any, place: str = "") -> Iterator[tuple[str, int]]:
    """Every seed in the settings, by its key: `runs.sft.training.seed`."""
    if not isinstance(tree, dict):
        return
    for key, value in tree.items():
        if (key == "seed" or key.endswith("_seed")) and isinstance(value, int):
            yield place + key, value
        yield from _seeds(value, f"{place}{key}.")


def _file_digest(path: Path) -> str:
    try:
        return still_true.of_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
