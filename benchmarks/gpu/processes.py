"""One run trained by two processes against one: the same losses, and how much faster."""

import argparse
import json
import os
import tempfile
from multiprocessing import get_context
from pathlib import Path

from benchmarks import contender, rows, shapes, tables
from benchmarks.gpu.record import Line, Record, cells

FIRST_LOSS = 1e-5  # largest relative difference: the same rows' losses, summed in another order
ONE, TWO = "one process", "two processes"


def run(given: argparse.Namespace, record: Record) -> None:
    from accelerate.utils import patch_environment

    from deltageom.training import launch

    record.plan([ONE, TWO])
    if reason := _lacking(given.device):
        for cell in (ONE, TWO):
            record.write(cell=cell, reason=reason)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = shapes.save_tokenizer(folder, given.size)
        lengths = [rows.lognormal(given.length / parts) for parts in (32, 4)]
        rows.write(folder, shapes.vocabulary(given.size), tokenizer, *lengths)

        def one() -> Line:
            first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
            with patch_environment(cuda_visible_devices=first):
                process = get_context("spawn").Process(target=_measure, args=(folder, given, 1))
                process.start()
                process.join()
            return _found(folder, 1)

        def two() -> Line:
            launch.launch(_measure, (folder, given, 2), 2, given.device == "cpu")
            found, before = _found(folder, 2), _found(folder, 1)
            found["first_loss_difference"] = abs(found["losses"][0] / before["losses"][0] - 1)
            found["passes"] = found["first_loss_difference"] <= FIRST_LOSS
            return found

        record.attempt(ONE, one)
        record.attempt(TWO, two)


def _lacking(device: str) -> str | None:
    import torch

    here = torch.cuda.device_count()
    return f"skipped: two GPUs are needed, {here} is visible" if device == "cuda" and here < 2 else None


def _measure(folder: Path, given: argparse.Namespace, processes: int) -> None:
    """In each of the processes; the first writes what was found."""
    from deltageom.training import launch

    if given.device == "cuda":
        launch.choose_device(processes)
    micro = max(given.batch // 2, 1)
    setting = contender.Setting(
        folder, given.size, given.device, given.steps, 2 * micro, micro, given.checkpointing != "off", processes
    )
    found = contender.measure(contender.build("sft", setting), given.device)
    if os.environ.get("RANK", "0") == "0":
        (folder / f"{processes}.json").write_text(json.dumps(found))


def _found(folder: Path, processes: int) -> Line:
    path = folder / f"{processes}.json"
    if not path.is_file():
        raise RuntimeError(f"the training by {processes} left nothing: see processes.log")
    found: Line = json.loads(path.read_text())
    return found


def table(lines: list[Line], _given: argparse.Namespace) -> str:
    found = cells(lines)
    out = [["run", "tokens / s", "to one process", "first loss", "relative difference", "verdict"]]
    for cell, (line, *_) in found.items():
        if "reason" in line:
            out.append([cell, line["reason"], "", "", "", ""])
            continue
        rate, alone = line["tokens_a_second"], found[ONE][0].get("tokens_a_second")
        row = [cell, f"{rate:,.0f}", tables.ratio([rate], [alone]) if alone else "–", f"{line['losses'][0]:.6f}"]
        verdict = {True: "pass", False: "MISSED", None: ""}[line.get("passes")]
        difference = line.get("first_loss_difference")
        out.append([*row, "" if difference is None else f"{difference:.1e}", verdict])
    return tables.markdown(out)
