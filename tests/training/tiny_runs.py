"""Settings, rollouts and trainers for tests that train the tiny model for a step or a few."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from deltageom.methods import interface
from deltageom.models.load import load_tokenizer
from deltageom.models.prompts import VOCABULARY, vocabulary_digest
from deltageom.problems.problem import Problem
from deltageom.study.running import Transformers
from deltageom.study.schema import Base, Prompt, Reference
from deltageom.study.settings import MismatchedSettings, ReferenceSettings, TrainSettings
from deltageom.training import reference, rows, train

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text())
TINY = {
    "learning_rate": 0.01,
    "steps": 4,
    "batch_size": 8,
    "micro_batch_size": 4,
    "max_length": 64,
    "max_grad_norm": 1e9,
}
LORA = {"rank": 4, "alpha": 8.0}
PROBLEMS = [Problem(f"h{i}", f"Tom has {i} apples and buys {i + 3}. How many?", str(2 * i + 3), None) for i in range(4)]


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
    made = []
    for number, group in enumerate(rewards.split()):
        prompt = random.integers(10, 100, random.integers(2, 7)).tolist()
        for sample, reward in enumerate(group):
            length = random.integers(2, 7) if reward == "1" else random.integers(1, 3)
            made.append(
                {
                    "problem_id": f"p{number}",
                    "sample": sample if source == "rollout" else -1,
                    "source": source,
                    "prompt_token_ids": prompt,
                    "token_ids": random.integers(10, 100, length).tolist(),
                    "reward": float(reward),
                }
            )
    # drawn last, so that the tokens are what they were before there were any
    return pd.DataFrame(
        [row | {"token_log_probs": (-8 * random.random(len(row["token_ids"]))).tolist()} for row in made]
    )


def write_rollouts(table: pd.DataFrame, path: Path, base: Path, settings: Base) -> None:
    """As `deltageom rollouts` leaves them: lists of numbers, and whose the token ids are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = pa.Table.from_pandas(table, preserve_index=False)
    digest = vocabulary_digest(load_tokenizer(str(base), settings))
    pq.write_table(made.replace_schema_metadata({VOCABULARY: digest}), path)


def write_reference(base: Path, settings: Base, prompt: Prompt, folder: Path) -> None:
    """The base's log-probs of `folder`/rollouts.parquet and its samples for PROBLEMS, beside it."""
    wanted = Reference(benchmark="easy", prompts=4, max_tokens=8, batch_size=3, seed=0)
    limits = Transformers(batch_tokens=131072)
    told = ReferenceSettings(reference=wanted, prompt=prompt, base=settings, device="cpu", transformers=limits)
    reference.write(told, str(base), folder / "rollouts.parquet", PROBLEMS, folder)


def paths(run: TrainSettings, table: pd.DataFrame, base: Path, folder: Path, **others: Any) -> train.Paths:
    """Everything that the run reads, made in `folder`; it is to write into `folder`/run."""
    write_rollouts(table, folder / "rollouts.parquet", base, run.base)
    if "base" in interface.load(run.method).needs or run.training.kl_every:
        write_reference(base, run.base, Prompt(template="{question}", system=None), folder)
        others = {"reference": folder / "log_probs.parquet", "held_out": folder / "held_out.parquet"} | others
    if run.options.get("loss_type") == "kto":
        wanted = {"seed": run.options["kl_seed"], "max_length": run.training.max_length, "batch_size": 3}
        told = MismatchedSettings.model_validate({**wanted, "base": run.base, "device": "cpu"})
        reference.write_mismatched(told, str(base), folder / "rollouts.parquet", folder / "mismatched.parquet")
        others = {"mismatched": folder / "mismatched.parquet"} | others
    return train.Paths(
        base=str(base),
        rollouts=folder / "rollouts.parquet",
        output=folder / "run",
        scratch=folder / "scratch",
        **others,
    )


def built(run: TrainSettings, table: pd.DataFrame, base: Path, folder: Path, **execution: Any) -> Any:
    """The run's trainer, as `training.train` builds it."""
    given = paths(run, table, base, folder)
    method = interface.load(run.method)
    options = method.options.model_validate(run.options)
    tokenizer = load_tokenizer(str(base), run.base)
    files = given.rollouts, given.reference, given.mismatched
    dataset, universe, _ = rows.prepare(run, method, options, tokenizer, *files)
    return train.build_trainer(run, method, options, tokenizer, dataset, universe, given, train.Execution(**execution))
