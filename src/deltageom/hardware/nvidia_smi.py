"""What nvidia-smi says of this machine's GPUs. The standard library only: the Snakemake process asks too."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from deltageom.errors import UserError

SECONDS = 30
FORMAT = "--format=csv,noheader"
ROW = re.compile(r"([0-9]+), *(GPU-[0-9A-Za-z-]+)(?:, *(.*))?")


@dataclass(frozen=True)
class Gpu:
    """A physical GPU. `split`: MIG has divided it into instances, which jobs take instead of the GPU."""

    uuid: str
    split: bool


def gpus() -> dict[str, Gpu] | None:
    """The machine's GPUs by index; None without nvidia-smi.

    Raises UserError for an nvidia-smi that fails: jobs that know their GPUs by other names would not see each other's
    locks.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    done = _ask(program, "--query-gpu=index,uuid,mig.mode.current", FORMAT)
    if done.returncode:  # an older one, which knows nothing of MIG, or one that fails whatever is asked
        done = _ask(program, "--query-gpu=index,uuid", FORMAT)
    lines = done.stdout.strip().splitlines()
    rows = [ROW.fullmatch(line.strip()) for line in lines]
    if done.returncode or not rows or None in rows:
        said = " ".join((done.stdout + done.stderr).split()) or "nothing"
        raise UserError(f"no GPU: nvidia-smi (exit status {done.returncode}) says: {said}")
    return {row[1]: Gpu(row[2], row[3] == "Enabled") for row in rows if row}


def mig_instances(uuid: str) -> list[str]:
    """The MIG ids of a GPU's instances, as CUDA_VISIBLE_DEVICES takes them; none if nvidia-smi does not list any."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    owner, found = "", []
    for line in _ask(program, "-L").stdout.splitlines():
        if name := re.search(r"\(UUID: ((?:GPU|MIG)-[0-9A-Za-z/-]+)\)", line):
            if name[1].startswith("GPU"):
                owner = name[1]
            elif owner == uuid:
                found.append(name[1])
    return found


def processes() -> list[str]:
    """Who holds memory of the GPUs of CUDA_VISIBLE_DEVICES, of all without it, this process left out.

    As 'python (pid 7, 812 MiB)'. Best effort, for an error's text: none where nvidia-smi does not tell.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    chosen = ["-i", visible] if visible and "MIG" not in visible else []
    try:
        done = _ask(program, "--query-compute-apps=pid,process_name,used_memory", FORMAT, *chosen)
    except UserError:
        return []
    if done.returncode:
        return []
    rows = [re.fullmatch(r"([0-9]+), *(.*), *([^,]*)", line.strip()) for line in done.stdout.splitlines()]
    return [f"{row[2]} (pid {row[1]}, {row[3]})" for row in rows if row and int(row[1]) != os.getpid()]


def _ask(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"no GPU: nvidia-smi did not answer in {SECONDS} s: run it by hand") from None
    except OSError as error:
        raise UserError(f"no GPU: nvidia-smi does not run: {error}") from None
