"""Snakemake compares every input by content, whatever its size, and reads no file twice for it.

By itself it compares files of up to 1 MB, and takes a newer one that is larger for another file. It
reads an input where that is newer than an output, and again at a job's end, once for each of the
job's outputs, which for a large base model is hundreds of times. So its checksums come from
`still_true.of_file`, which remembers them. Not by --max-checksum-file-size, which a Snakefile
cannot set and a profile sets only where it is used.
"""

import re
import sys
from pathlib import Path
from typing import Any

from deltageom.jobs import still_true

KEPT = Path(".snakemake", "deltageom_checksums.json")  # below the working directory, as all that Snakemake remembers

PART = re.compile(r"/shards/[^/]+/\d+-of-\d+\.json$")


def by_content() -> None:
    """To be called by the Snakefile, which Snakemake reads before it compares any file."""
    from snakemake.io import _IOFile

    checksum_of, is_eligible = _IOFile.checksum, _IOFile.is_checksum_eligible
    if checksum_of.__module__ == __name__:  # another workflow in this process
        return

    async def is_checksum_eligible(self: Any, _threshold: int | None) -> bool:
        return bool(await is_eligible(self, sys.maxsize))

    async def checksum(
        self: Any, threshold: int | None = None, force: bool = False, algorithm: Any = None
    ) -> str | None:
        if self.is_storage or algorithm not in (None, "sha256"):
            found: str | None = await checksum_of(self, threshold, force, algorithm)
            return found
        eligible = await self.is_checksum_eligible(threshold)
        return f"sha256:{still_true.of_file(Path(self.file), KEPT)}" if eligible else None

    _IOFile.checksum, _IOFile.is_checksum_eligible = checksum, is_checksum_eligible


def without_parts() -> None:
    """How many jobs shared a generation does nothing again: their marks (`PART`) are gone once it is merged.

    By itself Snakemake does a job again whose set of inputs is another, so the marks do not count among those of the
    job that merges. And it takes what was never made for older than all that is newer than what was made of it, as
    after a copy of the results; so a part that was never made is as good as its inputs.
    """
    from snakemake.persistence import PersistenceBase

    inputs_of, checksums_of = PersistenceBase._input, PersistenceBase.input_checksums
    if inputs_of.__module__ == __name__:
        return

    def inputs(self: Any, job: Any) -> list[str]:
        return [file for file in inputs_of(self, job) if not PART.search(file)]

    def input_checksums(self: Any, job: Any, path: Any) -> set[Any]:
        if all(PART.search(mark) and self.metadata(mark) is None for mark in job.output):
            return {f"sha256:{still_true.of_file(Path(path), KEPT)}"}
        found: set[Any] = checksums_of(self, job, path)
        return found

    PersistenceBase._input, PersistenceBase.input_checksums = inputs, input_checksums
