"""Jobs of one Snakemake start warm: as forks of a process that has loaded the libraries, 10 s of work done once.

A command that finds FOLDER in its environment connects to the server that listens there for its very environment, or
starts it. The server forks; the fork takes over the command's arguments, working directory and open streams, and loads
this package's own code anew. The command waits, passes signals on, and ends as the fork ends; the fork is killed if
the command is. A job is a process of its own as before, so that caching, logs, memory and kills stay what they were.
The server ends with its Snakemake (watch.STARTED_BY). Linux; elsewhere, and wherever this fails, a job starts cold.
"""

import errno
import gc
import hashlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from deltageom.jobs.watch import STARTED_BY

FOLDER = "DELTAGEOM_WARM"  # where the sockets lie; workflow/rules/common.smk sets it
# What most of a job's start is. Nothing here may compute: a thread pool does not survive the fork.
LIBRARIES = (
    "numpy",
    "pandas",
    "pyarrow.parquet",
    "scipy.stats",
    "seaborn",
    "datasets",
    "torch",
    "transformers.trainer",
    "peft",
    "trl.trainer.sft_trainer",
)
ENOUGH_JOBS = 10  # of fewer, each loads what it needs itself in less time than the server loads everything
OF_ONE_SHELL = {"_", "SHLVL", "PWD", "OLDPWD"}  # differ between jobs and change nothing
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MESSAGE = 2**20  # bytes, of a command's arguments


def run(argv: list[str]) -> int | None:
    """The exit status of the command, run as a fork of the server; None where it has to start cold."""
    folder = os.environ.get(FOLDER)
    if not folder or not hasattr(os, "pidfd_open"):
        return None
    try:
        connection = _connect(Path(folder) / _name())
        asked = json.dumps({"argv": argv, "cwd": str(Path.cwd())}).encode()
        socket.send_fds(connection, [asked], [0, 1, 2])
        if not connection.recv(1):  # the fork is there
            return None
    except (OSError, ValueError):
        return None
    for number in PASSED_ON:
        signal.signal(number, lambda given, _: connection.send(bytes([given])))
    try:
        status = connection.recv(1)
    except OSError:
        status = b""
    return status[0] if status else 128 + signal.SIGKILL


def _name() -> str:
    """Of the server for this environment: another number of threads is another server."""
    told = {name: value for name, value in os.environ.items() if name not in OF_ONE_SHELL}
    return hashlib.sha256(json.dumps([sys.prefix, sorted(told.items())]).encode()).hexdigest()[:16]


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        _start(path)
        connection.connect(str(path))
    return connection


def _start(path: Path) -> None:
    """Starts the server, unless another job does: who binds the socket starts it, and commands queue meanwhile."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if path.parent.stat().st_uid != os.getuid():  # who listens there is asked to run commands
        raise PermissionError(path.parent)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        try:
            listener.bind(str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return
        listener.listen(128)
        subprocess.Popen(
            [sys.executable, "-m", "deltageom.jobs.warm", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            env=os.environ | {"TQDM_MININTERVAL": "5"},  # as cli.main says it, but before tqdm is imported
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the jobs
        )


class Server:
    """Waits for commands and forks for each."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.started_by = os.pidfd_open(int(os.environ[STARTED_BY]))
        self.awake, self.wake = socket.socketpair()
        for end in (self.awake, self.wake):
            end.setblocking(False)
        signal.set_wakeup_fd(self.wake.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.jobs: dict[int, socket.socket] = {}  # by the fork's process id
        self.selector = selectors.DefaultSelector()
        for source in (self.listener, self.started_by, self.awake):
            self.selector.register(source, selectors.EVENT_READ)

    def serve(self) -> socket.socket | None:
        """Returns in a fork, with its connection to the command, and in the server once Snakemake has ended."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj == self.started_by:
                    return None
                if key.fileobj is self.awake:
                    self.awake.recv(1024)
                    self._reap()
                elif connection := self._fork():
                    return connection

    def _fork(self) -> socket.socket | None:
        """The connection in a fork, None in the server."""
        connection, _ = self.listener.accept()
        try:
            asked, streams, _, _ = socket.recv_fds(connection, MESSAGE, 3)
            told = json.loads(asked)
        except (OSError, ValueError):  # the command is gone
            connection.close()
            return None
        process = os.fork()
        if process == 0:
            self._become(told, streams)
            return connection
        for stream in streams:
            os.close(stream)
        self.jobs[process] = connection
        return None

    def _become(self, told: dict[str, Any], streams: list[int]) -> None:
        """The fork lets go of the server and takes the command's place."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.selector.close()
            for held in (self.listener, self.awake, self.wake, *self.jobs.values()):
                held.close()
            os.close(self.started_by)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            os.chdir(told["cwd"])
            sys.argv = told["argv"]
            del os.environ[FOLDER], os.environ["TQDM_MININTERVAL"]
        except BaseException:  # never a second server
            os._exit(1)

    def _reap(self) -> None:
        """Tells each command whose fork has ended how it did."""
        while self.jobs:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                return
            code = os.waitstatus_to_exitcode(status)
            with self.jobs.pop(process) as connection, suppress(OSError):
                connection.send(bytes([code if code >= 0 else 128 - code]))


def _obey(connection: socket.socket) -> None:
    """Takes the signals that the command gets, and ends at once with a command that was killed."""
    with suppress(OSError):
        while told := connection.recv(1):
            os.kill(os.getpid(), told[0])
    os.kill(os.getpid(), signal.SIGKILL)


def _serve() -> None:
    """The server's life; then, in a fork, the command's."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for library in LIBRARIES:
        with suppress(ImportError):
            import_module(library)
    gc.freeze()  # a collection in a fork would copy every page
    connection = Server(listener).serve()
    if connection is None:
        shutil.rmtree(os.environ[FOLDER], ignore_errors=True)
        os._exit(0)
    try:
        connection.send(b"\0")
    except OSError:  # the command was killed meanwhile
        os._exit(1)
    threading.Thread(target=_obey, args=(connection,), daemon=True).start()
    import_module("deltageom.cli.main").main()


if __name__ == "__main__":
    _serve()
