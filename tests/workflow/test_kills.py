"""A study that is killed again and again, or finds the disk full, ends as one that was left alone."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflow import killing

KILLS, SEED = 8, 20261124


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study, undisturbed, with no generation shared between jobs."""
    folder = killing.project(tmp_path_factory.mktemp("whole") / "project")
    assert killing.start(folder, *killing.ONE_JOB).wait() == 0, (folder / "snakemake.log").read_text()
    return folder


def test_kills_at_random_moments_show_nowhere(whole: Path, tmp_path: Path) -> None:
    """Every way, in one study or two; `python -m tests.workflow.killing` does more of the same."""
    kills: Counter[str] = Counter()
    for report in killing.disturb_all(tmp_path, whole, KILLS, SEED, longest=15):
        print(report)  # shown where the test fails
        assert report.differences == []
        kills += report.kills
    assert kills.total() == KILLS
    assert set(kills) == set(killing.HOW)
    for scratch in ("scratch", "shards"):
        assert not [path for path in tmp_path.glob(f"*/{killing.RESULTS}/{scratch}/**/*") if path.is_file()]


def test_the_comparison_sees_a_difference(whole: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["cp", "-a", whole, other], check=True)
    assert killing.differences(whole, other) == []
    table = other / killing.RESULTS / "tables" / "accuracy.csv"
    table.write_text(table.read_text().replace("0", "1", 1))
    (other / killing.RESULTS / "tables" / "cka.csv").unlink()
    assert killing.differences(whole, other) == ["tables/accuracy.csv", "tables/cka.csv"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_leaves_nothing_that_looks_complete(whole: Path, small_disk: Path, tmp_path: Path) -> None:
    """The results lie on a disk that is too small, then on one that is large enough."""
    folder = killing.project(tmp_path / "project")
    (folder / "results").symlink_to(small_disk)
    assert killing.start(folder).wait() != 0
    said = (folder / "snakemake.log").read_text() + "".join(
        path.read_text(errors="replace") for path in (small_disk / "small" / "logs").rglob("*.log")
    )
    assert re.search(
        "No space left on device|Errno 28|os error 28|MiB are free on the disk of results/small/provenance", said
    ), said[-3000:]
    subprocess.run(["mount", "-o", "remount,size=256m", small_disk], check=True)
    assert killing.start(folder).wait() == 0, (folder / "snakemake.log").read_text()[-3000:]
    assert killing.differences(whole, folder) == []


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="jobs follow their Snakemake on Linux alone")
def test_a_job_ends_with_the_snakemake_that_started_it() -> None:
    """Here one that is gone before and one that goes while the job runs."""
    code = (
        "import time; from deltageom.jobs import watch; watch.end_with_starter(); print('up', flush=True);"
        " time.sleep(60)"
    )

    def job(starter: int) -> subprocess.Popen[bytes]:
        environment = os.environ | {"DELTAGEOM_STARTED_BY": str(starter)}
        return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)

    starter = subprocess.Popen(["sleep", "60"])
    running = job(starter.pid)
    assert running.stdout
    assert running.stdout.readline() == b"up\n"
    time.sleep(0.2)
    assert running.poll() is None
    starter.kill()
    starter.wait()
    assert running.wait(10) != 0
    assert job(starter.pid).wait(20) != 0
