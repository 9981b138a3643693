"""Settings and rollouts for tests that train the tiny model for a step or a few."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from deltageom.jobs import TrainSettings
from deltageom.schema import Base

CONFIG = yaml.safe_load((Path(__file__).parents[1] / "config.yaml").read_text())
TINY = {
    "learning_rate": 0.01,
    "steps": 4,
    "batch_size": 8,
    "micro_batch_size": 4,
    "max_length": 64,
    "max_grad_norm": 1e9,
}
LORA = {"rank": 4, "alpha": 8.0}


def settings(base: Base, method: str, options: dict[str, Any] | None = None, **training: Any) -> TrainSettings:
    """A run of `method` with config.yaml's defaults, made small; `options` and `training` override."""
    lora = CONFIG["training"]["lora"] | LORA | training.pop("lora", {})
    return TrainSettings.model_validate(
        {
            "run": "tried",
            "method": method,
            "options": CONFIG["methods"][method] | (options or {}),
            "training": CONFIG["training"] | TINY | training | {"lora": lora},
            "base": base,
            "device": "cpu",
        }
    )


def rollouts(rewards: str = "1010 1111 0001 0000", source: str = "rollout") -> pd.DataFrame:
    """Rows of random ids in 10..99 with the rewards of each problem in turn: right ones of 2 to 6 tokens,
    wrong ones of 1 or 2, so that the probability of a wrong completion is no rounding error."""
    random = np.random.default_rng(0)
    rows = []
    for number, group in enumerate(rewards.split()):
        prompt = random.integers(10, 100, random.integers(2, 7)).tolist()
        for sample, reward in enumerate(group):
            length = random.integers(2, 7) if reward == "1" else random.integers(1, 3)
            rows.append(
                {
                    "problem_id": f"p{number}",
                    "sample": sample,
                    "source": source,
                    "prompt_token_ids": prompt,
                    "token_ids": random.integers(10, 100, length).tolist(),
                    "reward": float(reward),
                }
            )
    return pd.DataFrame(rows)
