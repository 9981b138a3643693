"""Two processes train as one does: the same losses, and the same adapter up to the order of a sum."""

import json
import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from deltageom.errors import UserError
from deltageom.hardware import memory
from deltageom.jobs import provenance
from deltageom.study.schema import Base
from deltageom.training import launch
from deltageom.training.session import Execution
from deltageom.training.train import train
from tests.training.test_resume import command, environment
from tests.training.tiny_runs import paths, rollouts, settings


@pytest.mark.parametrize(
    ("method", "reduction"),
    [("offline_grpo", "token"), ("sft", "length"), ("dpo", "token"), ("simpo", "token"), ("kto", "token")],
)
def test_two_processes_are_one(
    method: str, reduction: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    run = settings(base_settings, method, reduction=reduction, micro_batch_size=2, steps=3, kl_every=2)
    found, adapters = {}, {}
    for processes in (1, 2):
        folder = tmp_path / str(processes) / "inputs"
        given = paths(run, rollouts("1010 1111 0001 0000 0110"), tiny_model, folder)
        written = folder / "provenance.json"
        options = ["--checkpoint-every", "2", "--report-to", "tensorboard", "--provenance", str(written)]
        done = subprocess.run(
            command(run, given, "--processes", str(processes), *options),
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        table = pd.read_parquet(given.output / "metrics.parquet")
        found[processes] = table.pivot(index="step", columns="metric", values="value")
        assert len(list((given.output.parent.parent / "tensorboard" / "run").iterdir())) == 1
        assert json.loads(written.read_text())["machine"]["processes"] == processes
        adapters[processes] = load_file(given.output / "adapter_model.safetensors")
    exact = ["loss", "grad_norm", "delta_norm", "kl_to_base", "learning_rate", "epoch", "tokens"]
    exact += [name for name in ("loss_correct", "loss_wrong", "weight_share_correct") if name in found[1]]
    pd.testing.assert_frame_equal(found[1][exact], found[2][exact], rtol=1e-4)
    for name, weight in adapters[1].items():
        torch.testing.assert_close(adapters[2][name], weight, rtol=1e-3, atol=1e-5)


def test_a_mistake_in_a_process_is_one_clear_error(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    run = settings(base_settings, "rft", micro_batch_size=2)
    given = paths(run, rollouts("000"), tiny_model, tmp_path)
    log = tmp_path / "log" / "train.log"
    done = subprocess.run(
        command(run, given, "--processes", "2", "--log", str(log)),
        env=environment() | {"TERM": os.environ.get("TERM", "dumb")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("deltageom train: error: run 'tried': method rft finds no rows to train on")
    assert "Traceback" not in done.stderr
    assert "rft finds no rows" in log.read_text()


@pytest.mark.parametrize(
    ("processes", "visible", "says"),
    [
        (1, 1, None),
        (2, 2, None),
        (1, 2, r"2 GPUs are visible to a training of one process: take one of them with `--gpus 1`"),
        (2, 1, r"2 processes, but 1 visible GPUs: take as many with `--gpus 2`"),
        (1, 0, r"1 processes, but 0 visible GPUs"),
    ],
)
def test_each_process_computes_on_its_own_gpu(
    processes: int, visible: int, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(launch.cuda, "check_driver", lambda: None)
    monkeypatch.setattr(launch.cuda, "check_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", str(processes - 1))
    if says:
        with pytest.raises(UserError, match=says):
            launch.choose_device(processes)
    else:
        launch.choose_device(processes)
    assert chosen == ([] if says else [processes - 1])


def test_the_gpu_is_chosen_before_anything_is_loaded(
    tiny_model: Path, base_settings: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loaded first, every process's base would lie on the first GPU."""
    run = settings(base_settings, "sft")
    given = paths(run, rollouts(), tiny_model, tmp_path)
    done: list[str] = []
    monkeypatch.setattr(launch, "choose_device", lambda _: done.append("chosen"))

    def load(*_: object) -> None:
        done.append("loaded")
        raise UserError("far enough")

    monkeypatch.setattr("deltageom.training.train.load_model", load)
    monkeypatch.setattr(memory, "free_memory", lambda _: (2**40, 2**40))
    with pytest.raises(UserError, match="far enough"):
        train(run.model_copy(update={"device": "cuda"}), given, Execution())
    assert done == ["chosen", "loaded"]


def uses_a_gpu() -> None:
    """What one of two processes on GPUs would say."""
    rank = int(os.environ["LOCAL_RANK"])
    provenance.own_gpus = lambda: [{"name": "H100", "peak_memory_mib": 1000.0 + rank}]


def test_processes_say_what_they_used_of_their_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_gpus_of_others", [])
    launch.launch(uses_a_gpu, (), 2, cpu=True)
    record = provenance.Stopwatch().record("train", {}, ["cli.jobs.train"])
    assert record["machine"]["device"] == "2 x H100"
    assert record["peak_gpu_memory_mib"] == 1001.0


@pytest.mark.parametrize(("method", "sequences"), [("sft", 4), ("dpo", 8)])
def test_a_run_that_cannot_fit_is_refused_before_it_is_loaded(
    method: str,
    sequences: int,
    tiny_model: Path,
    base_settings: Base,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pair is two sequences; `memory.py` has its own tests of the bytes."""
    run = settings(base_settings, method)
    given = paths(run, rollouts(), tiny_model, tmp_path)
    asked: list[int] = []

    def parts(_: object, __: object, ___: object, rows: int, tokens: int) -> dict[str, int]:
        asked.append(rows)
        return {"activations": tokens * 2**30}

    monkeypatch.setattr(launch, "choose_device", lambda _: None)
    monkeypatch.setattr(memory, "free_memory", lambda _: (2**30, 80 * 2**30))
    monkeypatch.setattr(memory, "training_parts", parts)
    monkeypatch.setattr("deltageom.training.train.load_model", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UserError, match=r"^run 'tried': takes at least .* change training.micro_batch_size"):
        train(run.model_copy(update={"device": "cuda"}), given, Execution())
    assert asked == [sequences]
