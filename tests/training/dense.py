"""A run's loss by hand: the tiny model in float64, dense weights, one sequence at a time, formulas written afresh.

No fused head, padding, micro batch, autocast, TRL or PEFT.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from deltageom.methods.shared import selection
from deltageom.models.load import load_model
from deltageom.study.settings import TrainSettings

Factors = dict[str, tuple[Tensor, Tensor]]


class Dense:
    """W + scale B A for leaves A and B, in float64."""

    def __init__(self, folder: Path, run: TrainSettings, factors: Factors) -> None:
        self.model = load_model(str(folder), run.base, "cpu").double().requires_grad_(False)
        self.leaves = {n: (a.requires_grad_(), b.requires_grad_()) for n, (a, b) in factors.items()}
        lora = run.training.lora
        self.scale = lora.alpha / (math.sqrt(lora.rank) if lora.rslora else lora.rank)

    def log_probs(self, prompt: list[int], completion: list[int], adapted: bool = True) -> Tensor:
        """(T,) of the completion's tokens."""
        weights = dict(self.model.named_parameters())
        if adapted:
            for name, (a, b) in self.leaves.items():
                weights[f"{name}.weight"] = weights[f"{name}.weight"] + self.scale * b @ a
        ids = torch.tensor([[*prompt, *completion]])
        logits = torch.func.functional_call(self.model, weights, (ids,), {"use_cache": False}).logits[0]
        first = len(prompt) - 1
        predicted = logits[first : first + len(completion)].log_softmax(-1)
        return predicted[torch.arange(len(completion)), torch.tensor(completion)]

    def log_ratio(self, row: Any, completion: list[int] | None = None) -> Tensor:
        """log pi(y) / pi_base(y) of the row's completion, or of another one after its prompt."""
        ids = (row.prompt_token_ids, row.token_ids if completion is None else completion)
        return self.log_probs(*ids).sum() - self.log_probs(*ids, adapted=False).sum().detach()

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        loss.backward()
        return {
            f"base_model.model.{name}.lora_{which}.default.weight": leaf.grad
            for name, pair in self.leaves.items()
            for which, leaf in zip("AB", pair, strict=True)
        }


def loss_of(run: TrainSettings, dense: Dense, table: pd.DataFrame) -> Tensor:
    """What one step over all selected rows, or all pairs, minimises."""
    if run.method == "kto":
        return kto(run, dense, table)
    if run.method in ("dpo", "simpo", "cpo"):
        made = [pair_loss(run, dense, *pair) for pair in pairs(table)]
        return sum(made) / len(made)
    rows = [(row_loss(run, dense, table, row), len(row.token_ids)) for row in selected(run, table)]
    match run.training.reduction:
        case "token":
            return sum(loss for loss, _ in rows) / sum(tokens for _, tokens in rows)
        case "sequence":
            return sum(loss for loss, _ in rows) / len(rows)
        case _:
            return sum(loss / tokens for loss, tokens in rows) / len(rows)


def selected(run: TrainSettings, table: pd.DataFrame) -> list[Any]:
    return [row for row in table.itertuples() if run.method != "rft" or row.reward == 1]


def row_loss(run: TrainSettings, dense: Dense, table: pd.DataFrame, row: Any) -> Tensor:
    options = run.options
    log_probs = dense.log_probs(row.prompt_token_ids, row.token_ids)
    nll = -log_probs.sum()
    mean = table.groupby("problem_id")["reward"].mean()[row.problem_id]
    match run.method:
        case "sft" | "rft":
            return nll
        case "dft":
            return sum(math.exp(p.item()) * -p for p in log_probs)
        case "rift" if row.reward == 1:
            return options["reward_correct"] * nll
        case "rift":
            of_tokens = sum(torch.exp(p) for p in log_probs)
            probability = {
                "sequence": torch.exp(log_probs.sum()),
                "length_normalised": torch.exp(log_probs.mean()),
                "token": of_tokens,
            }[options["probability"]]
            return -options["reward_wrong"] * probability
        case "rift_linear":
            return (1 - row.reward * options["lambda"]) * nll
        case "offline_grpo":
            return (row.reward - mean + options["bias"]) * nll
        case "offline_grpo_weighted":
            advantage = options["all_correct_advantage"] if mean == 1 else row.reward - mean
            return sum(-advantage * torch.exp(p) for p in log_probs)
        case "offline_grpo_clipped":
            advantage = row.reward - mean + options["bias"]
            terms = []
            for log_prob, behaviour in zip(log_probs, row.token_log_probs, strict=True):
                ratio = torch.exp(log_prob - behaviour)
                clipped = min(max(ratio.item(), 1 - options["clip"]), 1 + options["clip"])
                # the clipped term is a constant wherever it is the smaller one
                smaller = advantage * ratio.item() <= advantage * clipped
                terms.append(advantage * ratio if smaller else advantage * clipped + 0 * ratio)
            return -sum(terms)
    raise AssertionError(run.method)


def pairs(table: pd.DataFrame) -> Iterator[tuple[Any, Any]]:
    """Every correct with every wrong row of its problem."""
    for _, group in table.groupby("problem_id"):
        rows = list(group.itertuples())
        yield from ((c, w) for c in rows if c.reward == 1 for w in rows if w.reward == 0)


def pair_loss(run: TrainSettings, dense: Dense, chosen: Any, rejected: Any) -> Tensor:
    options = run.options
    beta = options["beta"]
    lengths = len(chosen.token_ids), len(rejected.token_ids)
    if run.method in ("simpo", "cpo"):
        c, r = (dense.log_probs(row.prompt_token_ids, row.token_ids).sum() for row in (chosen, rejected))
        if run.method == "simpo":
            return -logsigmoid(beta * (c / lengths[0] - r / lengths[1]) - options["gamma"])
        return -logsigmoid(beta * (c - r)) - options["nll_weight"] * c / lengths[0]
    c, r = dense.log_ratio(chosen), dense.log_ratio(rejected)
    margin = beta * (c - r)
    normalised = c / lengths[0] - r / lengths[1]
    noise = options["label_smoothing"]
    q = torch.sigmoid(margin)
    losses: dict[str, Callable[[], Tensor]] = {
        "sigmoid": lambda: torch.log1p(torch.exp(-margin)),
        "hinge": lambda: torch.clamp(1 - margin, min=0),
        "ipo": lambda: (normalised - 1 / (2 * beta)) ** 2,
        "exo_pair": lambda: q * torch.log(q / (1 - noise)) + (1 - q) * torch.log((1 - q) / noise),
        "nca_pair": lambda: -logsigmoid(beta * c) - 0.5 * (logsigmoid(-beta * c) + logsigmoid(-beta * r)),
        "robust": lambda: (-(1 - noise) * torch.log(q) + noise * torch.log(1 - q)) / (1 - 2 * noise),
        "bco_pair": lambda: -logsigmoid(beta * c) - logsigmoid(-beta * r),
        "sppo_hard": lambda: (c - 1 / (2 * beta)) ** 2 + (r + 1 / (2 * beta)) ** 2,
        "apo_zero": lambda: 1 - torch.sigmoid(beta * c) + torch.sigmoid(beta * r),
        "apo_down": lambda: torch.sigmoid(beta * c) + 1 - q,
        "discopop": lambda: (
            (1 - torch.sigmoid(margin / 0.05)) * -logsigmoid(margin) + torch.sigmoid(margin / 0.05) * torch.exp(-margin)
        ),
        "sigmoid_norm": lambda: -logsigmoid(beta * normalised),
    }
    return losses[options["loss_type"]]()


def kto(run: TrainSettings, dense: Dense, table: pd.DataFrame) -> Tensor:
    options = run.options
    rows = list(table.itertuples())
    other = selection.mismatched(np.array([row.problem_id for row in rows]), options["kl_seed"])
    kl = sum(dense.log_ratio(row, rows[j].token_ids).item() for row, j in zip(rows, other, strict=True)) / len(rows)
    point = max(kl, 0.0) if options["loss_type"] == "kto" else 0.0
    losses = []
    for row in rows:
        gain = options["beta"] * (dense.log_ratio(row) - point)
        if row.reward == 1:
            losses.append(options["desirable_weight"] * (1 - torch.sigmoid(gain)))
        elif options["loss_type"] == "kto":
            losses.append(options["undesirable_weight"] * (1 - torch.sigmoid(-gain)))
        else:
            losses.append(options["undesirable_weight"] * torch.sigmoid(gain))
    return sum(losses) / len(losses)
