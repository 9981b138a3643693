"""One contender of a training benchmark: a method of the package, or TRL's own trainer on the same token ids."""

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # before any import of TRL, whose own trainers would report themselves

import yaml

from benchmarks import shapes

WARM_UP = 2  # steps before the clock starts
SFT, DPO = "TRL SFTTrainer", "TRL DPOTrainer"
CONFIG = yaml.safe_load((Path(__file__).parents[1] / "config.yaml").read_text())


@dataclass(frozen=True)
class Setting:
    """What a contender trains on and how: `folder` has a tokenizer and the rows of rows.py."""

    folder: Path
    size: str
    device: str
    steps: int  # measured ones, after WARM_UP
    batch: int
    micro: int
    checkpointing: bool = False
    processes: int = 1


def baseline(name: str) -> str:
    """TRL's trainer that a method is held against."""
    from deltageom.methods import interface

    if name in (SFT, DPO):
        return name
    return DPO if interface.in_pairs(interface.load(name)) else SFT


def build(name: str, setting: Setting) -> Any:
    """A trainer on the folder's rows: the method's as `training.train` builds it, or TRL's own on the same tokens."""
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from deltageom.methods import interface
    from deltageom.models.load import load_tokenizer
    from deltageom.training import lora, rows
    from deltageom.training.session import Execution, arguments
    from deltageom.training.train import Paths, build_trainer

    settings, folder = _settings(name, setting), setting.folder
    paths = Paths(str(folder), folder / "rollouts.parquet", folder / "run", folder / "scratch")
    execution = Execution(processes=setting.processes)
    method = interface.load(settings.method)
    options = method.options.model_validate(settings.options)
    tokenizer = load_tokenizer(paths.base, settings.base)
    files = paths.rollouts, folder / "reference.parquet", folder / "mismatched.parquet"
    dataset, universe, _ = rows.prepare(settings, method, options, tokenizer, *files)
    model = shapes.random_model(setting.size, setting.device, settings.base.attention)
    if name not in (SFT, DPO):
        return build_trainer(settings, method, options, tokenizer, dataset, universe, paths, execution, model=model)
    shared = {
        "model": model,
        "processing_class": tokenizer,
        "peft_config": lora.config(settings.training.lora, settings.base),
    }
    given = arguments(settings, paths.scratch, execution) | {"remove_unused_columns": True}
    if name == SFT:
        return SFTTrainer(
            args=SFTConfig(**given), train_dataset=dataset.select_columns(["input_ids", "labels"]), **shared
        )
    tokens = dataset.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])
    given |= {"loss_type": ["sigmoid"], "disable_dropout": False}

    class Stock(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # token ids already; nothing else is ours

    return Stock(args=DPOConfig(**given), train_dataset=tokens, **shared)


def measure(trainer: Any, device: str) -> dict[str, Any]:
    """Trains, and returns tokens_a_second after the warm-up, peak_mib above the loaded model, and the losses.

    Memory is what is allocated on a GPU, and what is resident on a CPU, where the peak is that of the process's whole
    life. On a GPU also allocated_mib and reserved_mib, the peaks as they are.
    """
    import torch
    from transformers import TrainerCallback

    cuda = device == "cuda"
    clock: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if cuda:
                torch.cuda.synchronize()
            clock.append(time.perf_counter())

    seen: list[float] = []
    losses: list[float] = []
    for_log = trainer.log

    def log(logs: dict[str, float], *rest: Any) -> None:
        if "loss" in logs:
            seen.append(trainer.state.num_input_tokens_seen)
            losses.append(logs["loss"])
        for_log(logs, *rest)

    trainer.log = log
    trainer.add_callback(Clock())
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = _memory(device)
    trainer.train()
    found = {
        "tokens_a_second": (seen[-1] - seen[WARM_UP - 1]) / (clock[-1] - clock[WARM_UP - 1]),
        "peak_mib": _peak(device) - before,
        "losses": losses,
    }
    if cuda:
        found |= {"allocated_mib": _peak(device), "reserved_mib": torch.cuda.max_memory_reserved() / 2**20}
    return found


def _settings(name: str, setting: Setting) -> Any:
    from deltageom.study.settings import TrainSettings

    method = {SFT: "sft", DPO: "dpo"}.get(name, name)
    options = dict(CONFIG["methods"][method])
    if "max_pairs" in options:
        options["max_pairs"] = None
    return TrainSettings.model_validate(
        {
            "run": name,
            "method": method,
            "options": options,
            "training": CONFIG["training"]
            | {
                "steps": setting.steps + WARM_UP,
                "batch_size": setting.batch,
                "micro_batch_size": setting.micro,
                "max_length": 100_000,
                "gradient_checkpointing": setting.checkpointing,
            },
            "base": CONFIG["base"] | {"layers": shapes.layers(setting.size), "dtype": shapes.dtype(setting.device)},
            "device": setting.device,
        }
    )


def _memory(device: str) -> float:
    import psutil
    import torch

    return (torch.cuda.memory_allocated() if device == "cuda" else psutil.Process().memory_info().rss) / 2**20


def _peak(device: str) -> float:
    import torch

    if device == "cuda":
        return float(torch.cuda.max_memory_allocated() / 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
