"""Training of random weights of a true shape: ours against stock TRL on the same rows, and what our savings bring."""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import contender, rows, shapes, tables
from benchmarks.contender import DPO, SFT
from benchmarks.gpu.record import Line, Record, cells

Undo = Callable[[Any], None]


def _mask(trainer: Any) -> None:
    """The attention mask goes on to the model, though padding on the right needs none."""
    trainer.mask_hook.remove()


def _cast(trainer: Any) -> None:
    """PEFT makes a float32 copy of each adapted module's input, as it does by itself."""
    from deltageom.training import lora

    for module in lora.layers(trainer.model).values():
        module.cast_input_dtype_enabled = True


UNDO: dict[str, Undo] = {"mask": _mask, "cast": _cast}


@dataclass(frozen=True)
class Contender:
    method: str  # of the package, or TRL's trainer
    lengths: str  # "equal" or "lognormal"
    checkpointing: bool
    undo: str = ""  # which of our own savings is left out

    @property
    def cell(self) -> str:
        with_undo = f"{self.method} with {self.undo}" if self.undo else self.method
        return f"{with_undo}, {self.lengths}, {'checkpointing' if self.checkpointing else 'no checkpointing'}"

    @property
    def against(self) -> "Contender":
        return Contender(contender.baseline(self.method), self.lengths, self.checkpointing)


# what is worth most first: a time limit takes the last
CONTENDERS = (
    Contender("sft", "equal", True),
    Contender(SFT, "equal", True),
    Contender("dpo", "equal", True),
    Contender(DPO, "equal", True),
    Contender("sft", "equal", False),
    Contender(SFT, "equal", False),
    Contender("sft", "lognormal", True),
    Contender(SFT, "lognormal", True),
    Contender("sft", "lognormal", True, "mask"),
    Contender("sft", "equal", True, "cast"),
    Contender("dpo", "lognormal", True),
    Contender(DPO, "lognormal", True),
    Contender("sft", "lognormal", False),
    Contender(SFT, "lognormal", False),
    Contender("dpo", "equal", False),
    Contender(DPO, "equal", False),
    Contender("offline_grpo", "equal", True),
    Contender("dft", "equal", True),
    Contender("kto", "equal", True),
)


def chosen(checkpointing: str) -> list[Contender]:
    """Those of `checkpointing`: 'on', 'off' or 'both'."""
    return [one for one in CONTENDERS if checkpointing == "both" or one.checkpointing == (checkpointing == "on")]


def run(given: argparse.Namespace, record: Record) -> None:
    contenders = chosen(given.checkpointing)
    record.plan([one.cell for one in contenders])
    with tempfile.TemporaryDirectory() as name:
        folders = {lengths: _make(Path(name), lengths, given) for lengths in ("equal", "lognormal")}
        for round_ in range(given.rounds):
            for one in contenders:
                record.attempt(one.cell, lambda one=one: _measure(one, folders[one.lengths], given), round=round_)


def _make(parent: Path, lengths: str, given: argparse.Namespace) -> Path:
    """A prompt is a sixteenth of --length. Lognormal lengths are half as long in the mean, and at most the same."""
    folder = parent / lengths
    folder.mkdir()
    tokenizer = shapes.save_tokenizer(folder, given.size)
    parts = max(given.length // 16, 1), given.length - max(given.length // 16, 1)
    drawn = [rows.equal(n) if lengths == "equal" else rows.lognormal(n / 2, n) for n in parts]
    rows.write(folder, shapes.vocabulary(given.size), tokenizer, *drawn)
    return folder


def _measure(one: Contender, folder: Path, given: argparse.Namespace) -> Line:
    setting = contender.Setting(
        folder, given.size, given.device, given.steps, given.batch, given.micro, one.checkpointing
    )
    trainer = contender.build(one.method, setting)
    if one.undo:
        UNDO[one.undo](trainer)
    found = contender.measure(trainer, given.device)
    if given.device == "cpu":
        del found["peak_mib"]  # the peak of the process's whole life, which has other contenders
    found["flops_a_second"] = found["tokens_a_second"] * shapes.flops_a_token(given.size)
    found["hardware_flops_a_second"] = found["tokens_a_second"] * shapes.flops_a_token(given.size, one.checkpointing)
    return found


def table(lines: list[Line], given: argparse.Namespace) -> str:
    """Ratios are to stock TRL's trainer on the same rows in the same round. Memory is measured on a GPU only."""
    heading = ["contender", "tokens / s", "to TRL", "model FLOPs of peak", "hardware FLOPs of peak"]
    heading += ["allocated GiB", "to TRL", "reserved GiB", "to TRL"]
    found, out = cells(lines), [heading]
    by_cell = {one.cell: one for one in CONTENDERS}
    for cell, rounds in found.items():
        if reason := next((line["reason"] for line in rounds if "reason" in line), None):
            out.append([cell, reason, *[""] * (len(heading) - 2)])
            continue
        stock = found.get(by_cell[cell].against.cell, [])
        row = [cell, *_with_ratio(rounds, stock, "tokens_a_second", 1, "{:,.0f}")]
        for key in ("flops_a_second", "hardware_flops_a_second"):
            share = statistics.median(line[key] for line in rounds) / (given.peak_tflops or 1) / 1e12
            row.append(f"{share:.1%}" if given.peak_tflops else "–")
        for key in ("allocated_mib", "reserved_mib"):
            row += _with_ratio(rounds, stock, key, 1024, "{:.1f}")
        out.append(row)
    return tables.markdown(out)


def _with_ratio(rounds: list[Line], stock: list[Line], key: str, unit: float, form: str) -> list[str]:
    if key not in rounds[0]:
        return ["–", "–"]
    values, others = [line[key] for line in rounds], [line[key] for line in stock if key in line]
    middle = form.format(statistics.median(values) / unit)
    return [middle, tables.ratio(values, others) if len(others) == len(values) else "–"]
