"""Kill a small study at random moments and start it again, until it is finished: nothing of it may show.

    python -m tests.workflow.killing --kills 30 --seed 1

A study is finished after some ten kills; the rest are of further ones, with the seeds that follow.

Compared with an undisturbed run, byte for byte: tables, adapters, rollouts, answers.
"""

import argparse
import glob
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.conftest import BIN, copy_project, environment

# Every kind of job that can be killed, as small as they get. Checkpoints and shards come often.
SMALL = """
extends: toy
replicates: {count: 1}
toy: {documents: 640}
teacher: {documents: 320}
problems: {limit: 48}
benchmarks: {easy: {limit: 8}, hard: null, hard_sampled: {limit: 4, samples: 4}}
rollouts: {samples: 8, max_tokens: 32, batch_size: 32, temperature: 1.0, jobs: 3}
reference: {prompts: 4, max_tokens: 16}
training: {steps: 12, batch_size: 8, micro_batch_size: 4, kl_every: 6}
runs: {sft_seed7: null, dft: null, rift_linear: null, rft: null, rift: null, offline_grpo: null}
decoding: {max_tokens: 32}
evaluation: {batch_size: 8, jobs: 2}
execution: {checkpoint_every: 2, shard_size: 32}
measures:
  geometry: {base_rank: null}
  connectivity: {problems: 4, points: 3}
  cka: {prompts: 4}
"""
# The undisturbed study, with which the killed ones are compared.
ONE_JOB = ("rollouts={jobs: 1}", "evaluation={jobs: 1}")
RESULTS = Path("results") / "small"
COMPARED = ["tables/*.csv", "runs/*/*.safetensors", "runs/*/metrics.parquet", "rollouts/*.parquet", "graded/*/*.jsonl"]
# What logs say of a job that goes on.
RESUMED = {
    "going on from there": "shards",
    "going on from checkpoint-": "checkpoints",
}


@dataclass
class Report:
    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    resumes: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        kills = ", ".join(f"{how} {n}" for how, n in sorted(self.kills.items()))
        resumes = ", ".join(f"{what} {n}" for what, n in sorted(self.resumes.items())) or "none"
        return (
            f"seed {self.seed}: {self.kills.total()} kills ({kills}), resumed from {resumes}, "
            f"{len(self.differences)} differences, {self.seconds:.0f} s"
        )


def project(folder: Path) -> Path:
    copy_project(folder)
    (folder / "studies" / "small.yaml").write_text(SMALL)
    return folder


def start(project: Path, *config: str) -> subprocess.Popen[bytes]:
    """Snakemake in a process group of its own."""
    command: list[str | Path] = [BIN / "snakemake", "--cores", "2", "--config", "study=small", *config]
    variables = environment(project)
    subprocess.run([*command, "--unlock"], cwd=project, env=variables, capture_output=True, check=False)
    with (project / "snakemake.log").open("ab") as log:
        return subprocess.Popen(command, cwd=project, env=variables, stdout=log, stderr=log, start_new_session=True)


def whole_group(process: subprocess.Popen[bytes], _random: random.Random) -> None:
    os.killpg(process.pid, signal.SIGKILL)


def snakemake_alone(process: subprocess.Popen[bytes], _random: random.Random) -> None:
    process.kill()


def politely(process: subprocess.Popen[bytes], _random: random.Random) -> None:
    process.terminate()


def one_job(process: subprocess.Popen[bytes], random: random.Random) -> None:
    """A job, with what it has started: Snakemake sees it fail."""
    jobs = [child for child in psutil.Process(process.pid).children(recursive=True) if _is_job(child)]
    for victim in random.sample(jobs, min(1, len(jobs))):
        victim.kill()


HOW: dict[str, Callable[[subprocess.Popen[bytes], random.Random], None]] = {
    "SIGKILL of the process group": whole_group,
    "SIGKILL of Snakemake": snakemake_alone,
    "SIGTERM of Snakemake": politely,
    "SIGKILL of a job": one_job,
}


def disturb_all(folder: Path, whole: Path, kills: int, seed: int, longest: float) -> Iterator[Report]:
    """Disturbs studies in `folder`, each with its seed, until `kills` are made; compares each with `whole`."""
    left = kills
    while left > 0:
        killed = project(folder / f"killed{seed}")
        report = disturb(killed, left, seed, longest)
        report.differences = differences(whole, killed)
        yield report
        left -= report.kills.total()
        seed += 1


def disturb(project: Path, kills: int, seed: int, longest: float) -> Report:
    """Kills the study `kills` times, the ways in turn, then lets it finish.

    A kill comes after 1 to `longest` seconds; two of three wait on from there until a checkpoint or shard is new, for
    there is little time in which there is one to go on from.
    """
    dice, report, started = random.Random(seed), Report(seed), time.monotonic()
    ways = list(HOW)
    while (number := report.kills.total()) < kills:
        process = start(project)
        if not _time_to_kill(process, project, dice.uniform(1, longest), bool(number % 3)):
            assert process.returncode == 0, (project / "snakemake.log").read_text()[-4000:]
            break  # finished before all kills were made
        how = ways[number % len(ways)]
        HOW[how](process, dice)
        report.kills[how] += 1
        process.wait(300)
        report.resumes += _resumes(project)
    assert start(project).wait() == 0, (project / "snakemake.log").read_text()[-4000:]
    report.resumes += _resumes(project)
    report.seconds = time.monotonic() - started
    return report


def _time_to_kill(process: subprocess.Popen[bytes], project: Path, seconds: float, something_new: bool) -> bool:
    """Waits; False if Snakemake ends before."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        kept, due = _kept(project), time.monotonic() + 60
        while something_new and process.poll() is None and time.monotonic() < due and not _kept(project) - kept:
            time.sleep(0.02)
    return process.poll() is None


def _kept(project: Path) -> set[str]:
    """What jobs can go on from."""
    folder = project / RESULTS
    # not Path.rglob, which raises where a folder goes meanwhile
    patterns = ("scratch/*/checkpoint-*/complete.json", "shards/**/[0-9]*.parquet")
    return {name for pattern in patterns for name in glob.glob(pattern, root_dir=folder, recursive=True)}  # noqa: PTH207


def differences(one: Path, other: Path) -> list[str]:
    """Files that are not the same in both, or not in both."""
    files = {
        path.relative_to(root / RESULTS)
        for root in (one, other)
        for pattern in COMPARED
        for path in (root / RESULTS).glob(pattern)
    }
    assert len(files) > 20, files
    return sorted(str(name) for name in files if _content(one / RESULTS / name) != _content(other / RESULTS / name))


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _is_job(process: psutil.Process) -> bool:
    try:
        return any(part.endswith("/deltageom") for part in process.cmdline())
    except psutil.Error:
        return False


def _resumes(project: Path) -> Counter[str]:
    """Jobs whose log, of their last start, says that they went on; each log is counted once."""
    found: Counter[str] = Counter()
    for log in (project / RESULTS / "logs").rglob("*.log"):
        text = log.read_text(errors="replace")
        for says, what in RESUMED.items():
            if says in text and not (seen := log.with_suffix(f".{what}-{hash(text)}")).exists():
                seen.touch()
                found[what] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=15.0, help="seconds to a kill, at most")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        whole = project(Path(name) / "whole")
        assert start(whole, *ONE_JOB).wait() == 0, (whole / "snakemake.log").read_text()
        reports: list[Report] = []
        for report in disturb_all(Path(name), whole, given.kills, given.seed, given.longest):
            print(report, *report.differences, sep="\n  differs: ", flush=True)
            reports.append(report)
        if any(report.differences for report in reports):
            shutil.copytree(name, Path.cwd() / "killed")
            sys.exit(1)


if __name__ == "__main__":
    main()
