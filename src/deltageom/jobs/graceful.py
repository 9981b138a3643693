"""SIGTERM ends Snakemake after the jobs under way, at whatever moment it comes.

Snakemake 9.27.1's handler takes the scheduler's lock in the main thread, which holds it while jobs are chosen: a
SIGTERM that comes just then makes it wait for itself for ever. Here a thread of its own takes the lock.
"""

import threading
from typing import Any


def on_sigterm() -> None:
    """To be called by the Snakefile, which Snakemake reads before its scheduler listens for signals."""
    from snakemake.scheduling.job_scheduler import JobScheduler

    handle = JobScheduler.exit_gracefully
    if handle.__module__ == __name__:  # another workflow in this process
        return

    def exit_gracefully(self: Any, *given: Any) -> None:
        threading.Thread(target=handle, args=(self, *given), daemon=True).start()

    JobScheduler.exit_gracefully = exit_gracefully
