"""A job ends with the Snakemake that started it. Linux; elsewhere nothing happens."""

import os
import select
import signal
import threading
import time

STARTED_BY = "DELTAGEOM_STARTED_BY"  # its process id; workflow/rules/common.smk sets it
GRACE_SECONDS = 10


def end_with_starter() -> None:
    """Ends this process once the one that STARTED_BY names is gone, whatever ended it.

    A Snakemake that is killed outright leaves its jobs running: one started next would write to the same files and
    scratch folders as they do.
    """
    starter = os.environ.get(STARTED_BY, "")
    if not starter.isdecimal() or int(starter) == os.getpid() or not hasattr(os, "pidfd_open"):
        return
    try:
        handle = os.pidfd_open(int(starter))
    except ProcessLookupError:
        _end()
    except OSError:  # no such call in this kernel or sandbox
        return
    threading.Thread(target=_wait, args=(handle,), daemon=True).start()


def _wait(handle: int) -> None:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    while not poll.poll():  # readable when the process has ended
        pass
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)  # the signal was caught, and nothing came of it
