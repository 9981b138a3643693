"""GPU locks, held by real processes over an nvidia-smi that is a script.

A job says on one stream what it comes to and goes when its input is closed: nothing is proved by the time that passes.
"""

import itertools
import os
import shlex
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from types import SimpleNamespace

import pytest

from deltageom.errors import UserError
from deltageom.hardware import gpus as devices
from deltageom.hardware import nvidia_smi as smi
from tests.conftest import BIN

UUIDS = ["GPU-aaaa1111-0000", "GPU-bbbb2222-0000", "GPU-bbcc3333-0000"]
SECONDS = 30  # for a line that has to come
JOB = """
import os, sys, time
from deltageom.hardware import gpus
gpus.POLL_SECONDS = 0.01
before()
ids = gpus.take(int(sys.argv[1]))
begin = time.monotonic_ns()
after()
print("has", os.environ["CUDA_VISIBLE_DEVICES"], ",".join(ids), os.environ.get("CUDA_DEVICE_ORDER"), flush=True)
sys.stdin.read()
print("had", begin, time.monotonic_ns(), flush=True)
"""


class Job:
    """A process that takes GPUs; `granted` hears of it when it has them."""

    def __init__(self, command: list[str], environment: dict[str, str], cwd: Path, granted: "Queue[Job]") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", *command],
            env=environment,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = self.process.pid
        self.lines: Queue[str | None] = Queue()
        threading.Thread(target=self._read, args=(granted,), daemon=True).start()

    def _read(self, granted: "Queue[Job]") -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
            if line.startswith("has "):
                granted.put(self)
        self.lines.put(None)

    def line(self) -> str:
        line = self.lines.get(timeout=SECONDS)
        assert line is not None, "the job has ended"
        return line

    def until(self, start: str) -> str:
        for _ in range(10_000):  # of a job that reports at each step, but not for ever
            line = self.line()
            if line.startswith(start):
                return line
        raise AssertionError(f"no line that begins with {start!r}")

    def waits(self, gpus: int = 3) -> list[str]:
        """Its first words are that it waits; says for whom, a line a GPU that it may have."""
        assert self.line().startswith("waiting for ")
        return [self.line().strip() for _ in range(gpus)]

    def finds_free(self, gpu: int) -> None:
        """It has tried for a GPU since no other process has it: two reports are out, and it tries between them."""
        for _ in range(2):
            self.until(f"  {gpu}: free")

    def has(self) -> str:
        """CUDA_VISIBLE_DEVICES, which is what take returned."""
        _, visible, ids, _ = self.until("has ").split()
        assert visible == ids
        return visible

    def ends(self) -> tuple[int, int]:
        """From when to when it had its GPUs, by the machine's clock, once the process has gone."""
        assert self.process.stdin
        self.process.stdin.close()
        _, begin, end = self.until("had ").split()
        assert self.process.wait() == 0
        return int(begin), int(end)


class Jobs:
    """Starts jobs in an environment; `granted` holds those that have said since that they have GPUs, in order."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment = environment
        self.folder = folder
        self.all: list[Job] = []
        self.granted: Queue[Job] = Queue()

    def start(
        self,
        count: int,
        visible: str | None = None,
        *,
        before: str = "",
        after: str = "",
        cwd: Path | None = None,
        **more: str,
    ) -> Job:
        """`visible`: CUDA_VISIBLE_DEVICES beforehand."""
        if visible is not None:
            more["CUDA_VISIBLE_DEVICES"] = visible
        code = JOB.replace("before()", before).replace("after()", after)
        return self.run([code, str(count), "--run", "a-run", "x" * 500], cwd, **more)

    def run(self, command: list[str], cwd: Path | None = None, **more: str) -> Job:
        self.all.append(Job(command, self.environment | more, cwd or self.folder, self.granted))
        return self.all[-1]

    def next_granted(self) -> Job:
        return self.granted.get(timeout=SECONDS)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Three GPUs, no restriction and a lock folder of the test's own, for this process too."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "")  # so that what a test leaves here is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("DELTAGEOM_GPU_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    nvidia_smi(tmp_path, "\n".join(f"{index}, {uuid}" for index, uuid in enumerate(UUIDS)))
    return dict(os.environ)


@pytest.fixture
def jobs(environment: dict[str, str], tmp_path: Path) -> Iterator[Jobs]:
    started = Jobs(environment, tmp_path)
    yield started
    for job in started.all:
        job.process.kill()
        job.process.wait()


def nvidia_smi(folder: Path, output: str, first: str = "", code: int = 0) -> None:
    """Answers what every nvidia-smi can be asked: an older one knows nothing of MIG."""
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir(exist_ok=True)
    program.write_text(
        '#!/bin/sh\n[ "$*" = "--query-gpu=index,uuid --format=csv,noheader" ] || exit 2\n'
        f"{first}\nprintf '%s\\n' {shlex.quote(output)}\nexit {code}\n"
    )
    program.chmod(0o755)


def test_no_two_of_many_jobs_have_one_gpu_and_all_gpus_are_used(jobs: Jobs) -> None:
    for _ in range(24):
        jobs.start(1)
    holders: dict[str, Job] = {}
    had: dict[str, list[tuple[int, int]]] = {gpu: [] for gpu in "012"}
    for turn in range(24):
        if turn >= 3:  # whoever comes next can have this one alone
            gpu = "201"[turn % 3]
            had[gpu].append(holders.pop(gpu).ends())
        job = jobs.next_granted()
        gpu = job.has()
        assert gpu not in holders
        holders[gpu] = job
    assert jobs.granted.empty()
    assert sorted(holders) == ["0", "1", "2"]
    for gpu, job in holders.items():
        had[gpu].append(job.ends())
    assert [len(times) for times in had.values()] == [8, 8, 8]
    for times in had.values():
        for (_, end), (begin, _) in itertools.pairwise(sorted(times)):
            assert end < begin


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM, None])
def test_a_lock_dies_with_its_holder(jobs: Jobs, death: signal.Signals | None) -> None:
    holders = [jobs.start(1, gpu) for gpu in "01"]
    assert [job.has() for job in holders] == ["0", "1"]
    waiting = jobs.start(1, "1,0")
    assert waiting.waits(2) == [f"{gpu}: pid {holders[gpu].pid}: -c 1 --run a-run ..." for gpu in (1, 0)]
    if death:
        holders[0].process.send_signal(death)
        assert holders[0].process.wait() == -death
    else:
        holders[0].ends()
    assert waiting.has() == "0"


def test_children_that_outlive_a_killed_job_do_not_keep_its_gpus(jobs: Jobs, tmp_path: Path) -> None:
    """A fork without exec, as a data loader's, and a program that was left every descriptor."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    leave_children = f"""
import subprocess
forked = os.fork()
if not forked:
    open({str(fifo)!r}).read()
    os._exit(0)
for descriptor in range(3, 100):
    try:
        os.set_inheritable(descriptor, True)
    except OSError:
        pass
left = subprocess.Popen(["cat", {str(fifo)!r}], close_fds=False)
print("children", forked, left.pid, flush=True)
"""
    holder = jobs.start(3, after=leave_children)
    children = [int(pid) for pid in holder.until("children ").split()[1:]]
    holder.has()
    try:
        held = [str(file.readlink()) for file in Path(f"/proc/{children[1]}/fd").iterdir()]
        assert sum(".lock" in path for path in held) == 3  # it was left the locks' own descriptors
        waiting = jobs.start(3)
        waiting.waits()
        holder.process.kill()
        holder.process.wait()
        assert waiting.has() == "0,1,2"
        for pid in children:
            assert Path(f"/proc/{pid}/stat").read_text().split()[2] in "RSD"  # alive
    finally:
        with fifo.open("w"):
            pass


def test_what_a_dead_holder_wrote_misleads_nobody(jobs: Jobs, tmp_path: Path) -> None:
    dead = jobs.start(2)
    dead.has()
    dead.process.kill()
    dead.process.wait()
    assert str(dead.pid) in (tmp_path / "locks" / f"{UUIDS[0]}.lock").read_text()
    alive = jobs.start(1, "1")
    alive.has()
    first, second, third = jobs.start(3).waits()
    assert str(dead.pid) not in first + second + third
    assert first.startswith("0: free")
    assert second.startswith(f"1: pid {alive.pid}:")
    assert third.startswith("2: free")


def test_all_gpus_or_none_whatever_the_order(jobs: Jobs) -> None:
    """Two that hold half each of what both want would wait for ever."""
    singles = [jobs.start(1, gpu) for gpu in "01"]
    assert [job.has() for job in singles] == ["0", "1"]
    orders = ["0,1", "1,0"] * 4
    wanting = {job: order for order in orders for job in [jobs.start(2, order)]}
    for job in wanting:
        job.waits(2)
    for job in singles:
        jobs.next_granted()
        job.ends()
    for _ in orders:
        job = jobs.next_granted()
        assert job.has() == wanting.pop(job)
        assert jobs.granted.empty()
        job.ends()


def test_half_of_what_one_waits_for_is_not_given_to_another(jobs: Jobs) -> None:
    """The same, with the moment forced: the first in line is stopped when the second half becomes free."""
    singles = [jobs.start(1, gpu) for gpu in "01"]
    assert [job.has() for job in singles] == ["0", "1"]
    talking = "gpus.REMIND_SECONDS = 0"
    first = jobs.start(2, "0,1", before=talking)
    first.waits(2)
    singles[0].ends()
    first.finds_free(0)  # and has taken it
    second = jobs.start(2, "0,1", before=talking)
    assert second.waits(2)[0] == f"0: pid {first.pid}"
    first.process.send_signal(signal.SIGSTOP)
    singles[1].ends()
    second.finds_free(1)
    first.process.send_signal(signal.SIGCONT)
    assert first.has() == "0,1"
    first.ends()
    assert second.has() == "0,1"


def test_jobs_do_not_wait_in_a_circle(jobs: Jobs) -> None:
    """In line for GPUs in the order given, one would have places 1 and 2 and want 0, the other have 0 and want 1."""
    holder = jobs.start(1, "2")
    assert holder.has() == "2"
    before = jobs.start(1, "2")
    before.waits(1)
    triple = jobs.start(3, "1,2,0")
    triple.waits(3)
    pair = jobs.start(2, "0,1")
    pair.waits(2)
    holder.ends()
    assert before.has() == "2"
    before.ends()
    assert triple.has() == "1,2,0"
    triple.ends()
    assert pair.has() == "0,1"


def test_a_job_of_two_gpus_is_not_overtaken_by_jobs_of_one(jobs: Jobs) -> None:
    singles = [jobs.start(1, gpu) for gpu in "01"]
    assert [job.has() for job in singles] == ["0", "1"]
    pair = jobs.start(2, "0,1")
    pair.waits(2)
    singles[0].ends()
    later = jobs.start(1, "0,1")
    later.waits(2)  # though GPU 0 is free
    singles[1].ends()
    assert pair.has() == "0,1"
    pair.ends()
    assert later.has() == "0"


def test_who_waits_for_one_gpu_is_in_nobodys_way_at_another(jobs: Jobs) -> None:
    assert jobs.start(1, "0").has() == "0"
    jobs.start(1, "0").waits(1)
    other = jobs.start(1, "1")
    assert other.line().startswith("GPU 1 (locked in ")


def test_two_studies_know_one_gpu_by_index_and_by_uuid(jobs: Jobs, tmp_path: Path) -> None:
    for study in "ab":
        (tmp_path / study).mkdir()
    first = jobs.start(1, "GPU-bbbb", cwd=tmp_path / "a")
    assert first.until("has ") == "has GPU-bbbb GPU-bbbb None"
    second = jobs.start(1, "1,2", cwd=tmp_path / "b")
    assert second.until("has ") == "has 2 2 PCI_BUS_ID"
    third = jobs.start(1, f"{UUIDS[1]}, {UUIDS[2]}", cwd=tmp_path / "b")
    assert third.waits(2)[0].startswith(f"{UUIDS[1]}: pid {first.pid}:")
    second.ends()
    assert third.has() == UUIDS[2]


@pytest.mark.parametrize(
    ("given", "count", "taken"),
    [
        (None, 2, "0,1"),
        ("2,0,1", 1, "2"),
        ("2, 0", 2, "2,0"),
        ("1,0,-1,2", 2, "1,0"),
        ("GPU-bbcc3333-0000,GPU-aaaa", 2, "GPU-bbcc3333-0000,GPU-aaaa"),
        ("MIG-GPU-aaaa1111-0000/1/0,MIG-77", 2, "MIG-GPU-aaaa1111-0000/1/0,MIG-77"),
    ],
)
def test_the_first_free_ones_in_the_form_and_order_given(
    jobs: Jobs, given: str | None, count: int, taken: str, tmp_path: Path
) -> None:
    job = jobs.start(count, given)
    assert job.has() == taken
    locks = tmp_path / "locks"
    assert stat.S_IMODE(locks.stat().st_mode) == 0o700
    for file in locks.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o1600
    if given == "2, 0":
        assert sorted(file.name for file in locks.iterdir()) == [f"{UUIDS[0]}.lock", f"{UUIDS[2]}.lock"]
    if count == 2:
        jobs.start(1, taken).waits(2)


def test_without_nvidia_smi_the_indices_themselves_are_locked(jobs: Jobs, tmp_path: Path) -> None:
    for gpu in "35":
        assert jobs.start(1, "3,5", PATH=str(tmp_path)).has() == gpu
    jobs.start(1, "3,5", PATH=str(tmp_path)).waits(2)


def test_inside_slurm_what_was_handed_out_is_neither_locked_nor_waited_for(jobs: Jobs, tmp_path: Path) -> None:
    for given, count, taken in [("1,2,0", 3, "1,2,0"), ("2", 1, "2"), (None, 3, "0,1,2")]:
        for _ in range(2):
            job = jobs.start(count, given, SLURM_JOB_ID="17")
            assert job.line() == f"GPU {taken.replace(',', ', ')} (all that SLURM job 17 sees: no lock)"
            assert job.has() == taken
    assert not (tmp_path / "locks").exists()


def test_commands_that_share_a_slurm_allocation_share_its_gpus(jobs: Jobs) -> None:
    """Which are the allocation's own: the same indices in another job are other GPUs."""
    one, two, other = (jobs.start(1, "1,2", SLURM_JOB_ID=job) for job in ("17", "17", "18"))
    assert {one.has(), two.has()} == {"1", "2"}
    assert other.has() in ("1", "2")


SHARED = {"DELTAGEOM_JOBS_PER_GPU": "2"}


def test_jobs_that_share_spread_over_the_gpus_first(jobs: Jobs) -> None:
    sharing = [jobs.start(1, "0,1", **SHARED) for _ in range(2)]
    assert {job.has() for job in sharing} == {"0", "1"}
    more = [jobs.start(1, "0,1", **SHARED) for _ in range(2)]
    assert {job.has() for job in more} == {"0", "1"}
    last = jobs.start(1, "0,1", **SHARED)
    held = " ".join(last.waits(2))
    for job in [*sharing, *more]:  # every sharer is named, with its command
        assert f"pid {job.pid}: -c 1 --run a-run ..." in held
    sharing[0].ends()
    assert last.has() in ("0", "1")


def test_one_that_does_not_share_waits_for_all_sharers_and_they_for_it(jobs: Jobs) -> None:
    sharing = [jobs.start(1, "0", **SHARED) for _ in range(2)]
    assert [job.has() for job in sharing] == ["0", "0"]
    alone = jobs.start(1, "0", before="gpus.REMIND_SECONDS = 0")
    alone.waits(1)
    sharing[0].ends()
    for _ in range(2):
        assert alone.until("  0: ").startswith("  0: pid ")
    later = jobs.start(1, "0", **SHARED)
    later.waits(1)  # there is a share, but another is first in line
    sharing[1].ends()
    assert alone.has() == "0"
    alone.ends()
    assert later.has() == "0"


def test_a_killed_sharer_frees_its_own_share_alone(jobs: Jobs) -> None:
    first, second = (jobs.start(1, "0", **SHARED) for _ in range(2))
    assert [first.has(), second.has()] == ["0", "0"]
    first.process.kill()
    first.process.wait()
    assert jobs.start(1, "0", **SHARED).has() == "0"
    waits = jobs.start(1, "0", **SHARED).waits(1)[0]
    assert f"pid {second.pid}:" in waits
    assert f"pid {first.pid}:" not in waits


def test_inside_slurm_nothing_is_shared(jobs: Jobs) -> None:
    assert jobs.start(1, "1,2", SLURM_JOB_ID="17", **SHARED).has() == "1"
    assert jobs.start(1, "1,2", SLURM_JOB_ID="17", **SHARED).has() == "2"
    jobs.start(1, "1,2", SLURM_JOB_ID="17", **SHARED).waits(2)


INSTANCES = f"""GPU 0: NVIDIA A100 (UUID: {UUIDS[0]})
  MIG 3g.20gb     Device  0: (UUID: MIG-11111111-2222)
GPU 1: NVIDIA A100 (UUID: {UUIDS[1]})
  MIG 3g.20gb     Device  0: (UUID: MIG-33333333-4444)
  MIG 3g.20gb     Device  1: (UUID: MIG-GPU-bbbb2222-0000/2/0)
GPU 2: NVIDIA A100 (UUID: {UUIDS[2]})"""


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            None,
            "GPU 1 is split by MIG: set CUDA_VISIBLE_DEVICES to one of its instances: "
            "MIG-33333333-4444, MIG-GPU-bbbb2222-0000/2/0$",
        ),
        ("1", "GPU 1 is split by MIG"),
        ("GPU-bbbb2", "GPU GPU-bbbb2 is split by MIG"),
        ("0", None),
        ("MIG-33333333-4444", None),
    ],
)
@pytest.mark.usefixtures("environment")
def test_a_gpu_that_mig_has_split_is_never_taken_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, says: str | None
) -> None:
    modes = ("Disabled", "Enabled", "[N/A]")
    rows = "\n".join(f"{index}, {uuid}, {mode}" for (index, uuid), mode in zip(enumerate(UUIDS), modes, strict=True))
    (tmp_path / "bin" / "nvidia-smi").write_text(
        '#!/bin/sh\ncase "$*" in\n'
        f"\"--query-gpu=index,uuid,mig.mode.current --format=csv,noheader\") printf '%s\\n' {shlex.quote(rows)};;\n"
        f"-L) printf '%s\\n' {shlex.quote(INSTANCES)};;\n*) exit 2;;\nesac\n"
    )
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    if says is None:
        assert [device.id for device in devices.visible()] == [given]
        return
    for ask in (devices.visible, lambda: devices.check(1), lambda: devices.take(1)):
        with pytest.raises(UserError, match=says):
            ask()


def test_too_few_gpus_are_found_without_taking_any(environment: dict[str, str], tmp_path: Path) -> None:
    assert environment
    devices.check(0)
    devices.check(3)
    with pytest.raises(UserError, match=r"^a job takes 4 GPUs: only 3 here \(0, 1, 2\): set `device: cpu`"):
        devices.check(4)
    assert not (tmp_path / "locks").exists()


def test_says_once_a_minute_why_it_waits(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    clock = [1.0]
    fake = SimpleNamespace(monotonic=lambda: clock[0], sleep=lambda seconds: clock.append(clock.pop() + seconds))
    monkeypatch.setattr(devices, "time", fake)
    pauses = devices._pauses(lambda: f"at {clock[0]:.0f}")
    while clock[0] < 150:
        next(pauses)
    assert capfd.readouterr().err.split("\n") == ["at 1", "at 61", "at 121", ""]


@pytest.mark.parametrize(
    ("more", "count", "says"),
    [
        ({}, 4, r"--gpus 4: only 3 here \(0, 1, 2\): .*`device: cpu`.*tensor_parallel.*CUDA_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": "2"}, 2, r"--gpus 2: only 1 here \(2\)"),
        ({"CUDA_VISIBLE_DEVICES": "2", "SLURM_JOB_ID": "1"}, 2, r"--gpus 2: only 1 here"),
        ({}, -1, "--gpus -1: give 0 or more"),
        ({"DELTAGEOM_JOBS_PER_GPU": "2"}, 2, "--gpus 2: a job that shares GPUs takes one: .*jobs_per_gpu: 1"),
        ({"DELTAGEOM_JOBS_PER_GPU": "x"}, 1, "DELTAGEOM_JOBS_PER_GPU='x': give 1 or more"),
        ({"CUDA_VISIBLE_DEVICES": ""}, 1, "no GPU: CUDA_VISIBLE_DEVICES='' hides all"),
        ({"CUDA_VISIBLE_DEVICES": "-1,0"}, 1, "no GPU: CUDA_VISIBLE_DEVICES='-1,0' hides all"),
        ({"CUDA_VISIBLE_DEVICES": "0,3"}, 1, r"CUDA_VISIBLE_DEVICES: '3' is not one of .* 0 \(GPU-aaaa1111-0000\), 1"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-cc"}, 1, "'GPU-cc' is not one of"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-bb"}, 1, "'GPU-bb' is not one of"),  # two begin so
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 1, "'NoDevFiles' is no GPU: give indices"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-../../x"}, 1, "'GPU-../../x' is no GPU"),
        ({"CUDA_VISIBLE_DEVICES": "0,,1"}, 1, "'' is no GPU"),
        ({"CUDA_VISIBLE_DEVICES": "0,GPU-aaaa"}, 1, "names a GPU twice"),
        ({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, 1, "CUDA_DEVICE_ORDER=FASTEST_FIRST does not number"),
        ({"PATH": "/nowhere"}, 1, "no GPU: nvidia-smi is not on PATH"),
        ({"DELTAGEOM_GPU_LOCKS": "locks"}, 1, "DELTAGEOM_GPU_LOCKS=locks: give an absolute path"),
        ({"DELTAGEOM_GPU_LOCKS": "/dev/null/locks"}, 1, "^/dev/null/locks: cannot lock GPUs here: .*Not a directory"),
        # the kernel's, and ours by owner: not even root makes a file there
        ({"DELTAGEOM_GPU_LOCKS": "/proc/self/task"}, 1, "^/proc/self/task: cannot lock GPUs here: .*GPU-aaaa1111"),
    ],
)
@pytest.mark.usefixtures("environment")
def test_mistakes(monkeypatch: pytest.MonkeyPatch, more: dict[str, str], count: int, says: str) -> None:
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with pytest.raises(UserError, match=says):
        devices.take(count)
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("output", "first", "code", "says"),
    [
        ("No devices were found", "", 0, r"no GPU: nvidia-smi \(exit status 0\) says: No devices were found"),
        ("couldn't communicate with the NVIDIA driver", "", 9, r"\(exit status 9\) says: couldn't communicate"),
        ("0, GPU-aaaa1111\n1, [Unknown Error]", "", 0, r"says: 0, GPU-aaaa1111 1, \[Unknown Error\]$"),
        ("0, GPU-aaaa1111", "", 15, r"exit status 15"),
        ("", "exec sleep 60", 0, "no GPU: nvidia-smi did not answer in 0.2 s"),
        ("", "exec /dev/null", 0, "no GPU: nvidia-smi .*exit status 126"),
    ],
)
@pytest.mark.usefixtures("environment")
def test_an_nvidia_smi_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, first: str, code: int, says: str
) -> None:
    nvidia_smi(tmp_path, output, first, code)
    monkeypatch.setattr(smi, "SECONDS", 0.2 if "sleep" in first else 30)
    for visible in (None, "0"):  # an index alone would be another name for a GPU that others lock by its UUID
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        with pytest.raises(UserError, match=says):
            devices.take(1)


@pytest.mark.usefixtures("environment")
def test_no_link_is_followed_and_no_folder_of_others_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locks, elsewhere, victim = tmp_path / "locks", tmp_path / "elsewhere", tmp_path / "victim"
    elsewhere.mkdir(mode=0o700)
    victim.write_text("precious")
    locks.symlink_to(elsewhere)
    with pytest.raises(UserError, match=f"^{locks}: cannot lock GPUs here: .*no link"):
        devices.take(1)
    assert not list(elsewhere.iterdir())
    locks.unlink()
    locks.mkdir(mode=0o700)
    (locks / f"{UUIDS[0]}.lock").symlink_to(victim)
    with pytest.raises(UserError, match=f"^{locks}: cannot lock GPUs here: .*symbolic links.*{UUIDS[0]}"):
        devices.take(1)
    assert victim.read_text() == "precious"
    (locks / f"{UUIDS[0]}.lock").unlink()
    locks.chmod(0o730)
    with pytest.raises(UserError, match=f"others may write to it: chmod 700 {locks}"):
        devices.take(1)
    locks.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: locks.stat().st_uid + 1)
    with pytest.raises(UserError, match=f"^{locks}: .* belongs to user {locks.stat().st_uid}, not to you"):
        devices.take(1)
    assert not list(locks.iterdir())


@pytest.mark.usefixtures("environment")
def test_the_folder_is_the_users_and_not_the_logins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTAGEOM_GPU_LOCKS", "")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setenv("TMPDIR", "/scratch/job-7")
    assert devices._folder() == Path(f"/tmp/deltageom-gpus-{os.geteuid()}")


def test_a_disk_without_room_is_an_error_that_leaves_no_lock(jobs: Jobs) -> None:
    full = """
import resource
from deltageom.errors import UserError
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
try:
    gpus.take(3)
except UserError as error:
    print("failed", error, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
sys.stdin.readline()
"""
    job = jobs.start(3, before=full)
    failed = job.line()
    assert failed.startswith("failed ")
    assert "File too large: it has to be a folder of yours, no link, with room for a file" in failed
    other = jobs.start(3)
    assert other.has() == "0,1,2"
    other.ends()
    assert job.process.stdin
    job.process.stdin.write("\n")
    job.process.stdin.flush()
    assert job.has() == "0,1,2"


@pytest.mark.usefixtures("environment")
def test_too_late_once_cuda_is_initialised(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = "import types; sys.modules['torch'] = types.SimpleNamespace(cuda=types.SimpleNamespace({}))"
    assert jobs.start(1, before=imported.format("is_initialized=lambda: False")).has() == "0"
    torch = SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(AssertionError, match="before CUDA is initialised"):
        devices.take(1)
    assert devices.take(0) == []


def test_a_process_takes_once(jobs: Jobs) -> None:
    again = "try:\n    gpus.take(1)\nexcept AssertionError as error:\n    print(error, flush=True)\n"
    job = jobs.start(1, after=again)
    job.until("GPUs are taken once a process")
    assert job.has() == "0"
    jobs.start(1, "0").waits(1)  # the failure released nothing


PROBE = """
import atexit, os, sys, types
from deltageom import cli
from deltageom.cli import main

def leave():
    print("leaves", flush=True)
    sys.stdin.read()

def run(arguments):
    loaded = ",".join(name for name in ("torch", "deltageom.hardware.gpus") if name in sys.modules)
    print("has", os.environ.get("CUDA_VISIBLE_DEVICES"), "loaded:" + loaded, flush=True)
    atexit.register(leave)

probe = types.ModuleType("deltageom.cli.probe", "A command.")
probe.add_arguments, probe.run = lambda parser: None, run
main._commands = lambda: {"probe": probe}
main.main(["probe", *sys.argv[1:]])
"""


def test_a_command_has_its_gpus_before_it_runs_and_until_its_process_ends(jobs: Jobs) -> None:
    command = jobs.run([PROBE, "--gpus", "3"])
    assert command.until("has ") == "has 0,1,2 loaded:deltageom.hardware.gpus"
    command.until("leaves")  # the command is done, what it has on the GPU is not freed yet
    other = jobs.start(3)
    other.waits()
    assert command.process.stdin
    command.process.stdin.close()
    assert other.has() == "0,1,2"
    assert command.process.wait() == 0


def test_a_command_without_gpus_touches_nothing(jobs: Jobs, tmp_path: Path) -> None:
    for arguments in ([], ["--gpus", "0"]):
        assert jobs.run([PROBE, *arguments]).until("has ") == "has None loaded:"
    assert not (tmp_path / "locks").exists()


def test_the_log_says_which_gpus_and_the_terminal_why_there_are_none(
    environment: dict[str, str], tmp_path: Path
) -> None:
    def deltageom(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [BIN / "deltageom", "study", "--schema", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    done = deltageom("--gpus", "3", "--log", tmp_path / "a.log")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.log").read_text().startswith(f"GPU 0, 1, 2 (locked in {tmp_path / 'locks'})\n")
    done = deltageom("--gpus", "4", "--log", tmp_path / "b.log")
    assert done.returncode == 1
    assert done.stderr.startswith("deltageom study: error: --gpus 4: only 3 here (0, 1, 2): ")
    assert "Traceback" not in (tmp_path / "b.log").read_text()
