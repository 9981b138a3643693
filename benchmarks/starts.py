"""How long Snakemake takes to say what is to be done: a study of 28 runs of which nothing is done, and all of it.

    python -m benchmarks.starts

Against `snakemake --version`, which is its own start alone, in rounds of all; a ratio is taken within a round. What is
"done" are empty files that `snakemake --touch` declares to be of this version: real ones are larger, but as many.
"""

import argparse
import csv
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.project import snakemake
from tests.conftest import copy_project

STUDY = """
extends: toy
replicates: {count: 1}
runs: {sft: null, sft_seed7: null, rft: null, dft: null, rift: null, rift_linear: null, offline_grpo: null, dpo: null}
grid:
  sft:
    method: sft
    learning_rate: [1.0e-4, 2.0e-4, 5.0e-4, 1.0e-3, 2.0e-3, 5.0e-3, 1.0e-2]
    lora: {init_seed: [1, 2, 3, 4]}
measures: {compare_with: sft-lr0.002-init1}
"""
FLOOR, NOTHING_DONE, ALL_DONE = "snakemake --version", "dry run, nothing done", "start, all done"


def said(project: Path, *arguments: str) -> str:
    done = snakemake(project, *arguments)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout + done.stderr


def seconds(project: Path, *arguments: str, says: str) -> float:
    started = time.perf_counter()
    output = said(project, *arguments)
    took = time.perf_counter() - started
    assert says in output, output
    return took


def make_project(folder: Path, done: bool) -> Path:
    copy_project(folder)
    (folder / "studies" / "large.yaml").write_text(STUDY)
    if done:
        rows = csv.DictReader(said(folder, "--summary", "--config", "study=large").splitlines(), delimiter="\t")
        for row in rows:
            path = folder / row["output_file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        said(folder, "--touch", "--config", "study=large")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        empty, full = (make_project(Path(name) / folder, folder == "full") for folder in ("empty", "full"))
        study = ("--config", "study=large")
        rounds = [
            {
                FLOOR: seconds(empty, "--version", says="9."),
                NOTHING_DONE: seconds(empty, "--dry-run", *study, says="train"),
                ALL_DONE: seconds(full, *study, says="Nothing to be done"),
            }
            for _ in range(given.rounds)
        ]
    for contender in rounds[0]:
        times = [one[contender] for one in rounds]
        ratios = [one[contender] / one[FLOOR] for one in rounds]
        print(
            f"{contender}: {statistics.median(times):.2f} s ({min(times):.2f}-{max(times):.2f}), "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) times Snakemake's own start"
        )


if __name__ == "__main__":
    main()
