# What the rules share: the resolved study, where its files lie, and the code that each command depends on.
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from deltageom import devices
from deltageom import problems as problem_sets
from deltageom.code import import_closure
from deltageom.errors import UserError
from deltageom.methods import interface as methods
from deltageom.provenance_summary import job_names
from deltageom.schema import EMBEDDED, Execution
from deltageom.study import load_study, settings, told
from deltageom.watch import STARTED_BY

# The commands are installed beside this Python; a job's conda environment, if there is one, still comes first.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
)
os.environ[STARTED_BY] = str(os.getpid())  # jobs end with this process

try:
    TOLD = told(
        workflow.config_settings.configfiles, workflow.config_settings.config_args
    )
    STUDY = load_study(overrides=TOLD)
    if workflow.is_main_process:
        for dataset in (STUDY.problems, *STUDY.benchmarks.values()):
            if dataset.source == "file":
                problem_sets.from_file(dataset)
        if STUDY.rollouts.file and not Path(STUDY.rollouts.file).is_file():
            raise UserError(f"rollouts.file: {STUDY.rollouts.file}: no such file")
except UserError as error:
    raise WorkflowError(f"study {config.get('study')!r} cannot run:\n{error}")
# the environment, not an argument: how many share a GPU is no part of a job's command
os.environ[devices.JOBS_PER_GPU] = str(STUDY.execution.jobs_per_gpu)


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
        devices.check(STUDY.gpus())


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


# Without how jobs run, which is nothing that the summary speaks of.
COMPARED = STUDY.model_copy(
    update={
        "execution": Execution(
            processes=1,
            jobs_per_gpu=1,
            checkpoint_every=None,
            report_to=[],
            shard_size=1,
            tensor_parallel=1,
            memory_share=1.0,
        )
    }
)
RESULTS = f"results/{STUDY.study}"
# Sorted: the order of keys in a study's file changes no job. Reports alone keep the study's order.
RUNS = sorted(STUDY.runs)
MODELS = ["base", *RUNS]
BENCHMARKS = sorted(STUDY.benchmarks)
ALL_MODULES = STUDY.modules()
MODULES = sorted({module.split(".", 2)[2] for module in ALL_MODULES})
# Where overlaps are only counted, a new benchmark is no reason to sample the training problems again.
DROPS_OVERLAPS = STUDY.decontamination.overlap == "drop"
TRAINED_ON = (
    f"{RESULTS}/decontamination/train.jsonl"
    if DROPS_OVERLAPS
    else f"{RESULTS}/problems/train.jsonl"
)
DECONTAMINATION_FILES = ["train.jsonl", "overlaps.jsonl", "report.json"]
BASE_RANK = STUDY.measures.geometry.base_rank
GPUS = 1 if STUDY.device == "cuda" else 0
ENVIRONMENT = "../../envs/gpu.yaml" if GPUS else "../../envs/cpu.yaml"

MODEL_FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]
ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors"]
CHECKPOINT_FILES = ["config.json", "generation_config.json", "model.safetensors"]
# Runs without an adapter: their delta is a difference of whole models.
WHOLE_RUNS = [run for run in RUNS if STUDY.runs[run].training.adapter == "none"]


def code(command, *found_by_name):
    """The files whose edit changes what a command does; `found_by_name`: modules that it looks up at run time."""
    modules = [f"cli.{command.replace('-', '_')}", *found_by_name]
    paths = {path for module in modules for path in import_closure(module)}
    # relative where it can be: a project that has moved has nothing to rerun
    return sorted(
        os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
        for path in paths
    )


def engine_code(command, engine):
    """As `code`, with the engine's file if this version has it; a job says if it has not."""
    try:
        return code(command, f"engines.{engine}")
    except ModuleNotFoundError:
        return code(command)


def memory(mb):
    """A job's memory: as much again at each retry, so that one killed for taking more gets it."""
    return lambda _, attempt: mb * attempt


def transformers_settings(engine):
    """Those of the transformers engine where it generates: jobs of another engine do not depend on them."""
    return STUDY.transformers if engine == "transformers" else None


def generation_gpus(engine):
    return GPUS * (STUDY.execution.tensor_parallel if engine == "vllm" else 1)


def model_path(name):
    """Folder or hub id of `base`, `teacher` or another model."""
    if name == "teacher" or (name == "base" and STUDY.base.model == EMBEDDED):
        return f"{RESULTS}/{name}"
    return STUDY.base.model if name == "base" else name


def model_files(name):
    """The files of a model that a job must wait for or that may change; none for a hub model."""
    path = model_path(name)
    if path in (f"{RESULTS}/base", f"{RESULTS}/teacher"):
        return [f"{path}/{file}" for file in MODEL_FILES]
    return sorted(
        str(file)
        for kind in ("*.json", "*.safetensors")
        for file in Path(path).glob(kind)
    )


def dataset_of(name):
    """The data set that is written as problems/<name>.jsonl: a benchmark's, or the training prompts'."""
    return STUDY.problems if name == "train" else STUDY.benchmarks[name].dataset


def dataset_file(wildcards):
    """A local data set's file, so that an edit of it is seen; none for the embedded world and the hub."""
    dataset = dataset_of(wildcards.dataset)
    return dataset.path if dataset.source == "file" else []


def folder(files):
    """Where a rule's files lie, of one file or of several beside each other."""
    return os.path.dirname(files if isinstance(files, str) else files[0])


def runs_after(a):
    """The runs that `a` makes a pair with, so that each pair is measured once."""
    return RUNS[RUNS.index(a) + 1 :]


def adapter(run):
    """The files of a run's adapter, or of its whole model where it has none."""
    files = CHECKPOINT_FILES if run in WHOLE_RUNS else ADAPTER_FILES
    return [f"{RESULTS}/runs/{run}/{file}" for file in files]


def adapter_of(wildcards):
    """The adapter, or the checkpoint, of a model's name; none for the base."""
    return [] if wildcards.model == "base" else adapter(wildcards.model)


def adapter_argument(wildcards):
    return (
        []
        if wildcards.model == "base"
        else ["--adapter", f"{RESULTS}/runs/{wildcards.model}"]
    )


def any_of(runs):
    """A wildcard's pattern that these runs alone match."""
    return "|".join(re.escape(run) for run in runs) or "(?!)"


def method_needs(run, what):
    return what in methods.load(STUDY.runs[run].method).NEEDS


def train_inputs(wildcards):
    """What only some runs read: the base's log-probs, its held-out samples, the run whose norm is matched."""
    training = STUDY.runs[wildcards.run].training
    files = {}
    if method_needs(wildcards.run, "base"):
        files["reference"] = f"{RESULTS}/reference/log_probs.parquet"
    if training.kl_every:
        files["held_out"] = f"{RESULTS}/reference/held_out.parquet"
    if training.match_norm:
        files["match"] = adapter(training.match_norm.run)
    return files


def train_arguments(wildcards, input):
    arguments = []
    if "reference" in input.keys():
        arguments += ["--reference", input.reference]
    if "held_out" in input.keys():
        arguments += ["--held-out", input.held_out]
    if "match" in input.keys():
        arguments += ["--match", folder(input.match)]
    return arguments


def base_arguments():
    """The base, which a checkpoint's delta is measured from, and which runs may be held against."""
    revision = STUDY.base.revision
    return [
        *("--base", model_path("base")),
        *(("--revision", revision) if revision else ()),
    ]


def named(option, paths):
    """An option of NAME=PATH for each of the paths, by name."""
    return [
        argument
        for name, path in paths.items()
        for argument in (option, f"{name}={path}")
    ]


def module_arguments(layer):
    return [
        argument
        for name in MODULES
        for argument in ("--module", f"layers.{layer}.{name}")
    ]


def base_spectra(wildcards):
    """The base's singular triplets of a layer's modules, if the study asks for them."""
    return [
        f"{RESULTS}/base_spectrum/layers.{wildcards.layer}.{module}.safetensors"
        for module in MODULES
        if BASE_RANK
    ]


def spectra_arguments(spectra):
    return ["--spectra", folder(spectra), "--base-rank", BASE_RANK] if spectra else []


def reported(path, section, kind):
    """A file that `snakemake --report` shows, with the caption of its name.

    One label: of two the report makes a switch, where half of a section's files have one value and half the other,
    and then wants every file to have a counterpart.
    """
    name = Path(path).stem
    return report(
        path,
        caption=f"../report/{name}.rst",
        category=section,
        labels={"result": f"{name.replace('_', ' ')} ({kind})"},
    )


def in_sections(files, sections, suffix, kind):
    """The files, those with the suffix flagged for the report."""
    return [
        (
            reported(path, sections[Path(path).stem], kind)
            if path.endswith(suffix)
            else path
        )
        for path in files
    ]


wildcard_constraints:
    run="[A-Za-z0-9._-]+",
    model="[A-Za-z0-9._-]+",
    a="[A-Za-z0-9._-]+",
    b="[A-Za-z0-9._-]+",
    dataset="[A-Za-z0-9._-]+",
    layer=r"\d+",
