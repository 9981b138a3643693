"""A finished study as one archive: another user unpacks it and finds nothing to run again."""

import base64
import csv
import gzip
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path

from deltageom.errors import UserError
from deltageom.files import whole_file
from deltageom.jobs import code
from deltageom.study.replicates import FOLDER as REPLICATES

# The project's own, as far as it is there: what a run reads, and what explains it.
PROJECT = (
    *("Snakefile", "config.yaml", "workflow", "profiles", "studies", "src"),
    *("envs", "Makefile", "pyproject.toml", "README.md", "LICENSE", "docs"),
)
UNDER_WAY = ("scratch", "shards")  # what killed jobs go on from: empty, or left over, in a finished study
MODELS = ("base", "teacher")
METADATA, INCOMPLETE = Path(".snakemake/metadata"), Path(".snakemake/incomplete")
ENDINGS = (".tar.gz", ".tar")
SHOWN = 5


@dataclass(frozen=True)
class Contents:
    """What goes into an archive, and what its jobs have read that does not: both by path from the project's folder."""

    members: tuple[Path, ...]
    outside: tuple[str, ...]


def contents(project: Path, study: str, models: bool, made: Iterable[Path] = ()) -> Contents:
    """The files of a finished study: the project's own, its results, and what Snakemake knows of these.

    `models`: with the weights of the toy base and teacher. `made`: what `check_finished` returns, of which those
    below the results of other studies are packed too. Raises UserError if Snakemake knows nothing of its results.
    """
    results = _results(study)
    own = [path for name in PROJECT for path in _files(project, Path(name))]
    all_made = {*_files(project, results, followed=True), *(path for path in made if (project / path).is_file())}
    packed = {path for path in all_made if _is_kept(Path(*path.parts[2:]), models)}
    metadata, read = [], set()
    for path, output in _metadata(project, METADATA):
        if output in all_made:  # of weights left out too: Snakemake then knows what made them
            metadata.append(path)
            read |= {os.path.normpath(name) for name in json.loads((project / path).read_bytes())["input"] or []}
    if not metadata:
        raise UserError(f"{METADATA}: knows none of the results of study {study!r}: Snakemake has kept no metadata")
    known = {str(path) for path in (*own, *all_made)}
    outside = sorted(name for name in read - known if not Path(name).is_relative_to(results))
    return Contents(tuple(sorted({*own, *packed, *metadata})), tuple(outside))


def check_code(project: Path) -> None:
    """Raises UserError if jobs run a package that is not packed: elsewhere all that differs would run again."""
    if not code.PACKAGE.resolve().is_relative_to(project.resolve()):
        raise UserError(
            f"the jobs run {code.PACKAGE}, which is not of this project: elsewhere everything would run again. "
            "Install the project's own src (`make setup`, or pip install --editable .) and run the study with that"
        )


def check_output(project: Path, study: str, output: Path) -> None:
    """Raises UserError if `output` is there, or where it would be packed the next time."""
    if not output.name.endswith(ENDINGS):
        raise UserError(f"--output {output}: end its name in {' or '.join(ENDINGS)}")
    if output.exists():
        raise UserError(f"--output {output}: is there already: remove it, or give another name")
    for packed in (*PROJECT, _results(study)):
        if output.resolve().is_relative_to((project / packed).resolve()):
            raise UserError(f"--output {output}: lies in {packed}, which is packed itself: write it elsewhere")


def check_finished(project: Path, study: str) -> list[Path]:
    """Its jobs' outputs and logs, those below the results of studies that it extends included.

    Raises UserError naming what is missing, out of date or incomplete, and the command that makes it.
    """
    command = ["--summary", "--config", f"study={study}"]
    # not software-env: whether jobs ran in conda environments is known to their user, not to this command
    command += ["--rerun-triggers", "mtime", "params", "input", "code"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "snakemake", *command], cwd=project, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-SHOWN:])
        raise UserError(f"snakemake {' '.join(command)} fails:\n{last}")
    rows = list(csv.DictReader(done.stdout.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    broken = {str(output) for _, output in _metadata(project, INCOMPLETE)}  # which the summary does not look at
    for row in rows:
        row["why"] = "incomplete" if row["output_file"] in broken else row["status"].replace("ok", "out of date")
    to_do = [row for row in rows if row["plan"] != "no update" or row["why"] == "incomplete"]
    if not to_do:
        return [Path(name) for row in rows for name in (row["output_file"], *row["log-file(s)"].split(","))]
    to_do.sort(key=lambda row: (row["why"] == "out of date", row["output_file"]))  # first what the others wait for
    shown = [f"{row['output_file']}: {row['why']}" for row in to_do[:SHOWN]]
    if len(to_do) > SHOWN:
        shown.append(f"and {len(to_do) - SHOWN} more")
    raise UserError(
        f"study {study!r} is not finished: {len(to_do)} of its {len(rows)} files are to be made, by "
        f"{', '.join(sorted({row['rule'] for row in to_do}))}\n  " + "\n  ".join(shown) + "\n"
        f"Finish it first: snakemake --cores {len(os.sched_getaffinity(0))} --rerun-incomplete --config study={study}"
    )


def write(project: Path, folder: str, members: Iterable[Path], output: Path) -> None:
    """A tar archive with everything below `folder`; gzipped unless `output` ends in .tar. The same files with the same
    times make the same bytes: no owner, no time of packing. Raises UserError for a link that leads out of the project.
    """
    with (
        whole_file(output) as aside,
        _stream(aside, output.suffix == ".gz") as stream,
        # PAX, the format that keeps fractions of seconds: Snakemake compares them
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in members:
            _add(archive, project, path, f"{folder}/{path.as_posix()}")
        # without this folder Snakemake takes the metadata for those of an old version
        archive.addfile(_plain(tarfile.TarInfo(f"{folder}/{INCOMPLETE.as_posix()}"), tarfile.DIRTYPE, 0o755))


def _results(study: str) -> Path:
    return Path("results", study)


def _files(project: Path, top: Path, followed: bool = False) -> Iterator[Path]:
    """Files and links at or below `top`, without caches and hidden files; linked folders are walked if `followed`."""
    place = project / top
    if place.is_file() or (place.is_symlink() and not followed):
        yield top
        return
    for parent, folders, files in os.walk(place, followlinks=followed):
        here = Path(parent).relative_to(project)
        folders[:] = [name for name in folders if not _is_cache(name)]
        links = [name for name in folders if not followed and Path(parent, name).is_symlink()]
        yield from (here / name for name in (*files, *links) if not _is_cache(name))


def _is_cache(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__" or name.endswith((".egg-info", ".pyc", "~"))


def _is_kept(path: Path, models: bool) -> bool:
    """Whether a file below the study's results is packed."""
    top = path.parts[2 if path.parts[0] == REPLICATES else 0]
    weights = top in MODELS and path.suffix == ".safetensors"
    return top not in UNDER_WAY and (models or not weights)


def _metadata(project: Path, folder: Path) -> Iterator[tuple[Path, Path]]:
    """Snakemake's records and the outputs they are of: base64 of the path, in pieces where a name would be too long."""
    for path in (project / folder).rglob("*"):
        pieces = path.relative_to(project / folder).parts
        try:
            output = base64.urlsafe_b64decode("".join(piece.removeprefix("@") for piece in pieces)).decode()
        except ValueError:
            continue  # a file of another kind
        if path.is_file():
            yield path.relative_to(project), Path(output)


@contextmanager
def _stream(path: Path, zipped: bool) -> Iterator[gzip.GzipFile | BufferedWriter]:
    with path.open("wb") as file:
        if not zipped:
            yield file
            return
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as stream:
            yield stream


def _add(archive: tarfile.TarFile, project: Path, path: Path, name: str) -> None:
    """A file, or a link as such if it is one of the project's own; a linked result is packed as the file it is."""
    place = project / path
    if place.is_symlink() and path.parts[0] != "results":
        info = _plain(tarfile.TarInfo(name), tarfile.SYMTYPE, 0o777)
        info.linkname = str(place.readlink())
        inside = place.resolve().is_relative_to(project.resolve())
        if not inside or Path(info.linkname).is_absolute():
            raise UserError(f"{path}: links to {info.linkname}: put the file itself there, or a relative link within")
        archive.addfile(info)
        return
    with place.open("rb") as file:
        stat = os.fstat(file.fileno())
        info = _plain(tarfile.TarInfo(name), tarfile.REGTYPE, 0o755 if stat.st_mode & 0o100 else 0o644)
        info.size, info.mtime = stat.st_size, stat.st_mtime
        archive.addfile(info, file)


def _plain(info: tarfile.TarInfo, kind: bytes, mode: int) -> tarfile.TarInfo:
    """An entry of nobody's, at no time."""
    info.type, info.mode = kind, mode
    return info
