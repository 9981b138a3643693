"""What the whole benchmark found on this machine."""

import pytest

from benchmarks.contender import SFT
from benchmarks.gpu import options
from benchmarks.gpu.parity import methods
from benchmarks.gpu.train import CONTENDERS, Contender
from deltageom.methods import interface
from tests.gpu.conftest import ON_GPU, Measured, benchmark

REASONS = ("skipped: ", "out of memory: ", "not reached: ")


@pytest.mark.parametrize("method", interface.offline_names())
def test_trains_on_the_device_as_on_the_cpu(measured: Measured, method: str) -> None:
    found = {cell: line for cell, (line, *_) in measured.cells("parity").items() if cell.startswith(f"{method}: ")}
    assert len(found) == (5 if ON_GPU else 4), found
    compared = {cell: line for cell, line in found.items() if "passes" in line}
    assert len(compared) == len(found) - 1, found
    assert all(line["passes"] for line in compared.values()), compared


def test_a_second_training_on_the_cpu_is_bitwise_the_first(measured: Measured) -> None:
    again = {cell: line for cell, (line, *_) in measured.cells("parity").items() if cell.endswith(" again")}
    assert len(again) == len(methods())
    print({cell: line.get("bitwise") for cell, line in again.items()})
    assert ON_GPU or all(line["bitwise"] for line in again.values()), again


@pytest.mark.parametrize("part", ["train", "generate", "processes"])
def test_every_contender_has_tokens_a_second_or_a_reason(measured: Measured, part: str) -> None:
    found = measured.cells(part)
    assert found
    for cell, rounds in found.items():
        for line in rounds:
            assert line.get("tokens_a_second", 0) > 0 or line["reason"].startswith(REASONS), (cell, line)


def test_a_cpu_leaves_no_contender_out_of_the_training(measured: Measured) -> None:
    found = measured.cells("train")
    assert list(found) == [one.cell for one in CONTENDERS]
    assert ON_GPU or all("tokens_a_second" in line for rounds in found.values() for line in rounds), found


def test_two_processes_have_the_losses_of_one(measured: Measured) -> None:
    line = measured.cells("processes")["two processes"][0]
    if str(line.get("reason", "")).startswith("skipped"):
        pytest.skip(line["reason"])
    assert line["passes"], line


def test_the_study_is_finished(measured: Measured) -> None:
    found = measured.cells("dag")
    assert found["whole study"][0].get("wall_seconds", 0) > 0, found
    jobs = {cell: line for cell, (line, *_) in found.items() if cell != "whole study"}
    assert {"pretrain", "rollouts", "train/sft", "train/dpo", "evaluate/base"} <= set(jobs), list(jobs)
    assert all(line["wall_seconds"] > 0 and line["peak_memory_mib"] > 0 for line in jobs.values()), jobs
    assert not ON_GPU or jobs["train/sft"]["peak_gpu_memory_mib"] > 0, jobs["train/sft"]


def test_geometry_keeps_its_table(measured: Measured) -> None:
    assert "dense / compare" in measured.cells("geometry")


def test_one_page_has_a_table_of_every_part(measured: Measured) -> None:
    page = (measured.folder / "gpu.md").read_text()
    assert measured.printed.strip() == page.strip()
    for part in options.PARTS:
        _, _, after = page.partition(f"\n## {part}\n")
        assert "|---|" in after.partition("\n## ")[0], part
    again = benchmark("--output", str(measured.folder), "--table")
    assert again.stdout.strip() == page.strip()


needs_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a CUDA GPU")


@needs_gpu
def test_training_is_no_slower_than_stock_trl(measured: Measured) -> None:
    found = measured.cells("train")
    rates = [found[Contender(name, "equal", True).cell][0]["tokens_a_second"] for name in ("sft", SFT)]
    print(f"sft {rates[0]:,.0f} tokens / s, {SFT} {rates[1]:,.0f}: {rates[0] / rates[1]:.3f}")
    assert rates[0] >= rates[1]


@needs_gpu
def test_training_reaches_two_fifths_of_the_peak(measured: Measured) -> None:
    best = max(
        line["hardware_flops_a_second"] / options.H100_TFLOPS / 1e12
        for cell, (line, *_) in measured.cells("train").items()
        if cell.startswith("sft, equal") and "hardware_flops_a_second" in line
    )
    print(f"{best:.1%} of {options.H100_TFLOPS:g} TFLOP/s")
    assert best >= 0.40
