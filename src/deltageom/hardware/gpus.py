"""GPUs for one process: on a workstation Snakemake counts them but hands none out, so each job locks free ones itself.

A lock is one byte of one file a GPU, a POSIX record lock (`fcntl.lockf`). The kernel drops it however the process ends,
and it belongs to the process alone: with `flock`, and so with filelock, a forked child that outlives a killed job would
go on holding the job's GPUs. Its price: closing any descriptor of a file ends the process's locks on it, so no file is
opened twice here. Nothing is ever to be cleaned up; a lock file that is removed no longer protects its holder.

Each file has a second byte, the place in line. Who wants GPUs takes the places of all that it may use, in one order for
everyone, and keeps them until it has its GPUs: of those that want a GPU one chooses at a time, so nobody ends up with
half of what it wants beside another half, and one that wants two is not overtaken by a stream of those that want one.

Jobs that share GPUs (JOBS_PER_GPU above 1) put a read lock on the first byte, which many can hold at once, and lock one
of the bytes from the third on, one for each job that may share the GPU. So a job that shares with nobody waits for all
of them, and they wait for it.
"""

import fcntl
import os
import re
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deltageom.errors import UserError
from deltageom.hardware import nvidia_smi

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
FOLDER = "DELTAGEOM_GPU_LOCKS"
JOBS_PER_GPU = "DELTAGEOM_JOBS_PER_GPU"  # execution.jobs_per_gpu; workflow/rules/common.smk sets it
POLL_SECONDS = 0.2
REMIND_SECONDS = 60
HELD, LINE, SHARES = 0, 1, 2  # bytes of a lock file: the GPU, the place in line, and from the third on each sharer's
RECORD = 640  # bytes of text in a lock file for each job that may hold its GPU
FLOCK = "hhqqi0q"  # struct flock of 64-bit Linux: type, whence, start, length, pid
FIX = f"set `device: cpu`, fewer `processes` or a smaller `tensor_parallel`, or let {VISIBLE} name more"

_taken: list[str] = []


@dataclass(frozen=True)
class Device:
    """A GPU as CUDA_VISIBLE_DEVICES names it (index, GPU-UUID or MIG id), and the physical one's lock file."""

    id: str
    lock: str


def take(count: int) -> list[str]:
    """Takes `count` free GPUs until this process ends, waiting while others hold them; returns their ids.

    Those of CUDA_VISIBLE_DEVICES if that is set, else of nvidia-smi; afterwards CUDA_VISIBLE_DEVICES names them alone.
    Where JOBS_PER_GPU is above 1, outside SLURM, it is a share of the GPU that has the fewest jobs.
    Inside a SLURM job that sees just so many the scheduler has handed them out already: no lock, no waiting.
    Raises UserError if there are too few in all or the locks cannot be made; AssertionError if it is too late, since
    CUDA has been initialised, or if this process has taken GPUs before.
    """
    if count == 0:
        return []
    if count < 0:
        raise UserError(f"--gpus {count}: give 0 or more")
    job = os.environ.get("SLURM_JOB_ID")
    sharers = 1 if job else _jobs_per_gpu()
    if count > 1 and sharers > 1:
        raise UserError(f"--gpus {count}: a job that shares GPUs takes one: set execution.jobs_per_gpu: 1")
    torch = sys.modules.get("torch")
    if _taken or (torch is not None and torch.cuda.is_initialized()):
        raise AssertionError("GPUs are taken once a process, before CUDA is initialised")
    devices = visible()
    if len(devices) < count:
        raise UserError(f"--gpus {count}: only {len(devices)} here ({_ids(devices)}): {FIX}")
    if job and len(devices) == count:
        how = f"all that SLURM job {job} sees: no lock"
    else:
        if job:  # several commands share an allocation, whose indices are its own
            devices = [Device(device.id, f"slurm-{job}-{device.lock}") for device in devices]
        devices, how = _lock(devices, count, sharers), f"locked in {_folder()}"
    _taken.extend(device.id for device in devices)
    os.environ[VISIBLE] = ",".join(_taken)
    if any(id.isdigit() for id in _taken):
        os.environ.setdefault(ORDER, "PCI_BUS_ID")  # nvidia-smi's; CUDA's own puts the fastest first
    _say(f"GPU {_ids(devices)} ({how})")
    return list(_taken)


def check(count: int) -> None:
    """Raises UserError where fewer than `count` GPUs are visible to this process; none is taken."""
    devices = visible() if count else []
    if len(devices) < count:
        raise UserError(f"a job takes {count} GPUs: only {len(devices)} here ({_ids(devices)}): {FIX}")


def visible() -> list[Device]:
    """The GPUs that this process may use, in CUDA's order.

    Raises UserError if there is none, if one is unknown, and for one that MIG has split and whose instance is not
    named: CUDA would take the first without a word.
    """
    given = os.environ.get(VISIBLE)
    handed_out = "SLURM_JOB_ID" in os.environ and given is not None
    gpus = None if handed_out else nvidia_smi.gpus()
    if given is None:
        if gpus is None:
            raise UserError("no GPU: nvidia-smi is not on PATH: set `device: cpu` or run on a machine with GPUs")
        devices = [Device(index, gpu.uuid) for index, gpu in gpus.items()]
    else:
        entries = [entry.strip() for entry in given.split(",")]
        if "-1" in entries:
            entries = entries[: entries.index("-1")]  # as for CUDA: nothing after it is visible
        if not any(entries):
            raise UserError(f"no GPU: {VISIBLE}={given!r} hides all of them: unset it or set `device: cpu`")
        uuids = None if gpus is None else {index: gpu.uuid for index, gpu in gpus.items()}
        devices = [Device(entry, _lock_name(entry, uuids)) for entry in entries]
        if len({device.lock for device in devices}) < len(devices):
            raise UserError(f"{VISIBLE}={given!r} names a GPU twice: name each once")
    for device in devices:
        _refuse_split(device, gpus or {})
    return devices


def _refuse_split(device: Device, gpus: dict[str, nvidia_smi.Gpu]) -> None:
    if any(gpu.split and gpu.uuid == device.lock for gpu in gpus.values()):
        ids = ", ".join(nvidia_smi.mig_instances(device.lock))
        fix = f"set {VISIBLE} to one of its instances: {ids}" if ids else "it has no instances: make one, or end MIG"
        raise UserError(f"GPU {device.id} is split by MIG: {fix}")


def _lock_name(entry: str, uuids: dict[str, str] | None) -> str:
    """The UUID where nvidia-smi tells it, so that an index and a UUID (CUDA takes its beginning too) are one GPU."""
    if not re.fullmatch(r"[0-9]+|(GPU|MIG)-[0-9A-Za-z/-]+", entry):
        raise UserError(f"{VISIBLE}: {entry!r} is no GPU: give indices (0,1), GPU-UUIDs or MIG ids, comma between")
    if uuids is None or entry.startswith("MIG"):  # of MIG ids nvidia-smi's query says nothing
        return f"index-{int(entry)}" if entry.isdigit() else entry.replace("/", "_")
    found = [uuids.get(str(int(entry)))] if entry.isdigit() else [u for u in uuids.values() if u.startswith(entry)]
    if len(found) != 1 or found[0] is None:
        known = ", ".join(f"{index} ({uuid})" for index, uuid in uuids.items())
        raise UserError(f"{VISIBLE}: {entry!r} is not one of the GPUs that nvidia-smi lists: {known}")
    return found[0]


def _folder() -> Path:
    """One for all studies of a user on a machine.

    Not in XDG_RUNTIME_DIR: cron and sudo do not set it, and it vanishes at logout under jobs that go on, so that two
    studies would use two folders.
    """
    folder = Path(os.environ.get(FOLDER) or f"/tmp/deltageom-gpus-{os.geteuid()}")
    if not folder.is_absolute():
        raise UserError(f"{FOLDER}={folder}: give an absolute path: every study has to find the same folder")
    return folder


def _jobs_per_gpu() -> int:
    given = os.environ.get(JOBS_PER_GPU, "1")
    if not given.isdecimal() or int(given) < 1:
        raise UserError(f"{JOBS_PER_GPU}={given!r}: give 1 or more")
    return int(given)


def _lock(devices: list[Device], count: int, sharers: int) -> list[Device]:
    if any(device.id.isdigit() for device in devices) and os.environ.get(ORDER, "PCI_BUS_ID") != "PCI_BUS_ID":
        raise UserError(
            f"{ORDER}={os.environ[ORDER]} does not number GPUs as nvidia-smi does: unset it or use GPU-UUIDs"
        )
    folder = _folder()
    files: dict[Device, int] = {}
    taken: list[Device] = []
    try:
        files = _open_files(folder, devices)
        chosen = _choose(files, count, sharers)
        for device, place in chosen.items():
            _sign(files[device], place)
            fcntl.lockf(files[device], fcntl.LOCK_UN, 1, LINE)
        taken = list(chosen)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot lock GPUs here: {error}: it has to be a folder of yours, no link, with room for a file:"
            f" mend it or set {FOLDER} to another"
        ) from None
    finally:
        for device in files.keys() - taken:
            os.close(files[device])
    return taken


def _open_files(folder: Path, devices: list[Device]) -> dict[Device, int]:
    handle = _open_folder(folder)
    try:
        # sticky: keeps systemd-tmpfiles from removing the file of a job that runs for weeks
        mode, flags = 0o1600, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        return {device: os.open(f"{device.lock}.lock", flags, mode, dir_fd=handle) for device in devices}
    finally:
        os.close(handle)


def _open_folder(folder: Path) -> int:
    """Made if it is missing. In /tmp anyone can be there first, with a folder or a link: neither is used."""
    folder.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    found = os.fstat(handle)
    wrong = ""
    if found.st_uid != os.geteuid():
        wrong = f"belongs to user {found.st_uid}, not to you ({os.geteuid()}): set {FOLDER} to a folder of yours"
    elif stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
        wrong = f"others may write to it: chmod 700 {folder}"
    if wrong:
        os.close(handle)
        raise UserError(f"{folder}: the folder of the GPU locks {wrong}")
    return handle


def _choose(files: dict[Device, int], count: int, sharers: int) -> dict[Device, int]:
    """Locks `count` of the GPUs, waiting for its turn and for them: the first in `files`, or the least shared first.

    Returns each one's place among its `sharers`.
    """
    pauses = _pauses(lambda: _holders(files, count, sharers))
    for device in sorted(files, key=lambda device: device.lock):  # in one order for all: none waits in a circle
        while not _locked(files[device], LINE):
            next(pauses)
    taken: dict[Device, int] = {}
    while True:
        for device in sorted(files, key=lambda device: len(_held(files[device], sharers))):
            place = _place(files[device], sharers) if len(taken) < count and device not in taken else None
            if place is not None:
                taken[device] = place
        if len(taken) == count:
            return {device: taken[device] for device in files if device in taken}
        next(pauses)


def _place(file: int, sharers: int) -> int | None:
    """Locks the GPU, or one of its shares; returns which, None if none is free."""
    if sharers == 1:
        return 0 if _locked(file, HELD) else None
    if _locked(file, HELD, fcntl.LOCK_SH):
        for place in range(sharers):
            if _locked(file, SHARES + place):
                return place
        fcntl.lockf(file, fcntl.LOCK_UN, 1, HELD)
    return None


def _locked(file: int, byte: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Locks the byte if no other process has it."""
    try:
        fcntl.lockf(file, kind | fcntl.LOCK_NB, 1, byte)
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, as the file system likes
        return False
    return True


def _pauses(reason: Callable[[], str]) -> Iterator[None]:
    """Sleeps at each step; says why at the first and then once a minute."""
    due = time.monotonic()
    while True:
        if time.monotonic() >= due:
            _say(reason())
            due = time.monotonic() + REMIND_SECONDS
        time.sleep(POLL_SECONDS)
        yield


def _holders(files: dict[Device, int], count: int, sharers: int) -> str:
    lines = [f"waiting for {count} of {len(files)} GPUs"]
    for device, file in files.items():
        lines.append(f"{device.id}: {'; '.join(_held(file, sharers)) or 'free, for the job that is first in line'}")
    return "\n  ".join(lines)


def _held(file: int, sharers: int) -> list[str]:
    """Who holds a GPU: the jobs that share it, or the one that has it."""
    shared = [found for place in range(sharers) if (found := _holder(file, SHARES + place, place))]
    alone = None if shared else _holder(file, HELD, 0)
    return shared or ([alone] if alone else [])


def _holder(file: int, byte: int, place: int) -> str | None:
    """Who has locked a byte: the kernel says who; the command is in the file, where a dead holder's may still stand."""
    query = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    kind, _, _, _, pid = struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, query))
    if kind == fcntl.F_UNLCK:
        return None
    written = os.pread(file, RECORD, place * RECORD).decode(errors="replace").strip()
    return written if written.startswith(f"pid {pid}:") else f"pid {pid or 'of another container'}"


def _sign(file: int, place: int) -> None:
    words = [word if len(word) <= 80 else "..." for word in sys.argv]  # settings are long
    command = " ".join(" ".join(words).split())[:500]
    text = f"pid {os.getpid()}: {command}".encode(errors="backslashreplace")
    os.pwrite(file, text[: RECORD - 1].ljust(RECORD - 1) + b"\n", place * RECORD)


def _ids(devices: list[Device]) -> str:
    return ", ".join(device.id for device in devices)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
