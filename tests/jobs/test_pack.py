"""A finished study in an archive: unpacked elsewhere, it has nothing to run again; an unfinished one is refused."""

import os
import shutil
import subprocess
import tarfile
from base64 import urlsafe_b64encode
from collections import Counter
from pathlib import Path, PurePosixPath

import pytest
import yaml
from snakemake.persistence.file import FilePersistence

from deltageom.errors import UserError
from deltageom.jobs import code, pack
from tests.conftest import BIN, SMOKE, planned, snakemake

RESULTS = Path("results", "smoke")
RECORDS = Path(".snakemake", "metadata")


def packed(project: Path, *arguments: str | Path, study: str = "smoke") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(project / "src")}
    return subprocess.run(
        [BIN / "deltageom", "pack", study, *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def unpack(archive: Path, folder: Path) -> Path:
    folder.mkdir()
    subprocess.run(["tar", "xf", archive, "-C", folder], check=True)
    return folder / "deltageom-smoke"


@pytest.fixture(scope="module")
def project(finished: Path) -> Path:
    """The finished study with what a project gathers: caches, and what a kill left over."""
    for left in (
        *("src/deltageom/__pycache__/a.pyc", "src/deltageom.egg-info/PKG-INFO", "workflow/.rules.swp", ".git/HEAD"),
        *("data/theirs.jsonl", "results/other/summary.md", "results/smoke/.summary.md.x1.md"),
        *("results/smoke/scratch/sft/checkpoint.pt", "results/smoke/shards/rollouts/0.parquet"),
    ):
        (finished / left).parent.mkdir(parents=True, exist_ok=True)
        (finished / left).write_text("left over")
    return finished


@pytest.fixture(scope="module")
def archive(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archives") / "smoke.tar.gz"
    done = packed(project, "--output", path)
    assert done.returncode == 0, done.stderr
    assert "not packed" not in done.stdout
    return path


def test_an_unpacked_study_has_nothing_to_do_and_knows_what_it_would(archive: Path, tmp_path: Path) -> None:
    unpacked = unpack(archive, tmp_path / "elsewhere")
    assert planned(unpacked) == Counter()
    command = [BIN / "deltageom", "provenance", "--verify", unpacked / RESULTS / "provenance.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "are as they were recorded" in done.stdout, done.stderr
    # its settings are remembered: an edit is seen as it is at home
    tree = yaml.safe_load(SMOKE)
    tree["runs"]["rift"] = {"learning_rate": 1.0e-3}
    (unpacked / "studies" / "smoke.yaml").write_text(yaml.safe_dump(tree))
    jobs = planned(unpacked)
    assert (jobs["train"], jobs["evaluate"], jobs["pretrain"], jobs["rollouts"]) == (1, 1, 0, 0)


def test_what_is_packed(project: Path, archive: Path) -> None:
    with tarfile.open(archive) as opened:
        members = {member.name: member for member in opened}
    for name, member in members.items():
        path = PurePosixPath(name)
        assert path.parts[0] == "deltageom-smoke"
        assert ".." not in path.parts
        assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
        if member.isfile():
            stat = (project / path.relative_to("deltageom-smoke")).stat()
            assert (member.size, float(member.mtime)) == (stat.st_size, stat.st_mtime), name
    link = members["deltageom-smoke/profiles"]
    assert (link.issym(), link.linkname) == (True, "workflow/profiles")
    names = {str(PurePosixPath(name).relative_to("deltageom-smoke")) for name in members}
    assert {"Snakefile", "studies/toy.yaml", "results/smoke/base/model.safetensors"} <= names
    assert {path.parts[0] for path in map(PurePosixPath, names)} == {
        *("Snakefile", "config.yaml", "workflow", "studies", "src", "envs", "profiles", "results", ".snakemake")
    }
    assert ".snakemake/incomplete" in names  # without it Snakemake reads all metadata as an old version's
    for name in names:
        if members[f"deltageom-smoke/{name}"].isfile():
            assert (project / name).read_bytes() != b"left over", name
    made = {str(path.relative_to(project)) for path in (project / RESULTS).rglob("*") if path.is_file()}
    missing = {name for name in made - names if "/scratch/" not in name and "/shards/" not in name}
    assert missing == {"results/smoke/.summary.md.x1.md"}


def test_the_same_study_makes_the_same_bytes(project: Path, archive: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, symlinks=True)
    (copy / "Snakefile").chmod(0o600)
    found = pack.contents(copy, "smoke", models=True)
    pack.write(copy, "deltageom-smoke", found.members, tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == archive.read_bytes()


def test_without_models_nothing_is_to_be_done_until_something_changes(project: Path, tmp_path: Path) -> None:
    done = packed(project, "--output", tmp_path / "small.tar", "--no-models")
    assert done.returncode == 0, done.stderr
    unpacked = unpack(tmp_path / "small.tar", tmp_path / "elsewhere")
    assert not list((unpacked / RESULTS / "base").glob("*.safetensors"))
    assert not list((unpacked / RESULTS / "teacher").glob("*.safetensors"))
    assert (unpacked / RESULTS / "runs" / "whole" / "model.safetensors").is_file()
    assert (unpacked / RESULTS / "runs" / "sft" / "adapter_model.safetensors").is_file()
    looked = snakemake(unpacked, "--dry-run", "--config", "study=smoke")
    assert "Nothing to be done" in looked.stdout + looked.stderr
    assert "missing metadata" not in looked.stdout + looked.stderr  # it knows what made the weights
    with (unpacked / "src" / "deltageom" / "methods" / "sft.py").open("a") as file:
        file.write("\nEDITED = 1\n")
    assert planned(unpacked)["pretrain"] == 1


def test_an_unfinished_study_is_refused(project: Path, tmp_path: Path) -> None:
    table = project / RESULTS / "tables" / "accuracy.csv"
    table.rename(tmp_path / "accuracy.csv")
    try:
        done = packed(project, "--output", tmp_path / "a.tar.gz")
    finally:
        (tmp_path / "accuracy.csv").rename(table)
    assert done.returncode == 1
    assert "error: study 'smoke' is not finished" in done.stderr
    assert (
        "by figures, page, provenance, summary, tables\n  results/smoke/tables/accuracy.csv: missing\n" in done.stderr
    )
    assert "Finish it first: snakemake --cores" in done.stderr
    assert "--config study=smoke" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a.tar.gz").exists()


def test_a_file_whose_job_was_killed_is_not_packed(project: Path, tmp_path: Path) -> None:
    name = str(RESULTS / "figures" / "accuracy.svg")
    mark = project / ".snakemake" / "incomplete" / urlsafe_b64encode(name.encode()).decode()
    mark.write_text('{"external_jobid": null}')
    try:
        done = packed(project, "--output", tmp_path / "a.tar.gz")
    finally:
        mark.unlink()
    assert f"1 of its {len(list((project / RECORDS).iterdir()))} files are to be made, by figures" in done.stderr
    assert f"{name}: incomplete" in done.stderr
    assert not (tmp_path / "a.tar.gz").exists()


@pytest.mark.parametrize(
    ("study", "output", "says"),
    [
        ("smoke", "there.tar.gz", "there.tar.gz: is there already"),
        ("smoke", "a.zip", "end its name in .tar.gz or .tar"),
        ("smoke", "results/smoke/a.tar.gz", "lies in results/smoke, which is packed itself"),
        ("smoke", "profiles/a.tar.gz", "lies in workflow, which is packed itself"),
        ("smok", "a.tar.gz", "did you mean 'smoke'?"),
        ("broken", "a.tar.gz", "gone.jsonl: no such file"),
    ],
)
def test_mistakes_are_named(project: Path, study: str, output: str, says: str) -> None:
    (project / "there.tar.gz").touch()
    benchmark = "{source: file, path: gone.jsonl}"
    (project / "studies" / "broken.yaml").write_text(f"extends: smoke\nbenchmarks: {{hard: {benchmark}}}\n")
    done = packed(project, "--output", output, study=study)
    for name in ("there.tar.gz", "studies/broken.yaml"):
        (project / name).unlink()
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "a.tar.gz").exists()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A project in miniature: one result and its record, as Snakemake writes it."""
    project = tmp_path / "small"
    for name in ("Snakefile", "config.yaml", "workflow/a.smk", "studies/s.yaml", "src/a.py", "results/s/a.csv"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("x")
    record(project, "results/s/a.csv", ["src/a.py"])
    return project


def record(project: Path, output: str, inputs: list[str]) -> None:
    persistence = FilePersistence(path=project / ".snakemake")
    persistence._io_write(str(project / RECORDS), {"input": inputs}, output)


def test_data_outside_the_project_are_listed_and_left(small: Path) -> None:
    data = ["../shared/gsm8k.jsonl", "/data/aime.jsonl", "theirs.parquet", "results/other/base/config.json"]
    record(small, "results/s/a.csv", ["src/../src/a.py", "results/s/base/model.safetensors", *data])
    record(small, "results/s/gone.csv", ["/data/of_a_removed_benchmark.jsonl"])
    record(small, "results/other/a.csv", ["/data/of_another_study.jsonl"])
    (small / "theirs.parquet").write_text("x")
    found = pack.contents(small, "s", models=True)
    assert list(found.outside) == sorted(data)
    packed = [str(path) for path in found.members if path.parts[0] != ".snakemake"]
    assert packed == ["Snakefile", "config.yaml", "results/s/a.csv", "src/a.py", "studies/s.yaml", "workflow/a.smk"]
    assert len(found.members) == len(packed) + 1  # the record of results/s/a.csv alone


def test_code_from_elsewhere_is_refused(small: Path) -> None:
    pack.check_code(code.PACKAGE.parent.parent)
    with pytest.raises(UserError, match=r"the jobs run /.*/deltageom, which is not of this project"):
        pack.check_code(small)


def test_results_without_metadata_are_refused(small: Path) -> None:
    shutil.rmtree(small / RECORDS)
    with pytest.raises(UserError, match="Snakemake has kept no metadata"):
        pack.contents(small, "s", models=True)


def test_records_of_long_paths_are_found(small: Path) -> None:
    """Snakemake splits their names, which no file system would take whole."""
    name = f"results/s/{'run' * 40}/{'adapter' * 20}.json"
    (small / name).parent.mkdir()
    (small / name).write_text("x")
    record(small, name, ["/data/a.jsonl"])
    found = pack.contents(small, "s", models=True)
    assert found.outside == ("/data/a.jsonl",)
    assert [path for path in found.members if path.parts[0] == ".snakemake" and len(path.parts) > 3]


def test_linked_results_are_packed_as_files(small: Path, tmp_path: Path) -> None:
    """Weights on another disk: a folder and a file that are links, by whatever path."""
    (tmp_path / "disk" / "runs").mkdir(parents=True)
    (tmp_path / "disk" / "runs" / "adapter.json").write_text("weights")
    (small / "results/s/runs").symlink_to(tmp_path / "disk" / "runs")
    (small / "results/s/one.json").symlink_to(tmp_path / "disk" / "runs" / "adapter.json")
    found = pack.contents(small, "s", models=True)
    pack.write(small, "s", found.members, tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as opened:
        for name in ("s/results/s/runs/adapter.json", "s/results/s/one.json"):
            file = opened.extractfile(name)
            assert opened.getmember(name).isreg()
            assert file
            assert file.read() == b"weights"


@pytest.mark.parametrize("target", ["../../elsewhere.smk", "{project}/Snakefile"])
def test_links_that_would_break_are_refused(small: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "elsewhere.smk").write_text("x")
    (small / "workflow" / "b.smk").symlink_to(target.format(project=small))
    (small / "workflow" / "c.smk").symlink_to("a.smk")
    found = pack.contents(small, "s", models=True)
    with pytest.raises(UserError, match=r"workflow/b\.smk: links to"):
        pack.write(small, "s", found.members, tmp_path / "a.tar")
    assert not (tmp_path / "a.tar").exists()
    assert not list(tmp_path.glob(".a.tar*"))
