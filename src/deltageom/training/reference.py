"""The base's own log-probs, computed once for every run: of rollouts, mismatched ones, and held-out samples."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from trl.trainer.utils import add_fused_lm_head

from deltageom.errors import UserError
from deltageom.files import whole_file
from deltageom.generation.engine import Sampling
from deltageom.generation.engines.transformers import TransformersEngine
from deltageom.generation.generate import complete, requests
from deltageom.methods.shared import selection
from deltageom.models.load import Model, load_model, load_tokenizer
from deltageom.models.prompts import end_tokens, prompt_ids
from deltageom.problems.problem import Problem
from deltageom.study.settings import MismatchedSettings, ReferenceSettings
from deltageom.training import scoring

LOG_PROBS = pa.schema([("problem_id", pa.string()), ("sample", pa.int32()), ("base_log_prob", pa.float64())])
MISMATCHED = pa.schema(
    [
        ("problem_id", pa.string()),
        ("sample", pa.int32()),
        ("other_problem_id", pa.string()),
        ("other_sample", pa.int32()),
        ("other_base_log_prob", pa.float64()),
    ]
)
HELD_OUT = pa.schema(
    [
        ("problem_id", pa.string()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),
        ("token_log_probs", pa.list_(pa.float64())),
    ]
)


def write(settings: ReferenceSettings, base: str, rollouts: Path, problems: list[Problem], output: Path) -> None:
    """Writes log_probs.parquet and held_out.parquet into `output`.

    log_probs: the base's log-prob of each rollout's whole completion, in nats. held_out: one sample of the base at
    temperature 1 for each of the first `prompts` of `problems`, with the log-prob of every token; no rows if there
    are no problems. All are scored in the dtype and attention that runs are trained in.
    Raises UserError if a log-prob is not finite.
    """
    tokenizer = load_tokenizer(base, settings.base)
    model = load_model(base, settings.base, settings.device)
    add_fused_lm_head(model)
    wanted = settings.reference
    table = pd.read_parquet(rollouts, columns=["problem_id", "sample", "source", "prompt_token_ids", "token_ids"])
    table = table[table["source"] == "rollout"]
    log_probs = {
        "problem_id": list(table["problem_id"]),
        "sample": list(table["sample"]),
        "base_log_prob": _totals(model, base, table["prompt_token_ids"], table["token_ids"], wanted.batch_size),
    }
    _write(output / "log_probs.parquet", log_probs, LOG_PROBS)

    chosen = problems[: wanted.prompts]
    prompts = [prompt_ids(tokenizer, settings.prompt, problem.question) for problem in chosen]
    completions = []
    if prompts:
        ends = end_tokens(tokenizer, model.generation_config)
        limits = wanted.batch_size, settings.transformers.batch_tokens
        engine = TransformersEngine(model, tokenizer.pad_token_id, ends, *limits)
        asked = requests(chosen, prompts, 1, wanted.seed)
        made = complete(engine, asked, Sampling(1.0, 1.0, 0, wanted.max_tokens, log_probs=False))
        completions = [list(one.token_ids) for one in made]
    scores = scoring.token_log_probs(model, prompts, completions, wanted.batch_size)
    held_out = {
        "problem_id": [problem.id for problem in chosen],
        "prompt_token_ids": prompts,
        "token_ids": completions,
        "token_log_probs": [score.tolist() for score in scores],
    }
    _write(output / "held_out.parquet", held_out, HELD_OUT)


def write_mismatched(settings: MismatchedSettings, base: str, rollouts: Path, output: Path) -> None:
    """Writes the parquet file `output`: for each rollout that runs are trained on, another problem's by the seed,
    and the base's log-prob of that whole completion after this one's prompt, in nats.

    Scored in the dtype and attention that runs are trained in. Raises UserError if all rollouts are of one problem,
    and if a log-prob is not finite.
    """
    table = pd.read_parquet(rollouts, columns=["problem_id", "sample", "source", "prompt_token_ids", "token_ids"])
    lengths = table["prompt_token_ids"].map(len) + table["token_ids"].map(len)
    table = table[(table["source"] == "rollout") & (lengths <= settings.max_length)]
    other = table.iloc[selection.mismatched(table["problem_id"].to_numpy(np.str_), settings.seed)]
    model = load_model(base, settings.base, settings.device)
    add_fused_lm_head(model)
    found = {
        "problem_id": list(table["problem_id"]),
        "sample": list(table["sample"]),
        "other_problem_id": list(other["problem_id"]),
        "other_sample": list(other["sample"]),
        "other_base_log_prob": _totals(model, base, table["prompt_token_ids"], other["token_ids"], settings.batch_size),
    }
    _write(output, found, MISMATCHED)


def _totals(model: Model, base: str, prompts: pd.Series, completions: pd.Series, batch_size: int) -> list[float]:
    """Of the whole completions. Raises UserError if a log-prob is not finite."""
    scores = scoring.token_log_probs(model, list(prompts), list(completions), batch_size, progress=True)
    if not all(bool(score.isfinite().all()) for score in scores):
        raise UserError(f"{base}: gives log-probs that are not finite: look for NaN or infinite values in its weights")
    return [float(score.sum()) for score in scores]


def _write(path: Path, columns: dict[str, Any], schema: pa.Schema) -> None:
    with whole_file(path) as aside:
        pq.write_table(pa.Table.from_pydict(columns, schema=schema), aside)
