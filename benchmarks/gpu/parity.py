"""Every method trained on the device against the CPU in float32: same rows, same initial A, and the deltas compared.

A further float32 run on the device says whether it is bitwise the one before: a fact, not a mark. bfloat16 runs have
the base's log-probs in bfloat16, as a study of that dtype has them.
"""

import argparse
import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.contender import CONFIG
from benchmarks.gpu import toy
from benchmarks.gpu.record import Line, Record, cells

FIRST = ("sft", "dpo", "offline_grpo")  # one of each family of losses, before the rest
SEED = 3  # of the data order: the first 16 rows have wrong ones among them
ROWS = {"cuda": 64, "cpu": 16}  # or pairs, a step: bfloat16 is slow on a CPU
FLOAT32, BFLOAT16 = 1e-5, 6e-4  # largest relative difference of the first loss, the latter of 64 rows
PARTS = ("loss_correct", "loss_wrong")  # metrics whose sum is a likelihood's loss
COSINE = {"float32": 0.9999, "bfloat16": 0.995}  # smallest, of the whole deltas


@dataclass(frozen=True)
class Variant:
    device: str
    dtype: str
    checkpointing: bool = False
    again: bool = False

    def cell(self, method: str) -> str:
        extra = (" checkpointing" if self.checkpointing else "") + (" again" if self.again else "")
        return f"{method}: {self.device} {self.dtype}{extra}"


@dataclass(frozen=True)
class Trained:
    delta: Any  # the whole of it, one vector in float64
    loss: float  # of the first step
    size: float  # of that loss without cancellation


REFERENCE = Variant("cpu", "float32")


def variants(device: str) -> list[Variant]:
    """The reference first. On the CPU a second float32 run is the device's and the repetition in one."""
    once = [Variant(device, "float32")] if device != "cpu" else []
    more = [Variant(device, "float32", checkpointing=True), Variant(device, "bfloat16")]
    more += [Variant(device, "bfloat16", checkpointing=True)] if device != "cpu" else []  # slow on a CPU
    return [REFERENCE, *once, Variant(device, "float32", again=True), *more]


def first_loss_mark(dtype: str, rows: int) -> float:
    """bfloat16's rounding errors of single rows have either sign: their mean falls with the root of their number."""
    return FLOAT32 if dtype == "float32" else float(BFLOAT16 * (64 / rows) ** 0.5)


def methods() -> list[str]:
    from deltageom.methods import interface

    return sorted(interface.offline_names(), key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def run(given: argparse.Namespace, record: Record) -> None:
    record.plan([variant.cell(method) for method in methods() for variant in variants(given.device)])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toy.make(folder, {"float32": "cpu", "bfloat16": given.device})
        for method in methods():
            found: dict[Variant, Trained] = {}
            for variant in variants(given.device):
                measured = functools.partial(_measure, method, variant, folder, given, found)
                record.attempt(variant.cell(method), measured)


def _measure(
    method: str,
    variant: Variant,
    folder: Path,
    given: argparse.Namespace,
    found: dict[Variant, Trained],
) -> Line:
    import numpy as np

    if variant != REFERENCE and REFERENCE not in found:
        return {"reason": "skipped: the run on the CPU has failed"}
    one = found[variant] = _train(method, variant, folder, given.parity_steps, ROWS[given.device])
    if variant == REFERENCE:
        return {"first_loss": one.loss}
    wanted = found[REFERENCE]
    line: Line = {
        "first_loss": one.loss,
        "first_loss_difference": abs(one.loss - wanted.loss) / wanted.size,
        "first_loss_mark": first_loss_mark(variant.dtype, ROWS[given.device]),
        "cosine": float(one.delta @ wanted.delta / np.linalg.norm(one.delta) / np.linalg.norm(wanted.delta)),
        "cosine_mark": COSINE[variant.dtype],
    }
    line["passes"] = line["first_loss_difference"] <= line["first_loss_mark"] and line["cosine"] >= line["cosine_mark"]
    if variant.again:
        before = found[Variant(variant.device, variant.dtype)]
        line["bitwise"] = bool((one.delta == before.delta).all())
    return line


def _train(method: str, variant: Variant, folder: Path, steps: int, rows: int) -> Trained:
    import pandas as pd

    from deltageom.methods import interface
    from deltageom.study.settings import TrainSettings
    from deltageom.training.session import Execution
    from deltageom.training.train import Paths, train

    options = dict(CONFIG["methods"][method])
    if "max_pairs" in options:
        options["max_pairs"] = None
    # the others are trained at a tenth of the learning rate
    rate = 2.0e-3 if isinstance(interface.load(method), interface.Likelihood) else 2.0e-4
    how: dict[str, Any] = {"learning_rate": rate, "steps": steps, "gradient_checkpointing": variant.checkpointing}
    how |= {"batch_size": rows, "micro_batch_size": rows // 2, "max_length": 256, "seed": SEED}
    how["lora"] = CONFIG["training"]["lora"] | {"rank": 8, "alpha": 16.0}
    settings = TrainSettings.model_validate(
        {
            "run": method,
            "method": method,
            "options": options,
            "training": CONFIG["training"] | how,
            "base": toy.base_settings(variant.dtype),
            "device": variant.device,
        }
    )
    with tempfile.TemporaryDirectory() as name:
        paths = Paths(
            base=str(folder / "base"),
            rollouts=folder / "rollouts.parquet",
            output=Path(name),
            scratch=Path(name) / "scratch",
            reference=folder / variant.dtype / "log_probs.parquet",
            mismatched=folder / variant.dtype / "mismatched.parquet",
        )
        train(settings, paths, Execution())
        metrics = pd.read_parquet(paths.output / "metrics.parquet")
        first = metrics.drop_duplicates("metric").set_index("metric")["value"]
        loss = float(first["loss"])
        return Trained(_delta(paths.output), loss, size(loss, [float(first[part]) for part in PARTS if part in first]))


def size(loss: float, parts: list[float]) -> float:
    """What a difference of the loss is held against: the sum of its parts' sizes.

    Correct and wrong rows of a signed loss nearly cancel; its rounding errors do not.
    """
    return sum(abs(part) for part in parts) if parts else abs(loss)


def _delta(folder: Path) -> Any:
    import numpy as np
    from safetensors.numpy import load_file

    tensors = load_file(folder / "adapter_model.safetensors")
    products = [
        tensors[name.replace("lora_A", "lora_B")].astype(np.float64) @ tensors[name].astype(np.float64)
        for name in sorted(tensors)
        if "lora_A" in name
    ]
    return np.concatenate([product.ravel() for product in products])


def table(lines: list[Line], _given: argparse.Namespace) -> str:
    out = [["run", "first loss", "relative difference (at most)", "cosine (at least)", "verdict", "bitwise as before"]]
    for cell, (line, *_) in cells(lines).items():
        if "reason" in line:
            out.append([cell, line["reason"], "", "", "", ""])
        elif "cosine" not in line:
            out.append([cell, f"{line['first_loss']:.6f}", "", "", "reference", ""])
        else:
            bitwise = {True: "yes", False: "no", None: ""}[line.get("bitwise")]
            first = f"{line['first_loss_difference']:.1e} ({line['first_loss_mark']:.1e})"
            cosine = f"{line['cosine']:.6f} ({line['cosine_mark']:g})"
            out.append(
                [cell, f"{line['first_loss']:.6f}", first, cosine, "pass" if line["passes"] else "MISSED", bitwise]
            )
    return tables.markdown(out)
