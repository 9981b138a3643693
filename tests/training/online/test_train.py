"""Online runs from command to files: resumed to the same bytes, replayed by offline losses, refused in one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from deltageom.errors import UserError
from deltageom.models.prompts import VOCABULARY
from deltageom.problems.problem import Problem
from deltageom.problems.world import problems
from deltageom.study.schema import Base
from deltageom.toy import shipped
from deltageom.training import resume
from deltageom.training import train as offline
from deltageom.training.online.samples import FILE, SCHEMA
from deltageom.training.online.train import Paths, train
from deltageom.training.session import Execution
from tests.conftest import save_tiny_model
from tests.training.killing import environment, killed_when
from tests.training.online.tiny_online import PROBLEMS, by_tokens, online, paths
from tests.training.tiny_runs import settings

__all__ = ["by_tokens"]
FILES = ("adapter_model.safetensors", "adapter_config.json", "metrics.parquet", "selection.json", FILE)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def counts(given: Paths) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((given.output / "selection.json").read_text())
    return found


@pytest.mark.usefixtures("by_tokens")
def test_a_run_leaves_its_adapter_its_metrics_and_its_samples(
    tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    run = online(base_settings, "online_grpo", steps=3, snapshots=[2])
    given = paths(tiny_model, tmp_path)
    train(run, given, Execution())
    table = pq.read_table(given.output / FILE)
    assert table.schema.equals(SCHEMA)
    assert VOCABULARY in table.schema.metadata
    frame = table.to_pandas()
    assert frame["step"].tolist() == [step for step in range(3) for _ in range(8)]
    assert frame["sample"].tolist() == [0, 1, 2, 3] * 6
    # two problems of each step, each of the four once in two steps
    assert sorted(frame["problem_id"][:16:4]) == [problem.id for problem in PROBLEMS]
    found = counts(given)
    right = int(frame["reward"].sum())
    assert {name: found[name] for name in ("rows", "correct", "wrong", "groups", "problems", "samples_kept")} == {
        **{"rows": 24, "correct": right, "wrong": 24 - right, "groups": 6, "problems": 4, "samples_kept": 24}
    }
    assert found["epochs"] == 24 / 16
    metrics = pd.read_parquet(given.output / "metrics.parquet").pivot(index="step", columns="metric", values="value")
    rewards = frame.groupby("step")["reward"].mean()
    assert metrics["reward"].tolist() == pytest.approx(rewards.tolist())
    assert metrics["completion_length"].tolist() == [6.0] * 3
    assert metrics["tokens"].is_monotonic_increasing
    assert {"entropy", "clip_share", "mixed_groups", "truncated_share", "delta_norm"} <= set(metrics)
    assert (given.output / "snapshots" / "2.safetensors").is_file()
    assert not given.scratch.exists()


@pytest.mark.usefixtures("by_tokens")
def test_several_steps_share_one_batch_of_samples(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    given = paths(tiny_model, tmp_path)
    train(online(base_settings, "online_grpo", {"iterations": 2}, steps=4), given, Execution())
    table = pd.read_parquet(given.output / FILE)
    assert table["step"].tolist() == [0] * 8 + [2] * 8
    assert table["problem_id"].nunique() == 4
    metrics = pd.read_parquet(given.output / "metrics.parquet").pivot(index="step", columns="metric", values="value")
    assert metrics["reward"].notna().tolist() == [True, False, True, False]


@pytest.mark.usefixtures("by_tokens")
def test_samples_are_bounded_and_all_are_counted(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    given = paths(tiny_model, tmp_path)
    train(online(base_settings, "online_grpo", None, {"keep": 11}, steps=2), given, Execution())
    assert (counts(given)["rows"], counts(given)["samples_kept"]) == (16, 11)
    whole = paths(tiny_model, tmp_path / "whole")
    train(online(base_settings, "online_grpo", steps=2), whole, Execution())
    kept, all_of_them = (pd.read_parquet(one.output / FILE) for one in (given, whole))
    pd.testing.assert_frame_equal(kept, all_of_them.head(11))


def command(run: Any, given: Paths, *options: str) -> list[str]:
    """The command line of the rule, with rewards that the tiny model can get."""
    code = (
        "import sys\n"
        "from deltageom.cli.main import main\n"
        "from deltageom.training.online import trainers\n"
        "from tests.training.online.tiny_online import graded_by_tokens\n"
        "trainers.grade = graded_by_tokens\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ["train-online", "--settings", run.model_dump_json(), "--base", given.base]
    for name in ("problems", "output", "scratch", "teacher"):
        if value := getattr(given, name):
            arguments += [f"--{name}", str(value)]
    return [sys.executable, "-c", code, *arguments, *options]


def same_bytes(one: Paths, other: Paths) -> None:
    for name in FILES:
        assert (one.output / name).read_bytes() == (other.output / name).read_bytes(), name


@pytest.mark.parametrize(
    ("method", "options"),
    [("online_grpo", {"iterations": 2}), ("on_policy_distillation", {})],
    ids=["grpo", "distilled"],
)
def test_a_killed_run_goes_on_to_the_same_bytes(
    method: str, options: dict[str, Any], tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    """With two steps per batch of samples a checkpoint every 3 steps is one every 4."""
    every = 4 if options else 3
    run = online(base_settings, method, options, steps=10, lora={"dropout": 0.2})
    teacher = {"teacher": str(tiny_model)} if method == "on_policy_distillation" else {}
    plain = paths(tiny_model, tmp_path / "plain", **teacher)
    done = subprocess.run(command(run, plain), env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    given = paths(tiny_model, tmp_path / "killed", **teacher)
    asked = command(run, given, "--checkpoint-every", "3")
    killed_when(f"checkpoint-{every}/*", asked, given.scratch, given.output)
    killed_when(
        f"checkpoint-{2 * every}/{resume.MARK}",
        command(run, given, "--checkpoint-every", "3"),
        given.scratch,
        given.output,
    )
    done = subprocess.run(asked, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"going on from checkpoint-{2 * every}" in done.stdout + done.stderr
    same_bytes(plain, given)


def test_two_processes_draw_and_learn_what_one_does(base_settings: Base, tmp_path: Path) -> None:
    """The toy base, which ends its answers and is right now and then, since the processes have the real grader."""
    base = tmp_path / "base"
    shipped.copy(base)
    asked = [Problem(one.id, one.question, one.answer, None) for one in problems("train", 4, seed=0)]
    run = online(
        base_settings.model_copy(update={"layers": 4}),
        "online_grpo",
        {"max_tokens": 48},
        **{"steps": 2, "batch_size": 16, "micro_batch_size": 8, "max_length": 256, "learning_rate": 0.002},
    )
    found = []
    for processes in ("1", "2"):
        given = paths(base, tmp_path / processes, asked)
        done = subprocess.run(
            [sys.executable, "-m", "deltageom", *command(run, given, "--processes", processes)[3:]],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append(given)
    exact = ["step", "problem_id", "sample", "token_ids", "reward"]
    one, two = (pd.read_parquet(given.output / FILE)[exact] for given in found)
    pd.testing.assert_frame_equal(one, two)
    first, second = (counts(given) for given in found)
    assert first == second | {"delta_norm": first["delta_norm"]}
    own, other = (load_file(given.output / "adapter_model.safetensors") for given in found)
    assert any(weight.any() for name, weight in own.items() if "lora_B" in name)
    for name, weight in own.items():
        torch.testing.assert_close(other[name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("by_tokens")
def test_a_lost_step_of_samples_is_one_clear_line(
    tiny_model: Path, base_settings: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = online(base_settings, "online_grpo", steps=4)
    given = paths(tiny_model, tmp_path)

    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("deltageom.training.output.saving.write_model", die)
        with pytest.raises(Killed):
            train(run, given, Execution(checkpoint_every=2))
    shutil.rmtree(given.scratch / "samples", ignore_errors=True)
    with pytest.raises(UserError, match=r"samples/0000000-000\.parquet: is gone, .*: to start afresh delete"):
        train(run, given, Execution(checkpoint_every=2))


@pytest.mark.usefixtures("by_tokens")
def test_the_offline_loss_on_the_runs_own_samples_is_the_same_update(
    tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    """Offline GRPO with A = r - mean, each row's loss over its tokens, step by step: online GRPO without division.

    It is the same at every step, since the samples of step 2 were drawn by the very policy that step 1 leads to here.
    """
    training: dict[str, Any] = {"steps": 4, "reduction": "length", "micro_batch_size": 4}
    run = online(base_settings, "online_grpo", {"scale_rewards": "none"}, **training)
    given = paths(tiny_model, tmp_path / "online")
    train(run, given, Execution())
    assert counts(given)["mixed_groups"] > 2

    replay = settings(base_settings, "offline_grpo", {"bias": 0.0}, rollouts_of="online", **training)
    folder = tmp_path / "replay"
    again = offline.Paths(str(tiny_model), given.output / FILE, folder / "run", folder / "scratch")
    offline.train(replay, again, Execution())
    own, other = (load_file(one / "adapter_model.safetensors") for one in (given.output, again.output))
    assert float(torch.cat([own[name].flatten() for name in own if "lora_B" in name]).abs().max()) > 0.01
    for name, weight in own.items():
        torch.testing.assert_close(other[name], weight, rtol=1e-3, atol=2e-4)


@pytest.mark.usefixtures("by_tokens")
def test_a_replay_leaves_out_what_its_loss_leaves_out_and_keeps_the_steps(
    tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    given = paths(tiny_model, tmp_path / "online")
    train(online(base_settings, "online_grpo", steps=3), given, Execution())
    table = pd.read_parquet(given.output / FILE)
    folder = tmp_path / "replay"
    again = offline.Paths(str(tiny_model), given.output / FILE, folder / "run", folder / "scratch")
    offline.train(settings(base_settings, "rft", rollouts_of="online", steps=3), again, Execution())
    found = json.loads((again.output / "selection.json").read_text())
    assert (found["selected"], found["rows"]) == (int(table["reward"].sum()), 24)
    metrics = pd.read_parquet(again.output / "metrics.parquet").pivot(index="step", columns="metric", values="value")
    # the tokens of each step are those that it drew there, prompts included
    lengths = table["prompt_token_ids"].map(len) + table["token_ids"].map(len)
    assert metrics["tokens"].tolist() == lengths.groupby(table["step"]).sum().cumsum().tolist()
    with pytest.raises(UserError, match=r"samples\.parquet: has 24 samples of run 'online', but 32 are to be read"):
        offline.train(settings(base_settings, "sft", rollouts_of="online", steps=4), again, Execution())


def refusal(run: Any, given: Paths) -> str:
    with pytest.raises(UserError) as caught:
        train(run, given, Execution())
    return str(caught.value)


def test_what_cannot_be_sampled_is_refused_in_one_line(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    given = paths(tiny_model, tmp_path)
    assert "all 8 completions of the first step were cut off at max_tokens 6, and none is right: raise" in refusal(
        online(base_settings, "online_grpo"), given
    )
    assert not given.output.exists()
    assert "more than training.max_length 20: lower max_tokens" in refusal(
        online(base_settings, "online_grpo", max_length=20), given
    )
    assert "more than the model's context of 512: lower max_tokens" in refusal(
        online(base_settings, "online_grpo", {"max_tokens": 511}), given
    )
    odd = paths(tiny_model, tmp_path / "odd", [Problem("x", "How many?", "\\sqrt{2}", None)])
    assert "\\sqrt{2}" in refusal(online(base_settings, "online_grpo", {"group": 4}), odd)


def test_a_teacher_of_another_vocabulary_is_refused(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    teacher = save_tiny_model(tmp_path / "teacher", head_dim=16)
    model = AutoModelForCausalLM.from_pretrained(teacher)
    model.resize_token_embeddings(model.config.vocab_size + 3)
    model.save_pretrained(teacher)
    run = online(base_settings, "on_policy_distillation")
    told = refusal(run, paths(tiny_model, tmp_path / "run", teacher=str(teacher)))
    assert "compares distributions over one vocabulary" in told
    assert "name another rollouts.generator" in told


@pytest.mark.usefixtures("by_tokens")
def test_a_teacher_may_have_other_layers_than_the_base(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    teacher = save_tiny_model(tmp_path / "teacher", head_dim=16)
    model = AutoModelForCausalLM.from_pretrained(teacher)
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    model.config.layer_types = model.config.layer_types[:1]
    model.save_pretrained(teacher)
    run = online(base_settings, "on_policy_distillation", steps=1)
    given = paths(tiny_model, tmp_path / "run", teacher=str(teacher))
    train(run, given, Execution())
    assert counts(given)["rows"] == 8


def test_steps_without_a_gradient_are_warned_of(
    tiny_model: Path,
    base_settings: Base,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tests.training.online.test_trainers import rewarded

    monkeypatch.setattr("deltageom.training.online.trainers.grade", rewarded(1.0))
    given = paths(tiny_model, tmp_path)
    train(online(base_settings, "online_grpo", steps=6), given, Execution())
    said = capsys.readouterr().out
    assert said.count("warning: run 'tried': in the last 5 steps the rewards of every group were all equal") == 1
    drawn = pq.read_table(given.output / FILE, columns=["step", "finish_reason"]).to_pylist()
    cut = sum(row["finish_reason"] == "length" for row in drawn if row["step"] == 4)
    assert f"(in the last one 8 of 8 completions are right, {cut} were cut off)" in said
    assert counts(given)["mixed_groups"] == 0
    assert counts(given)["delta_norm"] == 0.0
