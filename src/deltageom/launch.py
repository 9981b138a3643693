"""One function in several processes of one node, each with its own device, as accelerate's launchers start them."""

import socket
from collections.abc import Callable
from typing import Any

from accelerate.utils import PrepareForLaunch, patch_environment
from torch.multiprocessing.spawn import ProcessRaisedException, start_processes

from deltageom.errors import UserError

RAISED = "deltageom.errors.UserError: "


def launch(function: Callable[..., None], arguments: tuple[Any, ...], processes: int, cpu: bool) -> None:
    """Runs function(*arguments) in each process, which finds its rank in the environment; raises what one raises.

    The processes of one job write to one log, since they inherit this one's output.
    """
    kind = "MULTI_CPU" if cpu else "MULTI_GPU"
    environment = {"world_size": processes, "master_addr": "127.0.0.1", "master_port": _free_port()}
    if cpu:
        environment |= {"accelerate_use_cpu": "yes", "gloo_socket_ifname": "lo"}
    try:
        with patch_environment(**environment):
            start_processes(
                PrepareForLaunch(function, distributed_type=kind), arguments, processes, start_method="spawn"
            )
    except ProcessRaisedException as error:
        _, found, message = str(error).rpartition(RAISED)
        if found:
            raise UserError(message.strip()) from None
        raise


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
