"""Rows of random ids with the lengths of real ones, as a study would have left them: speed depends on nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

PROBLEMS, SAMPLES = 64, 4
Lengths = Callable[[Any], int]  # of a numpy Generator


def lognormal(mean: float, longest: int | None = None) -> Lengths:
    """As lengths of solutions are: cut at `longest`, by default four times the mean."""
    limit = longest or int(4 * mean)
    return lambda random: int(min(max(random.lognormal(0, 0.6) * mean * 0.84, 4), limit))


def equal(length: int) -> Lengths:
    return lambda _: length


def write(folder: Path, vocabulary: int, tokenizer: Any, prompt: Lengths, completion: Lengths) -> None:
    """Writes `folder`/rollouts.parquet, half of them right, and the base's log-probs of them, reference.parquet, and
    of mismatched completions, mismatched.parquet."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from deltageom.methods.shared import selection
    from deltageom.models.prompts import VOCABULARY, vocabulary_digest

    random = np.random.default_rng(0)
    rows = []
    for problem in range(PROBLEMS):
        start = random.integers(1, vocabulary, prompt(random)).tolist()
        for sample in range(SAMPLES):
            ids = random.integers(1, vocabulary, completion(random)).tolist()
            rows.append(
                {
                    "problem_id": f"p{problem}",
                    "sample": sample,
                    "source": "rollout",
                    "prompt_token_ids": start,
                    "token_ids": ids,
                    "token_log_probs": [-1.0] * len(ids),
                    "reward": float(sample % 2),
                }
            )
    table = pa.Table.from_pylist(rows).replace_schema_metadata({VOCABULARY: vocabulary_digest(tokenizer)})
    pq.write_table(table, folder / "rollouts.parquet")
    columns = {"problem_id": pa.string(), "sample": pa.int32()}
    scored = {name: [row[name] for row in rows] for name in columns} | {"base_log_prob": [-1.0] * len(rows)}
    pq.write_table(pa.Table.from_pydict(scored), folder / "reference.parquet")
    others = selection.mismatched(np.array(scored["problem_id"]), seed=42)
    scored |= {f"other_{name}": [rows[i][name] for i in others] for name in columns}
    scored["other_base_log_prob"] = scored.pop("base_log_prob")
    pq.write_table(pa.Table.from_pydict(scored), folder / "mismatched.parquet")
