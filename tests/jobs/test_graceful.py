"""SIGTERM while Snakemake's scheduler holds its lock."""

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, threading
from snakemake.scheduling.job_scheduler import JobScheduler
from deltageom.jobs import graceful
{patch}
scheduler = JobScheduler.__new__(JobScheduler)
scheduler._lock, scheduler._open_jobs, scheduler._user_kill = threading.Lock(), threading.Semaphore(0), None
signal.signal(signal.SIGTERM, scheduler.exit_gracefully)
with scheduler._lock:
    os.kill(os.getpid(), signal.SIGTERM)
assert scheduler._open_jobs.acquire(timeout=30)
print(scheduler._user_kill)
"""


def end(patch: str, timeout: float) -> str:
    command = [sys.executable, "-c", SCRIPT.format(patch=patch)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True).stdout


def test_a_sigterm_while_jobs_are_chosen_is_heeded() -> None:
    assert end("graceful.on_sigterm(); graceful.on_sigterm()", 120) == "graceful\n"


def test_snakemake_alone_would_wait_for_itself() -> None:
    """Where this fails, Snakemake has mended it, and graceful.py can go."""
    with pytest.raises(subprocess.TimeoutExpired):
        end("", 10)
