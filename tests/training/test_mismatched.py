"""The base's log-probs of mismatched completions, and the rows that get them."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from deltageom.errors import UserError
from deltageom.study.schema import Base
from deltageom.training.rows import with_mismatched
from deltageom.training.train import Execution, train
from tests.training.test_reference import log_probs
from tests.training.tiny_runs import built, paths, rollouts, settings


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_they_are_the_bases_own(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    """Of every rollout within max_length, with the completion of such a one, of another problem."""
    table = pd.concat([rollouts("1010 0111 1100"), rollouts("11", source="reference")], ignore_index=True)
    limit = 9
    lengths = table["prompt_token_ids"].map(len) + table["token_ids"].map(len)
    kept = table[(table["source"] == "rollout") & (lengths <= limit)]
    assert 3 < len(kept) < 12
    run = settings(base_settings, "kto", max_length=limit, over_length="drop")
    given = paths(run, table, tiny_model, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tiny_model).double()
    found = pd.read_parquet(given.mismatched)
    assert found[["problem_id", "sample"]].values.tolist() == kept[["problem_id", "sample"]].values.tolist()
    rows = {(row.problem_id, row.sample): row for row in kept.itertuples()}
    trained_on = built(run, table, tiny_model, tmp_path / "again").train_dataset
    for pair, example in zip(found.itertuples(), trained_on, strict=True):
        assert pair.other_problem_id != pair.problem_id
        prompt, completion = rows[pair.problem_id, pair.sample], rows[pair.other_problem_id, pair.other_sample]
        expected = log_probs(model, prompt.prompt_token_ids, completion.token_ids).sum().item()
        assert pair.other_base_log_prob == pytest.approx(expected, abs=1e-4)
        assert example["prompt_ids"] == prompt.prompt_token_ids
        assert example["KL_completion_ids"] == completion.token_ids
        assert example["ref_KL_logps"] == pair.other_base_log_prob


def test_what_is_not_there_is_a_clear_error(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    run = settings(base_settings, "kto")
    given = paths(run, rollouts("10 01"), tiny_model, tmp_path, mismatched=None)
    with pytest.raises(UserError, match="run 'tried': its settings need --mismatched"):
        train(run, given, Execution())
    written = tmp_path / "mismatched.parquet"
    table = pd.read_parquet(written)
    for lacking in (table[1:], table.assign(other_sample=7)):
        lacking.to_parquet(written)
        with pytest.raises(UserError, match="has no pair of problem 'p0', sample 0"):
            with_mismatched(rollouts("10 01"), written)


def test_a_loss_without_a_kl_term_needs_none(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    run = settings(base_settings, "kto", {"loss_type": "apo_zero_unpaired"}, steps=1)
    given = paths(run, rollouts("10 01"), tiny_model, tmp_path)
    assert given.mismatched is None
    train(run, given, Execution())


def test_rollouts_of_one_problem_are_a_clear_error(tiny_model: Path, base_settings: Base, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all rows are of problem 'p0'"):
        paths(settings(base_settings, "kto"), rollouts("10"), tiny_model, tmp_path)
