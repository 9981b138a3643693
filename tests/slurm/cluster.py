"""A real SLURM of two nodes: Debian's munged, slurmctld and two slurmd on this machine, on 127.0.0.1 alone.

Its munged, keys, ports and state are its own; only slurm.conf and gres.conf lie where SLURM wants them, in /etc/slurm,
since a job step forgets the variable that would name another folder. Files that others put there are left alone.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

CONFIGURATION = Path("/etc/slurm")
TEMPLATES = Path(__file__).parent
FILES = ("slurm.conf", "gres.conf")
MARK = "# Made by deltageom's tests of its SLURM profile"
LOCK = Path("/run/lock/deltageom-slurm-tests")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # where daemons are, whatever shell started the tests
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "setpriv")
NODES = ("one", "two")
CPUS, MEMORY_MB = 2, 16_000  # of each
START_SECONDS = 30
JOB_FIELDS = "%i|%T|%k|%m"


class NotHere(Exception):
    """Why no cluster can be started on this machine."""


@dataclass(frozen=True)
class Job:
    """What squeue says: `rule` with its wildcards as the plugin's comment has them, memory as asked for."""

    id: str
    state: str
    rule: str
    memory: str


def wait_for(what: str, found: Callable[[], bool], seconds: float, pause: float = 0.2) -> None:
    """Raises TimeoutError, naming `what`, if it is not found in time."""
    due = time.monotonic() + seconds
    while not found():
        if time.monotonic() > due:
            raise TimeoutError(f"{what}: not in {seconds:.0f} s")
        time.sleep(pause)


class Cluster:
    """The running daemons; made by `two_nodes`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"deltageom{os.getpid()}"
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.ports: dict[str, int] = {}

    def start(self) -> None:
        """Raises RuntimeError with the daemons' last words if the nodes are not idle in time."""
        for part in ("controller", *NODES):
            (self.folder / part).mkdir()
        self._configure()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        files = {
            name: f"--{name}-file={self.folder}/munge.{name.split('-')[0]}" for name in ("key", "pid", "seed", "log")
        }
        try:
            self._daemon("munged", "--foreground", f"--socket={self.folder}/munge.socket", *files.values())
            wait_for("munged's socket", (self.folder / "munge.socket").exists, START_SECONDS)
            self._daemon("slurmctld", "-D")
            for node in NODES:
                self._node(node)
            wait_for("idle nodes", self._idle, START_SECONDS)
        except (TimeoutError, RuntimeError) as error:
            raise RuntimeError(f"SLURM does not start: {error}\n{self.last_words()}") from None

    def stop(self) -> None:
        """Cancels every job, ends the daemons and takes back the configuration, whatever of it there is."""
        with contextlib.suppress(Exception):
            self.cancel(*(job.id for job in self.jobs("PENDING", "RUNNING", "SUSPENDED", "COMPLETING")))
            wait_for("an empty queue", lambda: not self.jobs("RUNNING", "COMPLETING"), 15)
        for name in (*NODES, "slurmctld", "munged"):
            self._end(name)
        self._end_strays()
        for name in FILES:
            (CONFIGURATION / name).unlink(missing_ok=True)

    def restart_node(self, node: str, away: float) -> None:
        """Ends its slurmd and starts it again after some seconds; running jobs are processes of their own and go on."""
        self._end(node)
        time.sleep(away)
        self._node(node)
        wait_for("slurmd's answer", lambda: _answers(self.ports[node]), START_SECONDS)

    def jobs(self, *states: str) -> list[Job]:
        """Jobs in these states, or all that the controller remembers."""
        wanted = ",".join(states) or "all"
        lines = _said("squeue", "--noheader", "--array", f"--states={wanted}", f"--format={JOB_FIELDS}").splitlines()
        return [Job(*line.split("|")) for line in lines]

    def job(self, rule: str, *states: str) -> Job | None:
        """The newest of a rule's jobs in these states; `rule` with its wildcards: train_wildcards_tiny_sft."""
        found = [job for job in self.jobs(*states) if job.rule == f"rule_{rule}"]
        return max(found, key=lambda job: int(job.id), default=None)

    def running(self, rule: str) -> Job:
        """Raises LookupError if the rule's job does not run (any more)."""
        job = self.job(rule, "RUNNING")
        if job is None:
            raise LookupError(f"{rule} does not run: {self.jobs()}")
        return job

    def cancel(self, *ids: str) -> None:
        if ids:
            _said("scancel", *ids)

    def requeue(self, id: str) -> None:
        """Stops a job and puts it back into the queue, as after its node's failure, but to start at once."""
        _said("scontrol", "requeue", id)
        wait_for(f"job {id} in the queue", lambda: id in {job.id for job in self.jobs("PENDING")}, START_SECONDS)
        _said("scontrol", "update", f"JobId={id}", "StartTime=now")

    def details(self, id: str) -> dict[str, str]:
        """What scontrol shows of a job."""
        words = _said("scontrol", "--oneliner", "show", "job", id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def last_words(self) -> str:
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(
            f"{log.name}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]) for log in logs
        )

    def _configure(self) -> None:
        controller, *ports = _free_ports(1 + len(NODES))
        self.ports = dict(zip(NODES, ports, strict=True))
        host = socket.gethostname().split(".")[0]
        values = {
            "mark": MARK,
            "cluster": self.name,
            "host": host,
            "folder": self.folder,
            "controller_port": controller,
            "nodes": "\n".join(
                f"NodeName={node} Port={port} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={CPUS} RealMemory={MEMORY_MB}"
                " Gres=gpu:fake:2 State=UNKNOWN"
                for node, port in self.ports.items()
            ),
            "names": ",".join(NODES),
        }
        for name in FILES:
            text = Template((TEMPLATES / f"{name}.in").read_text()).substitute(values)
            (CONFIGURATION / name).write_text(text)

    def _node(self, name: str) -> None:
        self._daemon("slurmd", "-D", "-N", name, called=name)

    def _daemon(self, program: str, *arguments: str, called: str = "") -> None:
        """In the foreground, as a child that ends with this process however it ends."""
        name = called or program
        with (self.folder / f"{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={key: value for key, value in os.environ.items() if not key.startswith("SLURM_")} | {"PATH": PATH},
                start_new_session=True,  # Ctrl-C is for the tests alone, which then end the daemons in order
            )

    def _end(self, name: str) -> None:
        daemon = self.daemons.pop(name, None)
        if daemon is None:
            return
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _end_strays(self) -> None:
        """Processes of this cluster's jobs that have outlived it, by the environment that SLURM gave them."""
        mark = f"SLURM_CLUSTER_NAME={self.name}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), signal.SIGKILL)

    def _idle(self) -> bool:
        for name, daemon in self.daemons.items():
            if daemon.poll() is not None:
                raise RuntimeError(f"{name} ended with status {daemon.returncode}")
        done = subprocess.run(["sinfo", "-h", "-N", "-o", "%T"], capture_output=True, text=True, check=False)
        return done.stdout.split() == ["idle"] * len(NODES)


@contextlib.contextmanager
def two_nodes() -> Iterator[Cluster]:
    """A cluster until the context ends. Raises NotHere with the reason if this machine can have none."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    if missing:
        raise NotHere(f"not installed: {', '.join(missing)} (`make test-slurm` as root on Debian installs SLURM)")
    if os.geteuid() != 0:
        raise NotHere("SLURM's daemons are started as root, which this is not")
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotHere("another test run has its SLURM on this machine") from None
        others = [path for path in map(CONFIGURATION.joinpath, FILES) if path.exists() and not _ours(path)]
        if others:
            raise NotHere(f"this machine has a SLURM of its own: {', '.join(map(str, others))}")
        # not pytest's folder: a socket's path is short, and munged wants each folder above it to be passable
        with tempfile.TemporaryDirectory(prefix="deltageom-slurm-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o711)
            cluster = Cluster(Path(folder))
            try:
                cluster.start()
                yield cluster
            finally:
                cluster.stop()


def _ours(path: Path) -> bool:
    """Left behind by a test run that was killed."""
    return path.read_text(errors="replace").startswith(MARK)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
