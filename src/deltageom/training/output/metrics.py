"""What is kept of each step: metrics.parquet, one row per step and metric."""

from pathlib import Path
from typing import Any

import pandas as pd

from deltageom.files import whole_file

# transformers' and TRL's names, and ours, of the numbers that metrics.parquet has of a step; other names are kept
RENAMED = {
    "num_input_tokens_seen": "tokens",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "rewards/margins": "reward_margin",
    "rewards/accuracies": "reward_accuracy",
    "logps/chosen": "log_prob_chosen",
    "logps/rejected": "log_prob_rejected",
    "kl": "kl_estimate",
    "clip_ratio/region_mean": "clip_share",
    "sampling/sampling_logp_difference/mean": "sampler_gap",
}
KEPT = {
    *("loss", "learning_rate", "grad_norm", "delta_norm", "kl_to_base", "loss_correct", "loss_wrong"),
    *("reward", "reward_deviation", "mixed_groups", "completion_length", "truncated_share", "entropy", "kl_penalty"),
    *("token_share_correct", "weight_share_correct", *RENAMED.values()),
}


def write_metrics(path: Path, history: list[dict[str, float]], counts: dict[str, Any]) -> None:
    """Writes one row per step and metric: step, metric, value. Names and units are in docs/tables.md."""
    lines = sorted(
        (logs["step"], RENAMED.get(name, name), value)
        for logs in history
        if "loss" in logs
        for name, value in {**logs, "epoch": logs["step"] * counts["epochs"] / counts["steps_done"]}.items()
        if RENAMED.get(name, name) in KEPT or name == "epoch"
    )
    table = pd.DataFrame(lines, columns=["step", "metric", "value"])
    with whole_file(path) as aside:
        table.astype({"step": "int32", "metric": "str", "value": "float64"}).to_parquet(aside, index=False)
