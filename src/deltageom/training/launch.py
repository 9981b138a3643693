"""One function in several processes of one node, each with its own device, as accelerate's launchers start them."""

import json
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import PrepareForLaunch, patch_environment
from torch.multiprocessing.spawn import ProcessRaisedException, start_processes

from deltageom.errors import UserError
from deltageom.hardware import cuda
from deltageom.jobs import provenance

RAISED = "deltageom.errors.UserError: "


def launch(function: Callable[..., None], arguments: tuple[Any, ...], processes: int, cpu: bool) -> None:
    """Runs function(*arguments) in each process, which finds its rank in the environment; raises what one raises.

    The processes of one job write to one log, since they inherit this one's output. What they say of their GPUs goes
    into this one's provenance.
    """
    kind = "MULTI_CPU" if cpu else "MULTI_GPU"
    environment = {"world_size": processes, "master_addr": "127.0.0.1", "master_port": _free_port()}
    if cpu:
        environment |= {"accelerate_use_cpu": "yes", "gloo_socket_ifname": "lo"}
    with tempfile.TemporaryDirectory() as folder:
        run = PrepareForLaunch(_reporting, distributed_type=kind)
        try:
            with patch_environment(**environment):
                start_processes(run, (function, Path(folder), *arguments), processes, start_method="spawn")
        except ProcessRaisedException as error:
            _, found, message = str(error).rpartition(RAISED)
            if found:
                raise UserError(message.strip()) from None
            raise
        for said in sorted(Path(folder).iterdir()):
            provenance.add_gpus(json.loads(said.read_text(encoding="utf-8")))


def choose_device(processes: int) -> None:
    """Makes this process's own GPU the current one, before anything is loaded.

    Raises UserError for a wrong number of GPUs, and for one that cannot be used.

    Where one process sees several GPUs, transformers would split each micro batch over all of them (DataParallel),
    which changes losses that are sums over the global batch.
    """
    cuda.check_driver()
    here = torch.cuda.device_count()
    if processes == 1 and here > 1:
        raise UserError(
            f"{here} GPUs are visible to a training of one process: take one of them with `--gpus 1`, or name one in "
            "CUDA_VISIBLE_DEVICES; execution.processes trains one run on several"
        )
    if processes > here:
        raise UserError(
            f"{processes} processes, but {here} visible GPUs: take as many with `--gpus {processes}`, or lower "
            "execution.processes"
        )
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    cuda.check_device("cuda")


def _reporting(function: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """Runs the function in one of the processes, and leaves what it used of the GPUs in `folder`."""
    function(*arguments)
    found = json.dumps(provenance.own_gpus())
    (folder / os.environ["LOCAL_RANK"]).write_text(found, encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
