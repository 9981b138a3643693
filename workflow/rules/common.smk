# What the rules share: the resolved study, where its files lie, and the code that each command depends on.
import os
import re
import sys
import tempfile
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from deltageom.errors import UserError
from deltageom.hardware import gpus
from deltageom.jobs import checksums, graceful, warm
from deltageom.jobs import code as sources
from deltageom.jobs.watch import STARTED_BY
from deltageom.measures import interface as measures
from deltageom.methods import interface as methods
from deltageom.planning.jobs import job_names
from deltageom.problems.load import problems_from_file
from deltageom.report import results
from deltageom.report.page import parts
from deltageom.study import sharing
from deltageom.study.layers import settings, told
from deltageom.study.load import ancestors, load_study
from deltageom.study.places import ADAPTER_FILES, CHECKPOINT_FILES, MODEL_FILES, Places
from deltageom.study.explain import check_results
from deltageom.study.running import Execution
from deltageom.study.schema import TOY_BASE
from deltageom.toy import shipped

# The commands are installed beside this Python; a job's conda environment, if there is one, still comes first.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
)
os.environ[STARTED_BY] = str(os.getpid())  # jobs end with this process
checksums.by_content()
checksums.without_parts()
graceful.on_sigterm()

try:
    TOLD = told(
        workflow.config_settings.configfiles, workflow.config_settings.config_args
    )
    STUDY = load_study(overrides=TOLD)
    ANCESTORS = ancestors(STUDY.study)
    VIEWS = sharing.views(STUDY, ANCESTORS)
    if workflow.is_main_process:
        for owner in sorted({one for view in VIEWS for one in view.owners.values()}):
            check_results(Path("results", owner))
        for key, dataset in STUDY.datasets().items():
            name = "train" if key == "problems" else key.removeprefix("benchmarks.")
            try:
                if dataset.source == "file":
                    problems_from_file(dataset, STUDY.grading.grader(name))
            except UserError as error:
                raise UserError(f"{key}: {error}")
        if STUDY.rollouts.file and not Path(STUDY.rollouts.file).is_file():
            raise UserError(f"rollouts.file: {STUDY.rollouts.file}: no such file")
except UserError as error:
    raise WorkflowError(f"study {config.get('study')!r} cannot run:\n{error}")
if workflow.is_main_process:
    logger.info(f"study {STUDY.study}", extra={"study": STUDY.study})
# the environment, not an argument: how many share a GPU is no part of a job's command
os.environ[gpus.JOBS_PER_GPU] = str(STUDY.execution.jobs_per_gpu)


def check_gpus(local):
    """Raises UserError where `--resources gpu`, or this machine if jobs run on it, has too few for the largest job."""
    # a profile without `resources` leaves a resource that has no value
    allowed = getattr(workflow.global_resources.get("gpu"), "value", None)
    if allowed is not None and allowed < STUDY.gpus():
        raise UserError(
            f"--resources gpu={allowed}: a job takes {STUDY.gpus()} GPUs, and Snakemake would give it fewer:"
            " raise gpu, or lower execution.processes and execution.tensor_parallel"
        )
    if local:
        gpus.check(STUDY.gpus())


# Snakemake chooses the executor only after this file; a remote one has default resources before that.
if workflow.is_main_process and workflow.output_settings.dryrun:
    try:
        check_gpus(local=workflow.resource_settings.default_resources is None)
    except UserError as error:
        print(f"warning: the study cannot run here: {error}", file=sys.stderr)


onstart:
    if workflow.is_main_process and not workflow.touch:
        try:
            if any(job.resources.get("gpu") for job in workflow.dag.needrun_jobs()):
                check_gpus(workflow.local_exec)
        except UserError as error:
            raise WorkflowError(f"study {STUDY.study!r} cannot run here: {error}")
        # not with GPUs, which a process that has asked for one cannot share with its forks; nor in other environments
        if (
            STUDY.execution.warm_start
            and not (GPUS or STUDY.uses_vllm())
            and workflow.local_exec
            and len(list(workflow.dag.needrun_jobs())) >= warm.ENOUGH_JOBS
            and not workflow.deployment_settings.deployment_method
        ):
            os.environ[warm.FOLDER] = os.path.join(
                tempfile.gettempdir(),
                f"deltageom-{os.getpid()}-{os.urandom(4).hex()}",
            )


RESULTS = f"results/{STUDY.study}"
# Sorted: the order of keys in a study's file changes no job. Reports alone keep the study's order.
RUNS = sorted(STUDY.all_runs())
TRAINED = sorted(STUDY.runs)
MODELS = ["base", *RUNS]
BENCHMARKS = sorted(STUDY.benchmarks)
ALL_MODULES = STUDY.modules()
MODULES = sorted({module.split(".", 2)[2] for module in ALL_MODULES})
BASE_RANK = STUDY.measures.geometry.base_rank
GPUS = 1 if STUDY.device == "cuda" else 0
ENVIRONMENT = "../../envs/gpu.yaml" if GPUS else "../../envs/cpu.yaml"
MEASURES = measures.chosen(STUDY.measures.model_dump())
MEASURE_CODE = [f"measures.{name}" for name in MEASURES]

# Runs without an adapter: their delta is a difference of whole models.
WHOLE_RUNS = [run for run in TRAINED if STUDY.runs[run].training.adapter == "none"]

# Runs that sample while they train.
ONLINE_RUNS = sorted(STUDY.online_runs())

# Runs that keep their adapter as it was after each of these steps.
SNAPSHOT_RUNS = sorted(STUDY.with_snapshots())
SNAPSHOTS = STUDY.snapshots()


# The replicates, the study itself first: each knows which folder has each of its files.
REPLICATES = [Places(view) for view in VIEWS]
MAIN = REPLICATES[0]
STAGES = MAIN.view.stages


def of(stage, wildcards):
    """The replicate whose job of this stage is meant: the first of those that have its files in the owner's folder.

    `stage` may hold the other wildcards: `train/{run}`. What is no stage, a measure of one's own, is of each replicate.
    """
    name, folder = stage.format(**dict(wildcards)), f"results/{wildcards.owner}"
    return next(places for places in REPLICATES if places.at(name) == folder)


def owners(kind, before=""):
    """The `owner` wildcard of a stage, or of the stages KIND/NAME: a folder matches only before a name that it owns.

    `before`: what stands before that name in its part of the path.
    """
    names = {}
    for places in REPLICATES:
        for stage, owner in places.view.owners.items():
            if stage.partition("/")[0] == kind:
                name = stage.partition("/")[2]
                names.setdefault(owner, set()).add(name and before + name)
    if not names:
        names = {places.study.study: {""} for places in REPLICATES}
    return "|".join(
        (
            re.escape(owner)
            if owned == {""}
            else rf"{re.escape(owner)}(?=/(?:[^/]+/)*(?:{any_of(sorted(owned))})(?:/|\.[a-z]+$))"
        )
        for owner, owned in names.items()
    )


def any_of(names):
    """A wildcard's pattern that only these names match."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


def code(command, *found_by_name):
    """What a command does, as params: a file and the digest of its meaning each, so that `snakemake -n` names the file.

    `found_by_name`: modules that the command looks up at run time.
    """
    for_people_too = ("derive", "grade", "report")
    package = "cli" if command in for_people_too else "cli.jobs"
    files = sources.digests(f"{package}.{command.replace('-', '_')}", *found_by_name)
    return [f"{file} {digest}" for file, digest in files.items()]


def measure_code(name):
    """As `code`, of a measure's rows: how its tables and figures look is no part of them."""
    files = code("measure", f"measures.{name}")
    return [file for file in files if not file.startswith("deltageom/display/")]


def engine_code(command, engine):
    """As `code`, with the engine's file if this version has it; a job says if it has not."""
    try:
        return code(command, f"generation.engines.{engine}")
    except ModuleNotFoundError:
        return code(command)


def memory(mb):
    """A job's memory: as much again at each retry, so that one killed for taking more gets it."""
    return lambda _, attempt: mb * attempt


def generation_gpus(engine, jobs=1):
    """Of a job that generates; none of one that merges what `jobs` have made."""
    if jobs > 1:
        return 0
    return GPUS * (STUDY.execution.tensor_parallel if engine == "vllm" else 1)


def merged_memory(jobs, mb):
    """Of a job that generates; one that merges what `jobs` have made loads no model."""
    return memory(3000 if not GPUS else 64000 if jobs == 1 else mb)


def marks(scratch, jobs):
    """The marks of the jobs that share a generation; none where one job makes all."""
    return [
        f"{scratch}/{part}-of-{jobs}.json" for part in range(1, jobs + 1) if jobs > 1
    ]


def folder(files):
    """Where a rule's files lie, of one file or of several beside each other."""
    return os.path.dirname(files if isinstance(files, str) else files[0])


def runs_after(a, runs=RUNS):
    """The runs that `a` makes a pair with, so that each pair is measured once."""
    return runs[runs.index(a) + 1 :]


def named(option, paths):
    """An option of NAME=PATH for each of the paths, by name."""
    return [
        argument
        for name, path in paths.items()
        for argument in (option, f"{name}={path}")
    ]


def named_each(option, values):
    """An option that stands before each of the values."""
    return [argument for value in values for argument in (option, value)]


def run_arguments(places, runs):
    return named("--run", {run: places.run(run) for run in runs})


wildcard_constraints:
    owner="[A-Za-z0-9._/-]+",
    run="[A-Za-z0-9._-]+",
    model="[A-Za-z0-9._-]+",
    a="[A-Za-z0-9._-]+",
    b="[A-Za-z0-9._-]+",
    dataset="[A-Za-z0-9._-]+",
    layer=r"\d+",
    pairs=r"seed\d+-length\d+",
    part=r"\d+",
    parts=r"\d+",
