"""Resuming: kill -9 at any moment, and the same bytes come out as without it."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from deltageom.errors import UserError
from deltageom.study.schema import Base
from deltageom.study.settings import TrainSettings
from deltageom.training import resume
from deltageom.training.output import saving
from deltageom.training.session import Execution
from deltageom.training.train import Paths, train
from tests.training.killing import environment, killed_when
from tests.training.tiny_runs import paths, rollouts, settings

STEPS = 12
FILES = ("adapter_model.safetensors", "adapter_config.json", "metrics.parquet", "selection.json")


def command(run: TrainSettings, given: Paths, *options: str) -> list[str]:
    """The command line of the rule."""
    arguments = ["train", "--settings", run.model_dump_json(), "--base", given.base]
    for name in ("rollouts", "output", "scratch", "reference", "mismatched", "held_out"):
        if value := getattr(given, name):
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    return [sys.executable, "-m", "deltageom", *arguments, *options]


@pytest.mark.parametrize("method", ["sft", "dpo", "kto"])
def test_a_killed_training_goes_on_to_the_same_bytes(
    method: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    """Killed at three moments of one training: a checkpoint begun, one just complete, and the last of all."""
    kept = [1, 5, STEPS]  # before each kill one that no later start writes again
    run = settings(base_settings, method, steps=STEPS, lora={"dropout": 0.2}, kl_every=4, snapshots=kept)
    plain = paths(run, rollouts(), tiny_model, tmp_path / "plain")
    done = subprocess.run(command(run, plain), env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    given = paths(run, rollouts(), tiny_model, tmp_path / "killed")
    asked = command(run, given, "--checkpoint-every", "3")
    killed_when("checkpoint-3/*", asked, given.scratch, given.output)
    killed_when(f"checkpoint-6/{resume.MARK}", asked, given.scratch, given.output)
    killed_when(f"checkpoint-{STEPS}/*", asked, given.scratch, given.output)
    done = subprocess.run(asked, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in (*FILES, *(f"snapshots/{step}.safetensors" for step in kept)):
        assert (given.output / name).read_bytes() == (plain.output / name).read_bytes(), name
    assert not given.scratch.exists()


class Killed(BaseException):
    """In place of a kill, where the moment is one between two lines."""


def interrupted(monkeypatch: pytest.MonkeyPatch, run: TrainSettings, given: Paths, step: int) -> None:
    """Leaves the checkpoint of `step` complete and nothing after it."""
    marker = resume.marker

    def mark_and_die(identity: dict[str, Any]) -> Any:
        mark = marker(identity)

        def marked(folder: Path) -> None:
            mark(folder)
            if folder.name == f"checkpoint-{step}":
                raise Killed

        return marked

    with monkeypatch.context() as patched:
        patched.setattr(resume, "marker", mark_and_die)
        with pytest.raises(Killed):
            train(run, given, Execution(checkpoint_every=3))


def test_it_is_the_checkpoint_that_is_continued(
    tiny_model: Path, base_settings: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the test above would pass on a training that starts again: here the log's past is another one."""
    run = settings(base_settings, "sft", steps=6)
    given = paths(run, rollouts(), tiny_model, tmp_path)
    interrupted(monkeypatch, run, given, 3)
    state = given.scratch / "checkpoint-3" / "trainer_state.json"
    told = json.loads(state.read_text())
    told["log_history"][0]["loss"] = 123.0
    state.write_text(json.dumps(told))
    train(run, given, Execution(checkpoint_every=3))
    metrics = pd.read_parquet(given.output / "metrics.parquet")
    losses = metrics[metrics["metric"] == "loss"]["value"].tolist()
    assert losses[0] == 123.0
    assert len(losses) == 6


@pytest.mark.parametrize("ends", ["steps", "norm"])
def test_a_kill_after_the_last_step_trains_no_further(
    ends: str, tiny_model: Path, base_settings: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever way the training ended: at a norm, a checkpoint of that very step would lead to one step more."""
    other = paths(settings(base_settings, "sft"), rollouts(), tiny_model, tmp_path / "other")
    train(settings(base_settings, "sft"), other, Execution())
    match = {"run": "other", "how": "stop"} if ends == "norm" else None
    run = settings(base_settings, "dft", match_norm=match, steps=40 if match else 5, learning_rate=0.003)
    given = [
        paths(run, rollouts(), tiny_model, tmp_path / name, match=other.output / "selection.json")
        for name in ("plain", "killed")
    ]
    train(run, given[0], Execution())
    last = json.loads((given[0].output / "selection.json").read_text())["steps_done"]

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(saving, "write_model", die)
        with pytest.raises(Killed):
            train(run, given[1], Execution(checkpoint_every=last))
    train(run, given[1], Execution(checkpoint_every=last))
    for name in FILES:
        assert (given[0].output / name).read_bytes() == (given[1].output / name).read_bytes(), name
    assert json.loads((given[1].output / "selection.json").read_text())["stopped"] == ends


def test_without_an_earlier_snapshot_no_training_goes_on(
    tiny_model: Path, base_settings: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = settings(base_settings, "sft", steps=6, snapshots=[2, 6])
    given = paths(run, rollouts(), tiny_model, tmp_path)
    interrupted(monkeypatch, run, given, 3)
    (given.scratch / "snapshots" / "2.safetensors").unlink()
    with pytest.raises(UserError, match=r"snapshots/2.safetensors: is gone.* from .*checkpoint-3 .*delete .*scratch"):
        train(run, given, Execution(checkpoint_every=3))
    assert (given.scratch / "checkpoint-3" / resume.MARK).exists()  # nothing is lost


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.02}, r"training.learning_rate is 0.02, there 0.01"),
        ({"lora": {"init_seed": 7}}, r"training.lora.init_seed is 7, there 42"),
        ("rollouts", r"another rollouts"),
        ("base", r"another base"),
        ("held_out", r"another held_out"),
        ("processes", r"processes is 2, there 1"),
    ],
)
def test_a_checkpoint_of_another_training_is_an_error(
    change: Any, message: str, tiny_model: Path, base_settings: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = settings(base_settings, "sft", steps=6, kl_every=6)
    given = paths(run, rollouts(), tiny_model, tmp_path)
    interrupted(monkeypatch, run, given, 3)
    execution = Execution(checkpoint_every=3)
    if change == "rollouts":
        paths(run, rollouts("1100 1010"), tiny_model, tmp_path)
    elif change == "base":
        shutil.copytree(tiny_model, tmp_path / "base")
        weights = load_file(tmp_path / "base" / "model.safetensors")
        weights["model.norm.weight"] *= 2
        save_file(weights, tmp_path / "base" / "model.safetensors", {"format": "pt"})
        given = replace(given, base=str(tmp_path / "base"))
    elif change == "held_out":
        pd.read_parquet(given.held_out)[:2].to_parquet(given.held_out)
    elif change == "processes":
        execution = Execution(processes=2, checkpoint_every=3)
    else:
        run = settings(base_settings, "sft", steps=6, kl_every=6, **change)
    with pytest.raises(
        UserError, match=f"checkpoint-3: is a checkpoint of another training .*{message}.*delete .*scratch"
    ):
        train(run, given, execution)
    assert (given.scratch / "checkpoint-3" / resume.MARK).exists()  # nothing is lost


def test_a_checkpoint_that_was_being_written_is_passed_over(tmp_path: Path) -> None:
    identity = {"settings": {"seed": 1}}
    assert resume.latest(tmp_path, identity) is None
    for step in (3, 12, 15):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").write_text("x")
    assert resume.latest(tmp_path, identity) is None
    for step in (3, 12):
        resume.marker(identity)(tmp_path / f"checkpoint-{step}")
    assert resume.latest(tmp_path, identity) == tmp_path / "checkpoint-12"
    with pytest.raises(UserError, match="seed is 2, there 1"):
        resume.latest(tmp_path, {"settings": {"seed": 2}})


def test_what_fails_for_good_leaves_no_checkpoint(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    """The correction is another training: it is not to be met by an error about the old one's checkpoint."""
    run = settings(base_settings, "sft", learning_rate=1e30, warmup=0.0)
    given = paths(run, rollouts(), tiny_model, tmp_path)
    with pytest.raises(UserError, match="lower its learning_rate"):
        train(run, given, Execution(checkpoint_every=1))
    assert not given.scratch.exists()
