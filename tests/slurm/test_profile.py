"""What the profile asks of SLURM, as far as a machine without one can tell; test_slurm.py has the rest."""

import re
from pathlib import Path

import pytest
import yaml

from tests.conftest import FULL, ROOT, snakemake
from tests.slurm.test_slurm import CANCEL_WHAT_IS_LEFT

PAGE = (ROOT / "docs" / "slurm.md").read_text()


def _resources(project: Path, *arguments: str) -> dict[str, set[str]]:
    """What each rule's jobs would ask for."""
    done = snakemake(project, *arguments, "--dry-run", FULL)
    assert done.returncode == 0, done.stdout + done.stderr
    blocks = re.findall(
        r"^rule (\w+):\n(?:    .*\n)*?    resources: (.*)$", done.stdout + done.stderr, flags=re.MULTILINE
    )
    return {rule: set(line.split(", ")) for rule, line in blocks if rule != "all"}


@pytest.mark.parametrize("option", ["--profile", "--workflow-profile"])
def test_every_rule_says_what_its_jobs_need(project: Path, option: str) -> None:
    rules = _resources(project, option, "workflow/profiles/slurm")
    assert {"pretrain", "rollouts", "train", "evaluate", "geometry", "cka", "tables", "summary"} <= rules.keys()
    for rule, resources in rules.items():
        assert "nodes=1" in resources, rule
        assert any(re.fullmatch(r"mem_mb=\d+", resource) for resource in resources), rule
        assert any(re.fullmatch(r"runtime=\d+", resource) for resource in resources), rule


def test_a_copy_of_the_profile_as_the_page_has_it(project: Path) -> None:
    profile = project / "workflow" / "profiles" / "mine" / "config.yaml"
    profile.parent.mkdir()
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    inherited = yaml.safe_load((project / "workflow" / "profiles" / "slurm" / "config.yaml").read_text())
    profile.write_text(yaml.safe_dump(inherited | yaml.safe_load(example)))
    shared = ("device=cuda", "rollouts={jobs: 8}")
    rules = _resources(project, "--workflow-profile", "workflow/profiles/mine", "--config", *shared)
    assert {"gpu=1", "gpu_model=h100", "slurm_partition=gpu", "nodes=1"} <= rules["rollouts_part"]
    assert {"gpu=0", "slurm_partition=cpu", "mem_mb=16000"} <= rules["rollouts"]  # it merges
    assert {"gpu=1", "slurm_partition=gpu", "mem_mb=96000", "runtime=2880", "slurm_account=lab"} <= rules["train"]
    assert {"slurm_partition=cpu", "mem_mb=2000"} <= rules["cka"]


def test_no_cap_of_a_workstation_holds_on_a_cluster(project: Path) -> None:
    """profiles/default admits one GPU at once, which --profile would take as well."""
    study = "extends: toy\ndevice: cuda\nexecution: {processes: 2}\ntraining: {micro_batch_size: 8}\n"
    (project / "studies" / "two.yaml").write_text(study)
    rules = _resources(project, "--workflow-profile", "workflow/profiles/slurm", "--config", "study=two")
    assert "gpu=2" in rules["train"]
    assert "gpu=1" in rules["evaluate"]


def test_the_page_has_what_the_test_does_after_a_kill() -> None:
    assert CANCEL_WHAT_IS_LEFT in PAGE.splitlines()
