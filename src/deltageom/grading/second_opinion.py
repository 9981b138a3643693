r"""math-verify as a second opinion on answers, in processes that can be killed.

math-verify evaluates what a model wrote: a tower of powers costs it minutes or all memory. Its own guard is SIGALRM,
which needs the main thread and cannot stop a long C call, and running out of memory counts with it as "not equal".
So the caller starts one server, `python -m deltageom.second_opinion`, and the server forks the workers that judge.
The server is a fresh interpreter with one thread: no thread of the caller's is forked, the caller's __main__ is not
imported again, and math-verify is imported once, however many workers there are or have to be replaced.

Each worker has a pipe of its own, so that one that is killed takes no lock with it that the others need; the pools of
the standard library and of pebble share a queue, and break as a whole when a worker dies at the wrong moment.
"""

import ctypes
import json
import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from tqdm import tqdm

from deltageom.errors import UserError
from deltageom.grading.answers import answer_part

Failure = Literal["timeout", "memory", "crash", "error"]
Pair = tuple[str, str]  # what a model wrote, gold
Verdict = bool | Literal["error"]

PR_SET_PDEATHSIG = 1  # prctl(2)
OUT_OF_MEMORY = 113  # a worker's exit code, used by nothing else


@dataclass(frozen=True)
class Opinion:
    verdict: bool | None
    failure: Failure | None  # why there is no verdict


def judge(
    pairs: Sequence[Pair], workers: int = 1, seconds: float = 5.0, memory_mib: int = 2048, progress: bool = True
) -> list[Opinion]:
    r"""math-verify's verdict on each (response, gold), in the order given.

    Judged is what stands after the last `</think>`, with the library's defaults; a response whose <think> is left open
    is wrong. The gold is given as `$gold$`, so that LaTeX, thousands marks and currency are read as in a response.
    Equal pairs are judged once. `seconds` of wall clock and `memory_mib` (address space on top of what the worker has)
    are limits for one item, of which `failure` says that it broke them, that its worker died ("crash") or that
    math-verify raised or could not read the gold ("error"); the other items are judged all the same.
    Raises UserError for fewer workers than one, RuntimeError if the server dies.
    """
    if workers < 1:
        raise UserError(f"{workers} workers cannot judge anything: give 1 or more")
    parts = [(answer_part(response), gold) for response, gold in pairs]
    asked = list(dict.fromkeys((text, gold) for text, gold in parts if text is not None))
    opinions = dict(zip(asked, _ask(asked, workers, seconds, memory_mib, progress), strict=True))
    return [Opinion(False, None) if text is None else opinions[text, gold] for text, gold in parts]


def _ask(pairs: list[Pair], workers: int, seconds: float, memory_mib: int, progress: bool) -> list[Opinion]:
    if not pairs:
        return []
    # -P: a sympy.py in the working directory is not imported
    command = [sys.executable, "-P", "-m", "deltageom.grading.second_opinion"]
    command += [str(option) for option in (workers, seconds, memory_mib, os.getpid())]
    environment = os.environ | {"PYTHONHASHSEED": "0"}  # sympy's order of terms follows hashes
    found: dict[int, Opinion] = {}
    bar = tqdm(total=len(pairs), desc="math-verify", unit="item", mininterval=5, disable=not progress)
    with (
        bar,
        suppress(BrokenPipeError),  # the server died before it had read all
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            server.stdin.write(json.dumps(pairs).encode())
            server.stdin.close()
            for line in server.stdout:
                number, verdict, failure = json.loads(line)
                found[number] = Opinion(verdict, failure)
                bar.update()
        finally:
            server.kill()
    if len(found) < len(pairs):
        raise RuntimeError("the process that runs math-verify ended before its work was done: its own error is above")
    return [found[number] for number in range(len(pairs))]


def _serve(workers: int, seconds: float, memory_mib: int, caller: int) -> None:
    """The server: pairs as JSON on standard input, for each a line of JSON (number, verdict, failure) on the output."""
    _die_with(caller)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller gets it too, and ends us
    logging.disable()
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no result
    pairs = [(text, gold) for text, gold in json.load(sys.stdin)]
    function = partial(judge_one, memory_mib=memory_mib)
    function(r"\boxed{1}", "1")  # imports and compiles everything before the workers are forked
    for number, opinion in settle(function, pairs, workers, seconds):
        print(json.dumps((number, opinion.verdict, opinion.failure)), file=results, flush=True)


def settle(
    function: Callable[[str, str], Verdict], pairs: Iterable[Pair], workers: int, seconds: float
) -> Iterator[tuple[int, Opinion]]:
    """`function` of every pair, as (number of the pair, opinion), in the order in which they end."""
    waiting, idle, busy = enumerate(pairs), list[_Worker](), dict[Connection, _Worker]()
    try:
        while True:
            while len(busy) < workers and (item := next(waiting, None)):
                idle = [worker for worker in idle if worker.process.is_alive()]  # it may have died since, too
                worker = idle.pop() if idle else _Worker(function)
                worker.ask(*item, seconds)
                busy[worker.pipe] = worker
            if not busy:
                return
            soonest = min(worker.deadline for worker in busy.values())
            answered = wait(list(busy), max(0.0, soonest - time.monotonic()))
            for worker in list(busy.values()):
                if worker.pipe in answered:
                    opinion = worker.answer()
                elif time.monotonic() >= worker.deadline:
                    worker.end()
                    opinion = Opinion(None, "timeout")
                else:
                    continue
                del busy[worker.pipe]
                idle.append(worker)
                yield worker.number, opinion
    finally:
        for worker in (*idle, *busy.values()):
            worker.end()


class _Worker:
    """A forked process that judges one pair after another."""

    number: int  # of the pair it has been given last
    deadline: float  # by the monotonic clock

    def __init__(self, function: Callable[[str, str], Verdict]) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=_work, args=(theirs, function, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()  # now the worker's death ends the pipe

    def ask(self, number: int, pair: Pair, seconds: float) -> None:
        self.number = number
        with suppress(OSError):  # dead already: `answer` will say so
            self.pipe.send(pair)
        self.deadline = time.monotonic() + seconds

    def answer(self) -> Opinion:
        try:
            verdict = self.pipe.recv()
        except (EOFError, OSError):
            return Opinion(None, "memory" if self.end() == OUT_OF_MEMORY else "crash")
        return Opinion(None, "error") if verdict == "error" else Opinion(verdict, None)

    def end(self) -> int | None:
        """Kills it if it lives; its exit code."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        return self.process.exitcode


def _work(pipe: "Connection[Verdict, Pair]", function: Callable[[str, str], Verdict], server: int) -> None:
    _die_with(server)
    while True:
        pair = pipe.recv()
        try:
            verdict = function(*pair)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        except Exception:
            verdict = "error"
        pipe.send(verdict)


def _die_with(parent: int) -> None:
    """The kernel kills this process when its parent dies, however that dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # died before the call
        os._exit(1)


def judge_one(text: str, gold: str, memory_mib: int) -> Verdict:
    """In a worker. Ends the process, with OUT_OF_MEMORY, when memory runs out."""
    from math_verify import parse, verify  # type: ignore[import-untyped]

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    sys.settrace(_watch_memory)
    try:
        expected = parse(f"${gold}$", parsing_timeout=None)
        given = parse(text, parsing_timeout=None)
        verdict = bool(verify(expected, given, timeout_seconds=None))
        if sys.gettrace() is None:  # no memory even for the watch
            os._exit(OUT_OF_MEMORY)
        return verdict if expected else "error"
    finally:
        sys.settrace(None)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _watch_memory(frame: FrameType, event: str, argument: Any) -> Any:
    """A trace function. math-verify and sympy catch MemoryError and go on to say "not equal": this sees it first."""
    frame.f_trace_lines = False
    if event == "exception" and issubclass(argument[0], MemoryError):
        os._exit(OUT_OF_MEMORY)
    return _watch_memory


if __name__ == "__main__":
    _serve(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
