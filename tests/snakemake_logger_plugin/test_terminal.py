"""What the real Snakemake prints through the plugin, of a small workflow and of the project's own."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import BIN, ROOT, environment, snakemake

WORKFLOW = """
from snakemake.logging import logger

logger.info("study small", extra={"study": "small"})


rule all:
    input:
        "results/small/summary.md",


rule train:
    output:
        "results/{owner}/runs/{run}",
    log:
        "logs/{owner}/{run}.log",
    wildcard_constraints:
        owner="small|small/replicates/2",
    params:
        "HOW",
    shell:
        "COMMAND"


rule own_measure:
    input:
        "results/small/runs/sft",
        "results/small/replicates/2/runs/sft",
    output:
        "results/small/measured",
    shell:
        "touch {output}"


rule summary:
    input:
        "results/small/measured",
    output:
        "results/small/summary.md",
    shell:
        "touch {output}"
"""
WORKS = "mkdir -p {log}; rmdir {log}; touch {output}"
FAILS = "printf 'loaded\\\\ndeltageom train: error: runs.sft: no such\\\\nmodel\\\\n' > {log}; exit 7"


def run(folder: Path, *arguments: str, command: str = WORKS, how: str = "as it is") -> subprocess.CompletedProcess[str]:
    (folder / "Snakefile").write_text(WORKFLOW.replace("COMMAND", command).replace("HOW", how))
    return ended([BIN / "snakemake", "--logger", "deltageom", "--cores", "1", *arguments], folder)


def ended(command: str | list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """A string is for the shell."""
    return subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=folder,
        env=environment(ROOT),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def full_log(folder: Path, printed: str) -> str:
    found = re.search(r"^full log: (\.snakemake/log/.+)$", printed, re.MULTILINE)
    assert found, printed
    return (folder / found[1]).read_text()


def test_a_line_per_finished_job_and_where_the_results_lie(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    progress = r"\[{}/4  \d+ s(, about \d+ s left)?\] {}: \d+ s"
    patterns = [
        "study small: 4 jobs to do",
        *(progress.format(n, rf"trained sft{where}") for n, where in ((1, ".*"), (2, ".*"))),
        progress.format(3, "own_measure"),  # which has no words of its own
        progress.format(4, "wrote the summary"),
        r"4 of 4 jobs done in \d+ s",
        "summary: results/small/summary.md",
        "full log: .*",
    ]
    assert len(lines) == len(patterns), done.stderr
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line
    assert "trained sft (replicate 2): " in done.stderr
    assert "trained sft: " in done.stderr
    assert "rule train:\n    output: results/small/runs/sft\n" in full_log(tmp_path, done.stderr)
    again = run(tmp_path)
    assert again.stderr.splitlines() == [
        "Nothing to be done (all requested files are present and up to date).",
        "summary: results/small/summary.md",
        *again.stderr.splitlines()[2:],
    ]
    assert len(again.stderr.splitlines()) <= 3


def test_the_report_is_named_only_where_it_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "results" / "small").mkdir(parents=True)
    (tmp_path / "results" / "small" / "report.html").touch()
    part = run(tmp_path, "results/small/measured").stderr
    assert "3 of 3 jobs done in " in part
    assert "report:" not in part
    assert "\nreport: results/small/report.html\nsummary: results/small/summary.md\n" in run(tmp_path).stderr


def test_a_failed_job_is_told_whole(tmp_path: Path) -> None:
    done = run(tmp_path, "--keep-going", command=FAILS)
    assert done.returncode == 1
    assert done.stderr.count("FAILED train sft, log: logs/small/sft.log") == 1
    assert done.stderr.count("FAILED train sft (replicate 2), log: logs/small/replicates/2/sft.log") == 1
    end = done.stderr.partition("\n0 of 4 jobs done in ")[2]
    assert "\ntrain sft: deltageom train: error: runs.sft: no such\nmodel\n  log: logs/small/sft.log\n" in end
    assert "\ntrain sft (replicate 2): deltageom train: error: runs.sft: no such\nmodel\n  log: " in end
    assert len(done.stderr.splitlines()) < 15, done.stderr
    assert "Error in rule train:" in full_log(tmp_path, done.stderr)


def test_a_killed_job_says_how_it_ended(tmp_path: Path) -> None:
    done = run(tmp_path, command="echo nothing > {log}; kill -9 $$")
    assert re.search(
        r"^train sft.*: no error is in its log; the command died with .*SIGKILL", done.stderr, re.MULTILINE
    )
    missing = run(tmp_path, command="true")
    assert "/runs/sft (missing locally" in missing.stderr.partition("MissingOutputException")[2]


def test_errors_before_the_first_job_are_whole(tmp_path: Path) -> None:
    done = run(tmp_path, "results/small/unknown")
    assert done.returncode == 1
    assert "MissingRuleException" in done.stderr
    assert "results/small/unknown" in done.stderr
    assert "jobs done" not in done.stderr


def test_a_dry_run_groups_jobs_by_rule_and_reason(tmp_path: Path) -> None:
    planned = run(tmp_path, "-n")
    assert (planned.returncode, planned.stderr) == (0, "")
    rows = [re.split(r"  +", line.strip()) for line in planned.stdout.splitlines()[2:-2]]
    assert rows == [
        ["jobs", "rule", "of", "why"],
        ["2", "train", "replicates 1, 2: sft", "not made yet"],
        ["1", "own_measure", "not made yet"],
        ["1", "summary", "not made yet"],
    ]
    assert run(tmp_path).returncode == 0
    (tmp_path / "results" / "small" / "runs" / "sft").unlink()
    rows = run(tmp_path, "-n", how="now so").stdout.splitlines()[3:-2]
    assert [re.split(r"  +", line.strip()) for line in rows] == [
        ["1", "train", "replicate 2: sft", "as it is -> now so"],
        ["1", "train", "sft", "not made yet"],
        ["1", "own_measure", "follows train"],
        ["1", "summary", "follows own_measure"],
    ]


def test_in_full_it_is_snakemakes_own_output(tmp_path: Path) -> None:
    own = run(tmp_path, "-n", "--logger-deltageom-full").stdout
    assert "rule train:\n    output: results/small/runs/sft\n" in own
    assert "would run" not in own
    assert "study small: " not in own


def test_quiet_and_shell_commands_work_as_ever(tmp_path: Path) -> None:
    assert "touch results/small/measured" in run(tmp_path, "-n", "-p").stdout
    assert run(tmp_path, "--quiet", "progress").stderr.count("trained") == 0


def test_a_pipe_that_closes_early_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(WORKFLOW.replace("COMMAND", WORKS))
    done = ended(f"{BIN / 'snakemake'} --cores 1 --logger deltageom -n | true", tmp_path)
    assert "Traceback" not in done.stderr


def test_the_projects_own_dry_run_fits_a_screen(project: Path) -> None:
    planned = snakemake(project, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert re.match(r"study toy: \d+ jobs would run\n", planned.stdout)
    assert len(planned.stdout.splitlines()) <= 40
    assert max(map(len, planned.stdout.splitlines())) <= 120
    shutil.rmtree(project / "profiles" / "default")  # where the plugin is chosen
    assert "rule train:" in snakemake(project, "--dry-run").stdout


@pytest.mark.parametrize("path", sorted((ROOT / "workflow" / "rules").glob("*.smk")), ids=lambda path: path.stem)
def test_every_rule_has_words(path: Path) -> None:
    from snakemake_logger_plugin_deltageom.words import DONE

    rules = re.findall(r"^ *(?:use )?rule (\w+)(?: as (\w+) with)?:", path.read_text(), re.MULTILINE)
    assert {again or rule for rule, again in rules} <= set(DONE)
