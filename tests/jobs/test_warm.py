"""Commands that run as forks of a process with the libraries loaded: their streams, statuses, signals and ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from deltageom.jobs import warm, watch
from tests.conftest import BIN

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="warm starts need Linux's pidfd")
DELTAGEOM = [str(BIN / "deltageom")]
SECONDS = 60.0


@pytest.fixture
def starter() -> Iterator[subprocess.Popen[bytes]]:
    """Stands for Snakemake: the servers end with it."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


@pytest.fixture
def environment(starter: subprocess.Popen[bytes], tmp_path: Path) -> dict[str, str]:
    # no libraries: what is tested here is not how long they take
    folder = tmp_path / "warm"
    return os.environ | {warm.FOLDER: str(folder), watch.STARTED_BY: str(starter.pid), "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def few_libraries(environment: dict[str, str], tmp_path: Path) -> None:
    """The libraries are empty modules, except one which says that it was loaded, and by whom."""
    found = tmp_path / "modules"
    for library in {name.partition(".")[0] for name in warm.LIBRARIES} - {"torch"}:
        (found / library).mkdir(parents=True)
        (found / library / "__init__.py").touch()
    (found / "torch.py").write_text("import os; os.environ['LOADED_BY'] = str(os.getpid())")
    environment["PYTHONPATH"] = os.pathsep.join([str(found), *filter(None, [environment.get("PYTHONPATH")])])


def servers(environment: dict[str, str]) -> list[psutil.Process]:
    """The processes of this environment's folder that are no fork of one."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "deltageom.jobs.warm" in process.cmdline():
                found += [process] if process.environ().get(warm.FOLDER) == environment[warm.FOLDER] else []
    return [process for process in found if process.ppid() not in {one.pid for one in found}]


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def stand_in(environment: dict[str, str], folder: Path, command: str) -> None:
    """What `deltageom` is in this environment: these statements."""
    own, package = folder / "own" / "deltageom", Path(warm.__file__).parents[1]
    (own / "cli").mkdir(parents=True, exist_ok=True)
    (own / "__init__.py").touch()
    (own / "cli" / "__init__.py").touch()
    if not (own / "jobs").exists():
        (own / "jobs").symlink_to(package / "jobs")
        environment["PYTHONPATH"] = os.pathsep.join([str(folder / "own"), environment["PYTHONPATH"]])
    (own / "cli" / "main.py").write_text(f"import os, sys, time\ndef main(): {command}\n")


def start(environment: dict[str, str]) -> subprocess.Popen[str]:
    command = "import sys; from deltageom.jobs import warm; sys.exit(warm.run(['x']))"
    return subprocess.Popen([sys.executable, "-c", command], env=environment, stdout=subprocess.PIPE, text=True)


def waiting(environment: dict[str, str], folder: Path) -> tuple[subprocess.Popen[str], psutil.Process]:
    """A command that goes on for ever, and the fork that does it."""
    stand_in(
        environment,
        folder,
        "from deltageom.jobs import watch; watch.end_with_starter(); print(os.getpid(), flush=True); time.sleep(600)",
    )
    command = start(environment)
    assert command.stdout
    return command, psutil.Process(int(command.stdout.readline()))


def test_a_command_is_answered_as_if_it_had_started_itself(environment: dict[str, str], tmp_path: Path) -> None:
    cold = environment | {warm.FOLDER: ""}
    for arguments in (["--version"], ["mcnemar", "none.jsonl", "none.jsonl"], ["mcnemar"], ["--help"]):
        told = [
            subprocess.run(
                [*DELTAGEOM, *arguments], env=given, cwd=tmp_path, capture_output=True, text=True, check=False
            )
            for given in (environment, environment, cold)
        ]
        assert len({(one.returncode, one.stdout, one.stderr) for one in told}) == 1, told
        assert told[0].stdout or told[0].returncode in {1, 2}
    assert len(servers(environment)) == 1


def test_the_libraries_are_those_of_the_server(environment: dict[str, str], tmp_path: Path) -> None:
    """And this package's own code is read in the fork."""
    for status in (3, 4):
        stand_in(environment, tmp_path, f"import torch; print(os.environ['LOADED_BY']); sys.exit({status})")
        with start(environment) as command:
            told, _ = command.communicate(timeout=SECONDS)
        assert command.returncode == status
        assert int(told) == servers(environment)[0].pid


def test_another_environment_is_another_server(environment: dict[str, str]) -> None:
    for threads in ("1", "2", "2"):
        subprocess.run([*DELTAGEOM, "--version"], env=environment | {"OMP_NUM_THREADS": threads}, check=True)
    assert len(servers(environment)) == 2


def test_a_signal_reaches_the_fork(environment: dict[str, str], tmp_path: Path) -> None:
    command, fork = waiting(environment, tmp_path)
    command.send_signal(signal.SIGTERM)
    assert command.wait(SECONDS) == 128 + signal.SIGTERM
    assert not fork.is_running()


def test_a_fork_ends_with_its_command(environment: dict[str, str], tmp_path: Path) -> None:
    command, fork = waiting(environment, tmp_path)
    command.kill()
    until(lambda: not fork.is_running())
    stand_in(environment, tmp_path, "sys.exit(5)")
    assert start(environment).wait(SECONDS) == 5  # the server goes on
    assert len(servers(environment)) == 1


def test_a_command_ends_with_its_fork(environment: dict[str, str], tmp_path: Path) -> None:
    command, fork = waiting(environment, tmp_path)
    fork.kill()
    assert command.wait(SECONDS) == 128 + signal.SIGKILL


def test_all_end_with_snakemake(environment: dict[str, str], starter: subprocess.Popen[bytes], tmp_path: Path) -> None:
    command, fork = waiting(environment, tmp_path)
    (server,) = servers(environment)
    starter.kill()
    starter.wait()
    assert command.wait(SECONDS)
    until(lambda: not fork.is_running() and not server.is_running())
    assert not Path(environment[warm.FOLDER]).exists()


def test_a_server_that_dies_leaves_cold_starts(environment: dict[str, str]) -> None:
    subprocess.run([*DELTAGEOM, "--version"], env=environment, check=True)
    (server,) = servers(environment)
    server.kill()
    server.wait(SECONDS)
    subprocess.run([*DELTAGEOM, "--version"], env=environment, check=True)
    assert not servers(environment)


@pytest.mark.parametrize("folder", ["x" * 200, "missing/folder"])
def test_where_no_socket_can_be_a_job_starts_cold(environment: dict[str, str], tmp_path: Path, folder: str) -> None:
    environment[warm.FOLDER] = str(tmp_path / folder)
    subprocess.run([*DELTAGEOM, "--version"], env=environment, check=True)
    assert not servers(environment)
