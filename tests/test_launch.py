"""Two processes train as one does: the same losses, and the same adapter up to the order of a sum."""

import json
import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from deltageom.schema import Base
from tests.test_checkpoints import command, environment
from tests.tiny_runs import paths, rollouts, settings


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
