"""What the doctor knows: what a study needs, what this machine has, and a line about each thing."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from deltageom.doctor_probes import Answer

State = Literal["ok", "warning", "missing"]


@dataclass(frozen=True)
class Line:
    """`fix`: the command or key that mends it. A missing thing that the study `needs` fails the command."""

    what: str
    state: State
    says: str
    fix: str = ""
    needed: bool = False


@dataclass(frozen=True)
class Needs:
    """What a study needs; without a study nothing.

    hub: (kind, id, revision) of what is not in the hub's cache; gpus: of its largest job; disk, download: bytes, NaN
    where the plan cannot tell; files: key and path of what has to be there.
    """

    study: str | None = None
    says: str = ""
    error: str = ""
    device: Literal["cpu", "cuda"] = "cpu"
    gpus: int = 0
    vllm: bool = False
    hub: Sequence[tuple[str, str, str | None]] = ()
    hub_cached: int = 0
    files: Sequence[tuple[str, Path]] = ()
    reporters: Sequence[str] = ()
    disk: float = 0.0
    download: float = 0.0


@dataclass(frozen=True)
class Found:
    """What the machine said. A program that is not on PATH has no answer here; a package that is missing no version."""

    python: tuple[int, int, int] = sys.version_info[:3]
    executable: str = sys.executable
    lock: str = "cpu.txt"  # of envs/, that the environment is held against
    pins: Mapping[str, str] = field(default_factory=dict)  # its versions by name; none where there is no such file
    versions: Mapping[str, str] = field(default_factory=dict)  # of everything that is pinned, and of the lines below
    torch_cuda: str | None = None  # that torch is built for
    torch_says: Answer | None = None  # what it computed on a GPU, where it was asked
    programs: frozenset[str] = frozenset()  # on PATH: nvidia-smi, sbatch, squeue, sinfo, sacct, conda, mamba
    nvidia_smi: Answer | None = None
    visible: str | None = None  # CUDA_VISIBLE_DEVICES
    refused: str = ""  # why jobs will not take the GPUs that the study needs
    sinfo: Answer | None = None
    sacct: Answer | None = None
    asks_squeue: bool = False  # profiles/slurm, which then needs no accounting database
    offline: str = ""  # the variables that keep the hub away, 'HF_HUB_OFFLINE=1'
    hub: Mapping[str | None, Mapping[str, str]] | None = None  # answers by id; None: it was not asked
    token: str = ""  # where one lies; never the token
    cache: str = ""
    disks: Sequence[tuple[str, str, int, float]] = ()  # what for, folder, its device, free bytes
    cores: int = 1
    memory: tuple[float, float] = (0.0, 0.0)  # bytes in all, available
    absent: frozenset[str] = frozenset()  # of Needs.files' keys and Needs.reporters
    vllm_environment: bool = False  # .venv-vllm is there
