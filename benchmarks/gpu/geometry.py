"""Geometry on this machine's cores: `deltageom compare` against dense SVDs and against the floor."""

import argparse
import subprocess
import sys

from benchmarks import tables
from benchmarks.gpu.record import Line, Record, cells


def run(given: argparse.Namespace, record: Record) -> None:
    command = [sys.executable, "-m", "benchmarks.geometry", "--rounds", str(given.rounds)]
    command += ["--tiny", "--adapters", "2"] if given.size == "tiny" else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            title, separator, value = line.strip().rpartition(": ")
            if separator and not line.startswith("{"):
                record.write(cell=title, value=value)
            elif not line.startswith("{"):
                record.write(cell="what", value=line.strip())
    if process.returncode:
        record.write(cell="all", reason=f"failed: status {process.returncode}, see geometry.log")


def table(lines: list[Line], _given: argparse.Namespace) -> str:
    rows = [[cell, line.get("value", line.get("reason"))] for cell, (line, *_) in cells(lines).items()]
    return tables.markdown([["", "median (range)"], *rows])
