"""A small study through sbatch, disturbed in every way that clusters know, against the same study on this machine."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import BIN, copy_project, environment, snakemake
from tests.slurm.cluster import NODES, Cluster, Job, wait_for

# As the toy, with a job of every kind that it has on SLURM, and trainings long enough to be cancelled in.
STUDY = """
extends: toy
replicates: {count: 1}
toy: {documents: 1200}
problems: {limit: 48}
rollouts: {generator: base, samples: 4, max_tokens: 32, batch_size: 32, jobs: 2}
training: {steps: 60, batch_size: 8, micro_batch_size: 8, kl_every: null}
execution: {checkpoint_every: 4}
runs: {sft_seed7: null, rft: null, rift: null, rift_linear: null, offline_grpo: null, dpo: null}
benchmarks: {easy: {limit: 16}, hard: null, hard_sampled: null}
decoding: {max_tokens: 32}
measures:
  geometry: {top_k: [2], base_rank: null}
  connectivity: {problems: 8, points: 3}
  cka: {prompts: 8}
"""
STEPS = 60
# Too little for PyTorch at the first attempt, and ten times that at the second; a fake GPU for each job of a rule.
RESOURCES = ("rollouts_part:mem_mb=250*10**(attempt-1)", "hidden_states:gpu=1")
PATIENCE = 300  # seconds for what takes a few on an idle machine
# docs/slurm.md has the same
CANCEL_WHAT_IS_LEFT = (
    "squeue --me --noheader --format='%i %j' | awk '$2 ~ /^deltageom_/ {print $1}' | xargs --no-run-if-empty scancel"
)


class Workflow:
    """Snakemake with the project's SLURM profile, in the background."""

    def __init__(self, project: Path, name: str) -> None:
        self.log = project / f"{name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(BIN / "snakemake", "--workflow-profile", "profiles/slurm", "--config", "study=tiny"),
                    *("--set-resources", *RESOURCES),
                    # looks after 2 and 14 seconds: the profile's 10 and 30 see the end of jobs of 12 seconds late
                    *("--slurm-init-seconds-before-status-checks", "2"),
                ],
                cwd=project,
                env=environment(project),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def until(self, what: str, found: Callable[[], object]) -> None:
        """Waits; an AssertionError with the log's end if Snakemake ends first or it takes too long."""

        def look() -> bool:
            seen = bool(found())
            assert seen or self.process.poll() is None, f"Snakemake ended before {what}:\n{self.end()}"
            return seen

        try:
            wait_for(what, look, PATIENCE, pause=0.1)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.end()}") from None

    def __enter__(self) -> "Workflow":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> str:
        return self.log.read_text()[-5000:]


@dataclass
class Story:
    """What was done to the workflow, and what there was to see at the time."""

    project: Path
    cluster: Cluster
    cancelled: Job
    requeued: Job
    over_the_restart: Job
    at_the_kill: list[Job]
    model_made_at: int
    first: Workflow
    second: Workflow

    @property
    def results(self) -> Path:
        return self.project / "results" / "tiny"

    def jobs(self, rule: str) -> list[Job]:
        return sorted((job for job in self.cluster.jobs() if job.rule == f"rule_{rule}"), key=lambda job: int(job.id))


def _project(folder: Path) -> Path:
    project = copy_project(folder)
    (project / "studies" / "tiny.yaml").write_text(STUDY)
    return project


@pytest.fixture(scope="module")
def story(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Story:
    project = _project(tmp_path_factory.mktemp("disturbed") / "project")
    results = project / "results" / "tiny"
    with Workflow(project, "first") as first:
        # two trainings in their midst: one is cancelled, the other put back into the queue as after a node's failure
        first.until("a checkpoint of sft", lambda: _checkpoint(results, "sft"))
        cancelled = cluster.running("train_wildcards_tiny_sft")
        cluster.cancel(cancelled.id)
        first.until("a checkpoint of dft", lambda: _checkpoint(results, "dft"))
        requeued = cluster.running("train_wildcards_tiny_dft")
        cluster.requeue(requeued.id)
        reached = {run: _checkpoint(results, run) for run in ("sft", "dft")}
        # slurmd goes and comes back while the first trains again; the second does too, or has ended
        first.until(
            "dft goes on",
            lambda: _checkpoint(results, "dft") > reached["dft"] or (results / "runs" / "dft").exists(),
        )
        first.until("sft goes on", lambda: _checkpoint(results, "sft") > reached["sft"])
        over_the_restart = cluster.running("train_wildcards_tiny_sft")
        cluster.restart_node(cluster.details(over_the_restart.id)["NodeList"], away=2)
        # Snakemake itself is killed while a run is evaluated
        first.until("an evaluation", lambda: cluster.job("evaluate_wildcards_tiny_sft", "RUNNING"))
        first.process.kill()
        first.process.wait()
        at_the_kill = cluster.jobs("PENDING", "RUNNING")
    subprocess.run(["bash", "-c", CANCEL_WHAT_IS_LEFT], check=True)
    wait_for("an empty queue", lambda: not cluster.jobs("PENDING", "RUNNING", "COMPLETING"), 60)
    made_at = (results / "base" / "model.safetensors").stat().st_mtime_ns
    unlocked = snakemake(project, "--unlock", "--config", "study=tiny")
    assert unlocked.returncode == 0, unlocked.stderr
    with Workflow(project, "second") as second:
        second.until("its end", lambda: second.process.poll() is not None)
        assert second.process.returncode == 0, second.end()
    return Story(project, cluster, cancelled, requeued, over_the_restart, at_the_kill, made_at, first, second)


def _checkpoint(results: Path, run: str) -> int:
    """The step of a run's last complete checkpoint, 0 if there is none."""
    marks = (results / "scratch" / run).glob("checkpoint-*/complete.json")
    return max((int(mark.parent.name.removeprefix("checkpoint-")) for mark in marks), default=0)


@pytest.fixture(scope="module")
def undisturbed(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of the same project as this machine makes them without SLURM."""
    project = tmp_path_factory.mktemp("undisturbed") / "project"
    shutil.copytree(
        story.project, project, symlinks=True, ignore=shutil.ignore_patterns("results", ".snakemake", "*.log")
    )
    done = snakemake(project, "--config", "study=tiny", "--", "tables")
    assert done.returncode == 0, done.stdout + done.stderr
    return project / "results" / "tiny" / "tables"


def test_tables_are_those_of_the_undisturbed_study(story: Story, undisturbed: Path) -> None:
    tables = sorted(path.name for path in undisturbed.glob("*.csv"))
    assert len(tables) >= 15
    apart = [
        name for name in tables if (story.results / "tables" / name).read_bytes() != (undisturbed / name).read_bytes()
    ]
    assert apart == [], _first_apart(story.results, undisturbed.parent)


def _first_apart(disturbed: Path, undisturbed: Path) -> str:
    """Which weights and rollouts differ, in the order in which they are made, and where their jobs ran."""
    made = ("base/*.safetensors", "rollouts/*.parquet", "runs/*/*.safetensors", "runs/*/metrics.parquet")
    files = [path.relative_to(undisturbed) for pattern in made for path in sorted(undisturbed.glob(pattern))]
    apart = [str(file) for file in files if (disturbed / file).read_bytes() != (undisturbed / file).read_bytes()]
    machines = {
        str(path): json.loads(path.read_text())["machine"]
        for results in (disturbed, undisturbed)
        for path in (results / "provenance" / "pretrain.json", *(results / "provenance" / "train").glob("*.json"))
    }
    return f"apart: {apart} of {[str(file) for file in files]}; {json.dumps(machines, indent=1)}"


def test_a_cancelled_training_goes_on_with_more_memory(story: Story) -> None:
    cancelled, again, *others = story.jobs("train_wildcards_tiny_sft")
    assert others == []
    assert cancelled.id == story.cancelled.id
    assert (cancelled.state, again.state) == ("CANCELLED", "COMPLETED")
    assert (cancelled.memory, again.memory) == ("3000M", "6000M")
    assert _went_on(story, "sft")


def test_a_requeued_training_goes_on_as_the_same_job(story: Story) -> None:
    (job,) = story.jobs("train_wildcards_tiny_dft")
    assert (job.id, job.state) == (story.requeued.id, "COMPLETED")
    assert story.cluster.details(job.id)["Restarts"] == "1"
    assert _went_on(story, "dft")


def _went_on(story: Story, run: str) -> bool:
    """Whether the job that ended a training began at a checkpoint, by its log: it says so, and has a line a step."""
    log = (story.results / "logs" / "train" / f"{run}.log").read_text()
    begun = re.search(r"going on from checkpoint-(\d+)", log)
    return begun is not None and log.count("'loss':") == STEPS - int(begun[1])


def test_a_running_job_outlives_its_slurmd(story: Story) -> None:
    details = story.cluster.details(story.over_the_restart.id)
    assert (details["JobState"], details["Restarts"]) == ("COMPLETED", "0")


def test_a_job_over_its_memory_is_killed_and_gets_more(story: Story) -> None:
    for part in ("1_2", "2_2"):
        killed, again, *others = story.jobs(f"rollouts_part_wildcards_tiny_{part}")
        assert others == []
        assert (killed.state, again.state) == ("FAILED", "COMPLETED")
        assert (killed.memory, again.memory) == ("250M", "2500M")
        folder = story.project / ".snakemake" / "slurm_logs" / "rule_rollouts_part" / f"tiny_{part}"
        (log,) = folder.glob(f"{killed.id}.log")
        assert "exceeded memory limit" in log.read_text()


def test_both_nodes_work(story: Story) -> None:
    """The two jobs that share the rollouts, and the one that merges them, are submissions of their own."""
    (merged,) = story.jobs("rollouts_wildcards_tiny")
    assert merged.state == "COMPLETED"
    assert {story.cluster.details(job.id)["NodeList"] for job in story.cluster.jobs("COMPLETED")} == set(NODES)


def test_snakemake_killed_and_started_again_keeps_what_was_done(story: Story) -> None:
    assert story.at_the_kill
    states = {job.rule: story.cluster.details(job.id)["JobState"] for job in story.at_the_kill}
    assert states["rule_evaluate_wildcards_tiny_sft"] == "CANCELLED"
    assert set(states.values()) <= {"CANCELLED", "COMPLETED"}  # the latter in the last moment
    assert (story.results / "base" / "model.safetensors").stat().st_mtime_ns == story.model_made_at
    assert len(story.jobs("pretrain_wildcards_tiny")) == 1
    assert (story.results / "summary.md").is_file()
    for scratch in ("scratch", "shards"):
        assert not list((story.results / scratch).rglob("*")), scratch


def test_each_gpu_job_sees_a_gpu_of_its_own(story: Story) -> None:
    for run in ("dft", "sft"):
        log = (story.results / "logs" / "hidden_states" / f"{run}.log").read_text()
        taken = re.search(r"GPU ([01]) \(all that SLURM job (\d+) sees: no lock\)", log)
        assert taken is not None, log
        details = story.cluster.details(taken[2])
        assert details["Comment"] == f"rule_hidden_states_wildcards_tiny_{run}"
        assert details["TresPerJob"] == "gres:gpu:1"


def test_nothing_but_the_end_ran_beside_slurm(story: Story) -> None:
    """`all` is no job; each other was submitted."""
    output = story.first.log.read_text() + story.second.log.read_text()
    assert set(re.findall(r"^localrule (\w+):", output, flags=re.MULTILINE)) == {"all"}


def test_a_job_asks_for_its_rules_time_and_is_known_by_its_name(story: Story) -> None:
    (job,) = story.jobs("tables")
    details = story.cluster.details(job.id)
    assert details["TimeLimit"] == "00:30:00"
    assert details["Requeue"] == "1"
    assert details["JobName"].startswith("deltageom_")
