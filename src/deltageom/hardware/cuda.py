"""Whether this process can compute on its GPU, and why not: one line, before anything is loaded."""

import re
import shutil

import torch

from deltageom.errors import UserError
from deltageom.hardware import nvidia_smi
from deltageom.study.schema import Device

NO_GPU = "no CUDA GPU is visible here: set `device: cpu` or run on a GPU node"


def check_device(device: Device) -> None:
    """Raises UserError unless this process can compute on `device`; for cuda on torch's current GPU.

    What it finds: all that check_driver does, a GPU in exclusive mode that another process has, and one whose memory
    others fill.
    """
    if device == "cpu":
        return
    check_driver()
    try:
        torch.cuda.mem_get_info()  # the first call that makes a context on the GPU
    except RuntimeError as error:
        raise _explained(error) from None


def check_driver() -> None:
    """Raises UserError for a torch without CUDA, no GPU, and a driver that is older than torch's CUDA.

    No GPU is touched: processes that have yet to choose theirs may ask.
    """
    if torch.version.cuda is None:
        if shutil.which("nvidia-smi") is None:
            raise UserError(f"device is cuda, but {NO_GPU}")
        raise UserError(
            f"device is cuda, but torch {torch.__version__} is built without CUDA: install a build with CUDA "
            "(docs/environments.md), or set `device: cpu`"
        )
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise _explained(error) from None


def _explained(error: RuntimeError) -> UserError:
    """CUDA's own words, and those of torch.cuda, in a user's."""
    said = str(error).strip() or type(error).__name__
    if old := re.search(r"driver on your system is too old \(found version (\d+)\)", said):
        reached = f"{int(old[1]) // 1000}.{int(old[1]) % 1000 // 10}"  # cudaDriverGetVersion's 12040 is 12.4
        why = (
            f"the NVIDIA driver here reaches CUDA {reached} and torch {torch.__version__} is built for "
            f"{torch.version.cuda}: update the driver, install a torch for CUDA {reached}, or set `device: cpu`"
        )
    elif "no NVIDIA driver" in said or "No CUDA GPUs are available" in said:
        why = NO_GPU
    elif "busy or unavailable" in said:
        why = f"another process has the GPU, which is in exclusive mode{_holders()}: wait for it, or take another GPU"
    elif "out of memory" in said:
        why = f"other processes fill the GPU's memory{_holders()}: wait for them, or take another GPU"
    else:
        why = f"CUDA does not start: {said.splitlines()[0]}"
    return UserError(f"device is cuda, but {why}")


def _holders() -> str:
    found = nvidia_smi.processes()
    return f" ({', '.join(found)})" if found else ""
