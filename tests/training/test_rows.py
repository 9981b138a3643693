"""A run's rows: what is selected and counted, and rollouts that do not serve."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from deltageom.errors import UserError
from deltageom.models.prompts import VOCABULARY
from deltageom.study.schema import Base
from deltageom.training.session import Execution
from deltageom.training.train import train
from tests.training.test_train import trained
from tests.training.tiny_runs import built, paths, rollouts, settings


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": 0.5}, "'p0', sample 0: reward 0.5 is none of"),
        ({"token_log_probs": None}, "'tried': method offline_grpo_clipped needs the sampling policy's .*16 rows lack"),
        ({"problem_id": [f"p{i}" for i in range(16)]}, "16 problems have one alone, the first 'p0': raise rollouts"),
        ({"token_ids": [[100_000]] * 16}, "token_ids has id 100000, but the base's tokenizer has"),
        ("prompt_token_ids", "has no column prompt_token_ids: make the rollouts again"),
        ("tokenizer", "its token ids are of another tokenizer than that of toy"),
        ("metadata", "does not say which tokenizer its token ids are of"),
    ],
)
def test_rollouts_that_do_not_serve_are_a_clear_error(
    change: Any, message: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    table = rollouts()
    run = settings(base_settings, "offline_grpo_clipped")
    given = paths(run, table.assign(**change) if isinstance(change, dict) else table, tiny_model, tmp_path)
    if isinstance(change, str):
        made = pq.read_table(given.rollouts)
        if change == "prompt_token_ids":
            made = made.drop_columns([change])
        else:
            made = made.replace_schema_metadata({VOCABULARY: "other"} if change == "tokenizer" else None)
        pq.write_table(made, given.rollouts)
    with pytest.raises(UserError, match=message):
        train(run, given, Execution())
    assert not given.output.exists()


def test_group_means_are_of_all_that_was_sampled(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    """A row that is dropped for its length has still been sampled: the others' advantages do not change."""
    table = rollouts("1100")
    table.at[3, "token_ids"] = [20] * 40
    table.at[3, "token_log_probs"] = [-1.0] * 40
    run = settings(base_settings, "offline_grpo", max_length=40, over_length="drop")
    trainer = built(run, table, tiny_model, tmp_path)
    assert trainer.train_dataset["advantages"][:] == pytest.approx([0.6, 0.6, -0.4])


def test_deduplication_is_counted(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    table = rollouts("1110")
    table.at[2, "token_ids"] = table["token_ids"][0]
    table.at[2, "token_log_probs"] = table["token_log_probs"][0]
    run = settings(base_settings, "rft", {"deduplicate": True}, steps=1)
    said = json.loads((trained(run, table, tiny_model, tmp_path) / "selection.json").read_text())
    assert (said["correct"], said["selected"], said["duplicates"]) == (3, 2, 1)


def test_reference_solutions_and_rollouts_do_not_mix(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    table = pd.concat([rollouts("1010"), rollouts("111", source="reference")], ignore_index=True)
    counted = {}
    for method in ("sft", "sft_solutions"):
        output = trained(settings(base_settings, method, steps=1), table, tiny_model, tmp_path / method)
        counted[method] = json.loads((output / "selection.json").read_text())["selected"]
    assert counted == {"sft": 4, "sft_solutions": 3}


@pytest.mark.parametrize(
    ("method", "rewards", "counts"),
    [
        ("rft", "0000 000", "7 rows, 0 correct, 7 wrong, 2 problems, 0 mixed problems"),
        ("dpo", "1111 000", "7 rows, 4 correct, 3 wrong, 2 problems, 0 mixed problems"),
        ("sft_solutions", "10", "0 rows, 0 correct, 0 wrong, 0 problems, 0 mixed problems"),
    ],
)
def test_an_empty_selection_is_an_error_with_the_counts(
    method: str, rewards: str, counts: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"'tried': method {method} finds no .*{counts}"):
        trained(settings(base_settings, method), rollouts(rewards), tiny_model, tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_row_over_max_length_is_an_error_or_a_counted_drop(
    method: str, tiny_model: Path, base_settings: Base, tmp_path: Path
) -> None:
    table = rollouts("10 10 11")
    table["token_ids"] = table["token_ids"].where(table.index != 1, pd.Series([[20] * 30] * len(table)))
    limit = 30 + len(table["prompt_token_ids"][0])
    exact = trained(settings(base_settings, method, max_length=limit, steps=1), table, tiny_model, tmp_path / "a")
    assert json.loads((exact / "selection.json").read_text())["dropped_over_length"] == 0
    with pytest.raises(UserError, match=f"1 of 6 .*max_length {limit - 1}.*longest {limit} .*'p0'"):
        trained(settings(base_settings, method, max_length=limit - 1), table, tiny_model, tmp_path / "b")
    run = settings(base_settings, method, max_length=limit - 1, over_length="drop", steps=1)
    counts = json.loads((trained(run, table, tiny_model, tmp_path / "c") / "selection.json").read_text())
    assert counts["dropped_over_length"] == 1
    assert (counts["rows"], counts["mixed_problems"]) == (5, 1)
    assert counts["selected"] == {"sft": 5, "dpo": 1}[method]
