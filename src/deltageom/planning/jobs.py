"""A study's jobs, said once: the workflow's provenance and `deltageom plan` read them here.

Imports nothing heavier than pydantic, for the Snakemake process reads the jobs' names on every start.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deltageom.measures import interface as measures
from deltageom.methods import interface as methods
from deltageom.study.checks.online import is_online
from deltageom.study.resolved import Study
from deltageom.study.schema import TOY_BASE, Run
from deltageom.study.sharing import View, mismatched, stage_of


@dataclass(frozen=True)
class Job:
    """A job of the workflow: its rule, and its record below provenance/ and benchmarks/ without suffix: `train/sft`."""

    rule: str
    record: str


def jobs(study: Study) -> list[Job]:
    """Every job of the study, in the order of the workflow.

    The workflow's own rules decide which jobs there are; tests hold this list against what Snakemake plans.
    """
    return [Job(rule, record) for rule, record in _jobs(study)]


def job_names(study: Study) -> list[str]:
    """The records that provenance.json merges, sorted: every job's but its own and that of the page, which shows it.

    The records of parts are in that of the job that merges them.
    """
    found = (job for job in jobs(study) if not job.rule.endswith("_part"))
    return sorted(job.record for job in found if job.record not in ("provenance", "page"))


def of_replicates(views: Sequence[View]) -> list[tuple[Job, Path]]:
    """Every job of all replicates with the folder of its results, from the project's; one that several share once."""
    found = {
        (job, Path("results", view.owners.get(_stage(job, view.owners), view.study.study)))
        for view in views
        for job in jobs(view.study)
    }
    order = {job.rule: at for at, job in enumerate(job for view in views for job in jobs(view.study))}
    return sorted(found, key=lambda one: (order[one[0].rule], str(one[1]), one[0].record))


def _stage(job: Job, stages: Mapping[str, str]) -> str:
    if job.rule.endswith("_part"):  # rollouts_part/1-of-3, evaluate_part/sft/1-of-3
        return job.record.rpartition("/")[0].replace("_part", "", 1)
    return stage_of(job.record, stages)


def needs_reference(study: Study) -> bool:
    """Whether a run reads the base's log-probs or its held-out samples."""
    return any("base" in methods.load(run.method).needs or run.training.kl_every for run in study.runs.values())


def _train(run: Run) -> str:
    if run.training.adapter == "none":
        return "train_whole"
    rule = "train_online" if is_online(run) else "train"
    return f"{rule}_with_snapshots" if run.training.snapshots else rule


def _parts(stage: str, jobs: int) -> Iterator[tuple[str, str]]:
    """Of a generation that `jobs` jobs share; none where it is one job's."""
    if jobs > 1:
        yield from ((stage.partition("/")[0], f"{stage}/{part}-of-{jobs}") for part in range(1, jobs + 1))


def _jobs(study: Study) -> Iterator[tuple[str, str]]:
    runs, imported = sorted(study.all_runs()), study.rollouts.file is not None
    models = ["base", *runs]
    layers = list(dict.fromkeys(module.split(".")[1] for module in study.modules()))
    yield from (("problems", f"problems/{name}") for name in ("train", *study.benchmarks))
    yield "decontaminate", "decontaminate"
    if study.base.model == TOY_BASE:
        yield "pretrain", "pretrain"
    if study.rollouts.generator == "teacher" and not imported:
        yield "teacher", "teacher"
    sampled = "import_rollouts" if imported else "rollouts"
    if not imported:
        yield from _parts("rollouts_part", study.rollouts.jobs)
    yield sampled, sampled
    yield "reward", "reward"
    if needs_reference(study):
        yield "reference", "reference"
    kl_terms = {stage for run in study.runs.values() for stage in mismatched(run)}
    yield from (("mismatched", stage) for stage in sorted(kl_terms))
    for run in sorted(study.runs):
        yield _train(study.runs[run]), f"train/{run}"
    yield from (("derive", f"derive/{run}") for run in sorted(study.derived))
    for model in models:
        yield from _parts(f"evaluate_part/{model}", study.evaluation.jobs)
    yield from ((rule, f"{rule}/{model}") for rule in ("evaluate", "grade") for model in models)
    if study.measures.geometry.base_rank:
        yield from (("base_spectrum", f"base_spectrum/{layer}") for layer in layers)
    yield from (("geometry", f"geometry/{layer}") for layer in layers)
    for measure in measures.chosen(study.measures.model_dump()).values():
        yield from (
            (record.partition("/")[0], record) for record in measure.jobs(sorted(measure.takes(study.with_derived())))
        )
    if study.is_replicate():
        yield from (("replicate_tables", "tables"), ("replicate_provenance", "provenance"))
        return
    yield "tables", "tables"
    if study.replicates.count > 1:
        yield "replicates", "replicates"
    yield from ((rule, rule) for rule in ("figures", "summary", "provenance", "page"))
