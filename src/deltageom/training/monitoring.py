"""What is followed while a run trains: the length of its delta, and how far it has gone from the base."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from peft import PeftModel
from torch import Tensor
from transformers import TrainerCallback

from deltageom.training import lora, scoring


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
    """Logs `kl_to_base`, in nats per token, after every `every` steps and after the last.

    The estimate of KL(base || run) on the base's own samples y: the mean over their tokens of r - 1 - log r, with
    r = pi_run(y_t) / pi_base(y_t). Its expectation under the base is the KL, and no term is negative (Schulman 2020,
    "Approximating KL divergence", k3).
    """

    def __init__(self, trainer: Any, held_out: Path, every: int, batch_size: int) -> None:
        self.trainer = trainer
        self.every = every
        table = pd.read_parquet(held_out)
        self.prompts, self.completions = list(table["prompt_token_ids"]), list(table["token_ids"])
        self.base = [torch.tensor(values, dtype=torch.float64) for values in table["token_log_probs"]]
        self.batch_size = batch_size

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if state.global_step % self.every == 0 or control.should_training_stop:
            self.trainer.extras["kl_to_base"] = self.estimate()

    def estimate(self) -> float:
        return float(torch.cat(self._terms()).mean())

    def ending(self) -> dict[str, float | None]:
        """After training: the estimate and, of a run with an adapter, the exact KL along the same samples, which is the
        sum over the vocabulary at each token; both with the standard error over samples."""
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        found: dict[str, float | None] = {"kl_exact": None, "kl_exact_se": None}
        found["kl_to_base"], found["kl_to_base_se"] = mean_over_samples(self._terms())
        if isinstance(model, PeftModel):
            model.eval()
            exact = scoring.token_kl(model, self.prompts, self.completions)
            model.train()
            found["kl_exact"], found["kl_exact_se"] = mean_over_samples(exact)
        return found

    def _terms(self) -> list[Tensor]:
        """k3's term of each token, by sample."""
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        model.eval()
        scores = scoring.token_log_probs(model, self.prompts, self.completions, self.batch_size)
        model.train()
        return [k3(run, base) for run, base in zip(scores, self.base, strict=True)]


def k3(log_probs: Tensor, base_log_probs: Tensor) -> Tensor:
    """r - 1 - log r of tokens drawn from the base, (T,) each: its mean estimates KL(base || run) in nats."""
    log_ratio = log_probs.double() - base_log_probs.double()
    return torch.expm1(log_ratio) - log_ratio


def mean_over_samples(terms: Sequence[Tensor]) -> tuple[float, float | None]:
    """The mean over all tokens, and its standard error over samples, whose tokens depend on each other: that of a ratio
    of two means over samples (Cochran 1977, section 6.4). terms: (T,) per sample. No error of one sample."""
    sums = torch.stack([values.sum() for values in terms])
    tokens = torch.tensor([len(values) for values in terms], dtype=torch.float64)
    mean = float(sums.sum() / tokens.sum())
    if len(terms) < 2:
        return mean, None
    return mean, float((sums - mean * tokens).std() / tokens.mean() / len(terms) ** 0.5)
