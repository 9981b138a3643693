"""The base's log-probs of mismatched completions, computed once for every run whose KL term is estimated on them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from trl.trainer.utils import add_fused_lm_head

from deltageom.errors import UserError
from deltageom.fields import Count, Section, Seed
from deltageom.files import whole_file
from deltageom.methods.shared import selection
from deltageom.models.load import load_model
from deltageom.study.schema import Base, Device
from deltageom.training import scoring

SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("sample", pa.int32()),
        ("other_problem_id", pa.string()),
        ("other_sample", pa.int32()),
        ("other_base_log_prob", pa.float64()),
    ]
)


class MismatchedSettings(Section):
    """What `deltageom mismatched` is told; seed and max_length decide the pairs, batch_size rows are scored at once."""

    seed: Seed
    max_length: Count
    batch_size: Count
    base: Base
    device: Device


def write(settings: MismatchedSettings, base: str, rollouts: Path, output: Path) -> None:
    """Writes a parquet file with a row for each rollout that runs are trained on: another problem's completion, and
    its log-prob, in nats, after this one's prompt.

    Scored in the dtype and attention that runs are trained in. Raises UserError if all rollouts are of one problem,
    and for a log-prob that is not finite.
    """
    columns = ["problem_id", "sample", "source", "prompt_token_ids", "token_ids"]
    table = pd.read_parquet(rollouts, columns=columns)
    lengths = table["prompt_token_ids"].map(len) + table["token_ids"].map(len)
    table = table[(table["source"] == "rollout") & (lengths <= settings.max_length)]
    other = table.iloc[selection.mismatched(table["problem_id"].to_numpy(np.str_), settings.seed)]
    model = load_model(base, settings.base, settings.device)
    add_fused_lm_head(model)
    scores = scoring.token_log_probs(
        model, list(table["prompt_token_ids"]), list(other["token_ids"]), settings.batch_size, progress=True
    )
    if not all(bool(score.isfinite().all()) for score in scores):
        raise UserError(f"{base}: gives log-probs that are not finite: look for NaN or infinite values in its weights")
    found = {
        "problem_id": list(table["problem_id"]),
        "sample": list(table["sample"]),
        "other_problem_id": list(other["problem_id"]),
        "other_sample": list(other["sample"]),
        "other_base_log_prob": [float(score.sum()) for score in scores],
    }
    with whole_file(output) as aside:
        pq.write_table(pa.Table.from_pydict(found, schema=SCHEMA), aside)
