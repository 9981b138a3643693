"""A run's gradient at the base against the dense step by hand, and its laws."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from deltageom.deltas.adapter import Adapter
from deltageom.deltas.delta import Factors
from deltageom.methods import interface
from deltageom.study.measured import Gradients
from deltageom.study.schema import Base
from deltageom.study.settings import TrainSettings
from deltageom.training import gradient
from deltageom.training.gradient import GradientSettings
from tests.training.dense import Dense, loss_of
from tests.training.test_steps import CASES, of, size, table_for
from tests.training.tiny_runs import built, paths, rollouts, settings

Found = dict[str, Factors]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def at_the_base(run: TrainSettings, table: pd.DataFrame, base: Path, folder: Path, batches: int = 1) -> Found:
    """The factors of each module, as they were written."""
    told = GradientSettings(**dict(run), gradients=Gradients(batches=batches))
    given = paths(run, table, base, folder)
    gradient.write(told, given)
    written = Adapter(given.output)
    return {module: written.read(module) for module in written.modules}


def initial(run: TrainSettings, table: pd.DataFrame, base: Path, folder: Path) -> dict[str, torch.Tensor]:
    """Each module's A before training, by the module's whole name."""
    model = built(run, table, base, folder).model.get_base_model()
    return {
        name: module.lora_A["default"].weight.detach().double()
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }


@pytest.mark.parametrize(("method", "options", "reduction"), CASES)
def test_it_is_the_dense_formulas_gradient_at_b_zero(
    method: str, options: dict[str, Any], reduction: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    """Of all rows in one batch: B is -dL/dB by autograd in float64, whatever the run's clipping and decay are."""
    table = table_for(method)
    n = size(of(method, base_settings, options), table)
    told = {"reduction": reduction, "batch_size": n, "micro_batch_size": 1, "max_grad_norm": 1e-6, "weight_decay": 9.0}
    run = of(method, base_settings, options, **told)
    found = at_the_base(run, table, tiny_model, tmp_path)
    factors = {
        name: (a, torch.zeros(found[name.removeprefix("model.")].b.shape, dtype=torch.float64))
        for name, a in initial(run, table, tiny_model, tmp_path / "again").items()
    }
    dense = Dense(tiny_model, run, factors)
    gradients = dense.gradients(loss_of(run, dense, table))
    assert {f"model.{module}" for module in found} == set(factors)
    for name, (a, _) in factors.items():
        written, where = found[name.removeprefix("model.")], f"base_model.model.{name}.lora_%s.default.weight"
        expected = -gradients[where % "B"].numpy()
        assert (gradients[where % "A"] == 0).all()
        np.testing.assert_array_equal(written.a, a.detach().numpy())
        assert written.scale == dense.scale
        np.testing.assert_allclose(written.b, expected, rtol=1e-3, atol=1e-5 * float(abs(expected).max()))


def same(one: Found, other: Found, factor: float = 1.0) -> bool:
    return all(np.allclose(one[m].b * factor, other[m].b, rtol=1e-3, atol=1e-5 * abs(one[m].b).max()) for m in one)


def test_rft_is_sft_where_every_row_is_right(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    for rewards, equal in (("1111 1111", True), ("1010 1111", False)):
        found = [
            at_the_base(settings(base_settings, method), rollouts(rewards), tiny_model, tmp_path, 2)
            for method in ("sft", "rft")
        ]
        assert same(*found) == equal


def test_it_is_the_mean_of_the_batches_that_the_run_is_trained_on_first(
    tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    """The second batch at the base, too; and the batches are those of the run's own trainer, in its order."""
    table, run = rollouts(), settings(base_settings, "sft", steps=4, learning_rate=0.5, warmup=0.0)
    trainer = built(run, table, tiny_model, tmp_path)
    seen = list(trainer._get_train_sampler(trainer.train_dataset))
    one, two = (at_the_base(run, table, tiny_model, tmp_path, n) for n in (1, 2))
    halves = []
    for at in (slice(0, 8), slice(8, 16)):
        rows = table.iloc[sorted(seen[at])].reset_index(drop=True)
        halves.append(at_the_base(run, rows, tiny_model, tmp_path))
    assert same(one, halves[0])
    mean = {m: Factors((halves[0][m].b + halves[1][m].b) / 2, halves[0][m].a, halves[0][m].scale) for m in one}
    assert same(two, mean)
    assert not same(one, two)


def test_a_constant_times_the_loss_is_a_constant_times_the_gradient(
    tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    """The linear RIFT with lambda 0.75 on right rows alone is a quarter of SFT."""
    sft, quarter = (
        at_the_base(settings(base_settings, method, options), rollouts("1111 1111"), tiny_model, tmp_path)
        for method, options in (("sft", {}), ("rift_linear", {"lambda": 0.75}))
    )
    assert same(sft, quarter, 0.25)


def test_every_method_that_reads_the_bases_log_probs_gets_them(
    tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    for method in interface.offline_names():
        if "base" in interface.load(method).needs:
            found = at_the_base(settings(base_settings, method), rollouts("1100 1010"), tiny_model, tmp_path)
            assert all(np.abs(factors.b).max() > 0 for factors in found.values()), method


def test_in_bfloat16_it_is_nearly_the_same_in_float32(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    """The factors stay float32, and rounding turns the gradient by a little."""
    for method in ("sft", "dpo"):
        full, half = (
            at_the_base(
                settings(base_settings.model_copy(update={"dtype": dtype}), method),
                rollouts("1100 1010"),
                tiny_model,
                tmp_path,
            )
            for dtype in ("float32", "bfloat16")
        )
        one, other = (np.concatenate([f.b.ravel() for f in found.values()]) for found in (full, half))
        assert 0.99 < one @ other / np.linalg.norm(one) / np.linalg.norm(other) < 1 - 1e-9
