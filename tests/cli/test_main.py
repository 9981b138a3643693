"""The console command: help, logs, clear failures, provenance."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from tests.conftest import BIN, ROOT


def deltageom(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "deltageom", *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def problem_settings(**dataset: object) -> str:
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    return json.dumps(
        {"dataset": config["dataset"] | dataset, "grader": None, "seed": 0, "world": config["toy"]["world"]}
    )


def test_help_names_every_command_with_a_line() -> None:
    shown = deltageom("--help").stdout
    for path in (ROOT / "src" / "deltageom" / "cli").rglob("[a-z]*.py"):
        if path.stem != "main" and path.parent.name != "shared":
            assert path.stem.replace("_", "-") in shown
            assert deltageom(path.stem.replace("_", "-"), "--help").returncode == 0


@pytest.mark.parametrize("said", [None, "TRUE"])
def test_mkl_takes_the_threads_that_it_is_given_unless_the_user_says_otherwise(said: str | None) -> None:
    shown = (
        "import os, deltageom.cli.main as m\ntry: m.main(['--help'])\n"
        "except SystemExit: print(os.environ['MKL_DYNAMIC'])"
    )
    environment = {key: value for key, value in os.environ.items() if key != "MKL_DYNAMIC"}
    environment |= {"MKL_DYNAMIC": said} if said else {}
    done = subprocess.run([BIN / "python", "-c", shown], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == (said or "FALSE")


def test_log_takes_the_output_and_the_terminal_the_error(tmp_path: Path) -> None:
    settings = problem_settings(source="file", path=str(tmp_path / "gone.jsonl"))
    log = tmp_path / "logs" / "a.log"
    done = deltageom("problems", "--settings", settings, "--output", tmp_path / "out", "--log", log)
    assert done.returncode == 1
    assert "gone.jsonl: no such file" in done.stderr
    assert str(log) in done.stderr
    assert "Traceback" not in done.stderr + log.read_text()
    assert "gone.jsonl: no such file" in log.read_text()
    assert not (tmp_path / "out").exists()


def test_uncaught_exception_lands_in_the_log_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")  # a file where a folder is needed
    settings = problem_settings(source="toy", split="easy", limit=1)
    log = tmp_path / "a.log"
    done = deltageom("problems", "--settings", settings, "--output", tmp_path / "file" / "out", "--log", log)
    assert done.returncode == 1
    assert "Traceback" in log.read_text()
    assert "Traceback" not in done.stderr
    assert "Error" in done.stderr


def test_provenance_says_where_an_artefact_came_from(tmp_path: Path) -> None:
    settings = problem_settings(source="toy", split="easy", limit=2)
    provenance = tmp_path / "provenance.json"
    done = deltageom("problems", "--settings", settings, "--output", tmp_path / "out.jsonl", "--provenance", provenance)
    assert done.returncode == 0, done.stderr
    found = json.loads(provenance.read_text())
    assert found["settings"] == json.loads(settings)
    assert found["command"] == "problems"
    assert len(found["code_sha256"]) == 64
    assert "torch" in found["versions"]
    assert found["wall_seconds"] > 0
    assert found["machine"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("{", "--settings: "),
        ('{"dataset": 1, "seed": 2}', "--settings: dataset"),
        ('{"x": 1}', "dataset"),
    ],
)
def test_bad_settings(tmp_path: Path, settings: str, says: str) -> None:
    done = deltageom("problems", "--settings", settings, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["measure", "cka", "--input", "a=x", "--run", "n=x", "--run", "n=y", "--output", "out.csv"],
        ["geometry", "--run", "n=x", "--run", "n=y", "--module", "layers.0.m", "--top-k", "1", "--output", "out"],
    ],
)
def test_a_name_given_twice(tmp_path: Path, arguments: list[str]) -> None:
    for name in ("x", "y"):
        save_file({"hidden": np.ones((1, 5, 2), np.float32)}, tmp_path / name)
    done = deltageom(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "two have the same name; give each its own" in done.stderr


def test_study_prints_itself_resolved_and_its_schema() -> None:
    resolved = yaml.safe_load(deltageom("study", "toy-self").stdout)
    assert resolved["rollouts"]["generator"] == "base"
    assert resolved["runs"]["sft"]["training"]["steps"] > 0
    assert json.loads(deltageom("study", "--schema").stdout)["title"] == "Study"
    assert "unknown study 'nope'" in deltageom("study", "nope").stderr


def test_an_option_is_given_by_its_whole_name() -> None:
    """`--gpu` is no short form of `--gpus`, which is the rules' own and in no help of `plan`."""
    done = deltageom("plan", "toy", "--gpu", "2xrtx4090")
    assert done.returncode == 2
    assert "unrecognized arguments: --gpu 2xrtx4090" in done.stderr
    assert "--gpus" not in done.stderr
