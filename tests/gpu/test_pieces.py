"""The pieces of the benchmark whose answers are known beforehand."""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import contender, rows, shapes, tables
from benchmarks.gpu import page, parity, record, train
from benchmarks.gpu.__main__ import environment, measure
from benchmarks.gpu.record import Record
from deltageom.generation.noise import gumbel
from tests.gpu.conftest import ON_GPU, benchmark


def test_flops_are_those_of_the_products_with_every_weight() -> None:
    with torch.device("meta"):
        model = shapes.random_model("tiny", "meta")
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert shapes.multiplied_weights("tiny") == linear  # the head's weights are the embedding's
    assert shapes.flops_a_token("tiny") == 4 * linear
    assert shapes.flops_a_token("tiny", forward_twice=True) == 6 * linear


def test_qwen3_4b_has_its_published_size() -> None:
    assert shapes.multiplied_weights("4b") == pytest.approx(4.02e9, rel=1e-2)
    # 6 N T of a step of 8 rows of 2048 tokens
    assert shapes.flops_a_token("4b", True) * 8 * 2048 == pytest.approx(395e12, rel=1e-2)


def test_lengths_are_equal_or_cut_lognormal() -> None:
    import numpy as np

    random = np.random.default_rng(0)
    assert {rows.equal(60)(random) for _ in range(5)} == {60}
    drawn = [rows.lognormal(60, 120)(random) for _ in range(1000)]
    assert max(drawn) == 120
    assert 50 < sum(drawn) / len(drawn) < 65
    assert max(rows.lognormal(10)(random) for _ in range(5000)) <= 40


def test_a_ratio_is_taken_within_a_round() -> None:
    assert tables.ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == "2.00 (1.00-3.00)"
    assert tables.ratio([3.0], [2.0]) == "1.50"
    assert tables.markdown([["a", "b"], ["x|y", "line\nbreak"]]) == "| a | b |\n|---|---|\n| x\\|y | line break |"


def test_out_of_memory_is_a_cell_and_the_rest_goes_on(
    tiny: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = contender.build

    def greedy(name: str, setting: Any) -> Any:
        if name == contender.SFT:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return build(name, setting)

    monkeypatch.setattr(contender, "build", greedy)
    monkeypatch.setattr(train, "CONTENDERS", train.CONTENDERS[1::-1])  # the stock one first
    train.run(tiny, Record(tmp_path / "train.jsonl"))
    lines = record.read(tmp_path / "train.jsonl")
    stock, ours = (line for line in lines if "cell" in line)
    assert stock["reason"].startswith("out of memory: needs more than ")
    assert ours["tokens_a_second"] > 0
    table = train.table(lines, tiny).splitlines()
    assert f"| {stock['reason']} |" in table[2]
    assert table[3].startswith(f"| {ours['cell']} | {ours['tokens_a_second']:,.0f} | – |")


def test_a_time_limit_is_a_cell(tiny: argparse.Namespace, tmp_path: Path) -> None:
    tiny.output, tiny.seconds = tmp_path, 4.0
    page.keep_options(tiny)
    measure("train", tiny)
    assert "time limit of 4 s" in page.section("train", record.read(tmp_path / "train.jsonl"), tiny)
    lines = [{"planned": ["sft, equal, checkpointing"]}, {"ended": "not reached: time limit of 4 s"}]
    assert "| sft, equal, checkpointing | not reached: time limit of 4 s |" in train.table(lines, tiny)


def test_a_part_that_dies_is_a_cell(tiny: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.output = tmp_path / "nowhere" / "deeper"
    monkeypatch.setattr(page, "arguments", lambda _: ["--output", str(tiny.output / "gone")])
    tiny.output.mkdir(parents=True)
    measure("versions", tiny)
    lines = record.read(tiny.output / "versions.jsonl")
    assert "the part ended with status 1: FileNotFoundError" in page.section("versions", lines, tiny)


@pytest.mark.parametrize("undo", list(train.UNDO))
def test_undoing_a_saving_changes_what_the_model_gets(tiny: argparse.Namespace, tmp_path: Path, undo: str) -> None:
    one = train.Contender("sft", "lognormal", False, undo)
    folder = train._make(tmp_path, one.lengths, tiny)
    setting = contender.Setting(folder, "tiny", "cpu", 1, tiny.batch, tiny.micro)
    seen: list[bool] = []
    trainer = contender.build("sft", setting)
    if undo == "mask":
        layer = trainer.model.get_base_model().model
        layer.register_forward_pre_hook(
            lambda _module, _args, named: seen.append(named["attention_mask"] is not None), with_kwargs=True
        )
    train.UNDO[undo](trainer)
    if undo == "cast":
        from deltageom.training import lora

        seen = [module.cast_input_dtype_enabled for module in lora.layers(trainer.model).values()]
    else:
        trainer.train()
    assert seen
    assert all(seen)


def test_one_gpu_for_parts_of_one_and_the_users_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "mine")
    assert environment("train", "cuda")["CUDA_VISIBLE_DEVICES"] == "3"
    assert environment("processes", "cuda")["CUDA_VISIBLE_DEVICES"] == "3,5"
    assert environment("train", "cpu")["CUDA_VISIBLE_DEVICES"] == ""
    assert environment("train", "cuda")["PYTORCH_ALLOC_CONF"] == "mine"
    assert environment("train", "cuda")["HF_HUB_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--batch", "6", "--micro", "4"], "--batch 6 is no multiple of --micro 4"),
        (["--rounds", "0"], "0 is less than 1"),
        (["--table", "--output", "no-such-folder"], "nothing has been measured into it"),
        pytest.param(
            ["--device", "cuda"],
            "torch sees no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here"),
        ),
    ],
)
def test_a_mistake_gets_one_clear_sentence(arguments: list[str], says: str) -> None:
    done = benchmark(*arguments)
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("loss", "angle", "dtype", "passes"),
    [
        (1.0 + 9e-6, 0.013, "float32", True),
        (1.0 + 2e-5, 0.0, "float32", False),
        (1.0, 0.016, "float32", False),  # cos .9998720
        (1.0 + 1.1e-3, 0.09, "bfloat16", True),
        (1.0 + 1.3e-3, 0.0, "bfloat16", False),
        (1.0, 0.11, "bfloat16", False),  # cos .99396
    ],
)
def test_parity_has_marks_on_both_sides(
    tiny: argparse.Namespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    loss: float,
    angle: float,
    dtype: str,
    passes: bool,
) -> None:
    import numpy as np

    turned = np.array([np.cos(angle), np.sin(angle)])
    found = {parity.REFERENCE: parity.Trained(np.array([2.0, 0.0]), 1.0, 1.0)}
    monkeypatch.setattr(parity, "_train", lambda *_: parity.Trained(turned, loss, loss))
    line = parity._measure("sft", parity.Variant("cpu", dtype, checkpointing=True), tmp_path, tiny, found)
    assert line["passes"] is passes
    assert parity.first_loss_mark("bfloat16", 64) == 6e-4


def test_a_loss_of_opposite_parts_is_as_large_as_both() -> None:
    assert parity.size(0.1, [0.4, -0.3]) == pytest.approx(0.7)
    assert parity.size(-0.2, []) == 0.2


def test_nothing_is_compared_with_a_reference_that_failed(tiny: argparse.Namespace, tmp_path: Path) -> None:
    line = parity._measure("sft", parity.Variant("cpu", "bfloat16"), tmp_path, tiny, {})
    assert line == {"reason": "skipped: the run on the CPU has failed"}


@pytest.mark.skipif(not ON_GPU or importlib.util.find_spec("vllm") is None, reason="needs a GPU and vLLM")
def test_vllms_sampler_draws_what_the_noise_of_transformers_draws() -> None:
    from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample

    logits = 2 * torch.randn(64, 20_000, generator=torch.Generator().manual_seed(0)).cuda()
    seeds, positions = torch.arange(64).cuda() * 2**57 + 11, torch.arange(64).cuda() * 97
    rows, temperature = torch.arange(64, dtype=torch.int32).cuda(), torch.ones(64).cuda()
    drawn = gumbel_sample(logits, rows, temperature, seeds, positions, apply_temperature=False, is_drafting=False)
    assert torch.equal(drawn, (logits + gumbel(seeds.tolist(), positions, 20_000)).argmax(-1))
