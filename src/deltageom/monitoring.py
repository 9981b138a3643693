"""What is followed while a run trains: the length of its delta, and how far it has gone from the base."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import TrainerCallback

from deltageom import lora, scoring


class NormWatch(TrainerCallback):
    """Logs `delta_norm` after every step; with `stops`, ends the training at the first step where it is `target`."""

    def __init__(self, trainer: Any, target: float | None, stops: bool) -> None:
        self.trainer = trainer
        self.target = target
        self.stops = stops
        self.reached = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        norm = lora.delta_norm(self.trainer.accelerator.unwrap_model(self.trainer.model))
        self.trainer.extras["delta_norm"] = norm
        if self.stops and self.target is not None and norm >= self.target:
            self.reached = True
            control.should_training_stop = True
            # resumed from a checkpoint made here, the training would take one step more
            control.should_save = False


class KlWatch(TrainerCallback):
    """Logs `kl_to_base`, in nats a token, after every `every` steps and after the last.

    The estimate of KL(base || run) on the base's own samples y: the mean over their tokens of r - 1 - log r, with
    r = pi_run(y_t) / pi_base(y_t). Its expectation under the base is the KL, and no term is negative (Schulman 2020,
    "Approximating KL divergence", k3).
    """

    def __init__(self, trainer: Any, held_out: Path, every: int, batch_size: int) -> None:
        self.trainer = trainer
        self.every = every
        table = pd.read_parquet(held_out)
        self.prompts, self.completions = list(table["prompt_token_ids"]), list(table["token_ids"])
        self.base = torch.cat([torch.tensor(values, dtype=torch.float64) for values in table["token_log_probs"]])
        self.batch_size = batch_size

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if state.global_step % self.every == 0 or control.should_training_stop:
            self.trainer.extras["kl_to_base"] = self.estimate()

    def estimate(self) -> float:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        model.eval()
        scores = scoring.token_log_probs(model, self.prompts, self.completions, self.batch_size)
        model.train()
        return k3(torch.cat(scores), self.base)


def k3(log_probs: Tensor, base_log_probs: Tensor) -> float:
    """The mean of r - 1 - log r over tokens drawn from the base, (N,) each: an estimate of KL(base || run) in nats."""
    log_ratio = log_probs.double() - base_log_probs.double()
    return float((torch.expm1(log_ratio) - log_ratio).mean())
