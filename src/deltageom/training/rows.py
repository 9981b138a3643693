"""A run's rows: read from the rollouts, checked, selected by the method, and laid out as TRL's trainers read them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from datasets import Dataset
from numpy.typing import NDArray

from deltageom.errors import UserError
from deltageom.methods.interface import MethodOptions, OfflineMethod, Pairs, Rows, Selection, Unpaired
from deltageom.methods.shared import selection
from deltageom.models.prompts import VOCABULARY, Tokenizer, vocabulary_digest
from deltageom.study.settings import TrainSettings
from deltageom.training.batches import IGNORED

COLUMNS = ["problem_id", "sample", "source", "prompt_token_ids", "token_ids", "token_log_probs", "reward"]
REWARDS = (0.0, 1.0)


def prepare(
    settings: TrainSettings,
    method: OfflineMethod,
    options: MethodOptions,
    tokenizer: Tokenizer,
    rollouts: Path,
    reference: Path | None,
    mismatched: Path | None = None,
) -> tuple[Dataset, int | None, dict[str, Any]]:
    """The rows that the run's trainer is given, of how many rows their places are, and their counts.

    On an online run's samples each step has the rows that it had there, which are taken as they stand: of None rows.

    They are made from the rollouts and, where the method needs them, the base's log-probs of them and of mismatched
    completions. Raises UserError for what the functions below do.
    """
    table = read(rollouts, method.source, settings, tokenizer)
    usable = within_length(table, settings)
    if "base" in method.needs:
        if reference is None:
            raise UserError(f"run {settings.run!r}: its settings need --reference")
        usable = with_base(usable, reference)
    if isinstance(method, Unpaired) and method.mismatched(options) is not None:
        if mismatched is None:
            raise UserError(f"run {settings.run!r}: its settings need --mismatched")
        usable = with_mismatched(usable, mismatched)
    chosen, counts = select(usable, method, options, settings)
    counts["dropped_over_length"] = len(table) - len(usable)
    order, as_drawn = settings.training.order, settings.training.rollouts_of is not None
    data = dataset_of(usable, chosen, method, zeros=as_drawn or order == "shared_zero")
    if as_drawn or order == "own":
        return data.add_column("place", list(range(len(data)))), None if as_drawn else len(data), counts
    return data.add_column("place", places(chosen, len(data))), len(usable), counts


def read(path: Path, source: str, settings: TrainSettings, tokenizer: Tokenizer) -> pd.DataFrame:
    """The rollouts' rows of one source, with their groups' `group_mean` and `group_size` and their `length` in tokens.

    Raises UserError for a file that lacks columns, that another tokenizer's token ids are in, or whose rewards are not
    in {0, 1}.
    """
    schema = pq.read_schema(path)
    if missing := [name for name in COLUMNS if name not in schema.names]:
        raise UserError(f"{path}: has no column {', '.join(missing)}: make the rollouts again")
    table = _as_drawn(path, settings) if settings.training.rollouts_of else pd.read_parquet(path, columns=COLUMNS)
    table = table[table["source"] == source].reset_index(drop=True)
    _check_tokens(path, (schema.metadata or {}).get(VOCABULARY), table, settings, tokenizer)
    if not (known := table["reward"].isin(REWARDS)).all():
        row = table[~known].iloc[0]
        raise UserError(
            f"{path}: problem {row['problem_id']!r}, sample {row['sample']}: reward {row['reward']} is none of "
            f"{REWARDS}: every method here is defined on right and wrong"
        )
    rewards, problems = table["reward"].to_numpy(np.float64), table["problem_id"].to_numpy(np.str_)
    return table.assign(
        group_mean=selection.group_means(rewards, problems),
        group_size=selection.group_sizes(problems),
        length=table["prompt_token_ids"].map(len) + table["token_ids"].map(len),
    )


def _as_drawn(path: Path, settings: TrainSettings) -> pd.DataFrame:
    """The samples of the steps that the run is trained for, a group for each step and problem.

    Raises UserError if they are fewer than the steps take.
    """
    training = settings.training
    wanted = (training.report_step or training.steps) * training.batch_size
    table = pd.read_parquet(path, columns=[*COLUMNS, "step"]).head(wanted)
    if len(table) < wanted:
        raise UserError(
            f"{path}: has {len(table)} samples of run {training.rollouts_of!r}, but {wanted} are to be read: raise "
            "online.keep"
        )
    return table.assign(problem_id=table["step"].astype(str) + "/" + table["problem_id"])


def within_length(table: pd.DataFrame, settings: TrainSettings) -> pd.DataFrame:
    """The rows within max_length. Raises UserError for a longer one where the study says `error`.

    Longer rows leave before any selection, so that every method sees the same rows.
    """
    limit = settings.training.max_length
    over = table["length"] > limit
    if over.any() and (settings.training.over_length == "error" or settings.training.rollouts_of):
        raise UserError(
            f"run {settings.run!r}: {over.sum()} of {len(table)} rows have more tokens than "
            f"training.max_length {limit}, the longest {table['length'].max()} (problem "
            f"{table['problem_id'].iloc[table['length'].argmax()]!r}): raise max_length"
            + ("" if settings.training.rollouts_of else ", or set over_length: drop")
        )
    return table[~over].reset_index(drop=True)


def with_base(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The rows with `base_log_prob`, the base's log-prob of each, from what `deltageom reference` wrote.

    Raises UserError if a row is not there.
    """
    scored = pd.read_parquet(path)
    merged = table.merge(scored, on=["problem_id", "sample"], how="left", validate="one_to_one")
    if merged["base_log_prob"].isna().any():
        row = merged[merged["base_log_prob"].isna()].iloc[0]
        raise UserError(f"{path}: has no log-prob of problem {row['problem_id']!r}, sample {row['sample']}")
    return merged


def with_mismatched(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The rows with `other`, the row whose completion each is mismatched with, and `other_base_log_prob`, the base's
    log-prob of that, from what `deltageom mismatched` wrote. Raises UserError if a row is not there."""
    merged = table.merge(pd.read_parquet(path), on=["problem_id", "sample"], how="left", validate="one_to_one")
    rows, others = (pd.MultiIndex.from_frame(merged[[f"{of}problem_id", f"{of}sample"]]) for of in ("", "other_"))
    merged["other"] = rows.get_indexer(others)
    if (missing := merged["other"] < 0).any():
        row = merged[missing].iloc[0]
        raise UserError(f"{path}: has no pair of problem {row['problem_id']!r}, sample {row['sample']}")
    return merged


def select(
    table: pd.DataFrame, method: OfflineMethod, options: MethodOptions, settings: TrainSettings
) -> tuple[Selection | Pairs, dict[str, Any]]:
    """What the method trains on, and the counts. Raises UserError with them if that is nothing, or what it needs is
    not there."""
    rewards = table["reward"].to_numpy(np.float64)
    problems = table["problem_id"].to_numpy(np.str_)
    _check_needs(table, method, settings)
    counts = selection.counts(rewards, problems)
    behaviour = [np.asarray(values, dtype=np.float64) for values in table["token_log_probs"] if values is not None]
    rows = Rows(
        rewards=rewards,
        problems=problems,
        group_means=table["group_mean"].to_numpy(np.float64),
        lengths=table["token_ids"].map(len).to_numpy(np.intp),
        token_ids=list(table["token_ids"]),
        token_log_probs=behaviour if len(behaviour) == len(table) else None,
        base_log_probs=table["base_log_prob"].to_numpy(np.float64) if "base_log_prob" in table else None,
    )
    chosen: Selection | Pairs = method.select(rows, options)
    unit, n = ("pairs", len(chosen.chosen)) if isinstance(chosen, Pairs) else ("rows", len(chosen.indices))
    if not n:
        found = ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in counts.items())
        raise UserError(
            f"run {settings.run!r}: method {settings.method} finds no {unit} to train on; "
            f"source {method.source!r} has {found}"
        )
    removed = chosen.duplicates if isinstance(chosen, Selection) else 0
    return chosen, {**counts, "unit": unit, "selected": n, "duplicates": removed}


def places(chosen: Selection | Pairs, rows: int) -> list[int]:
    """The place of each row of the data set among all usable rows; a pair has that of its right half."""
    found = chosen.chosen if isinstance(chosen, Pairs) else chosen.indices
    return list(map(int, found)) if len(found) == rows else list(range(rows))


def dataset_of(table: pd.DataFrame, chosen: Selection | Pairs, method: OfflineMethod, zeros: bool = False) -> Dataset:
    """The selected token ids as the method's trainer reads them, exactly as they were sampled.

    `zeros`: rows that a likelihood method leaves out are there too, with weight 0 (`kept`).
    """
    if isinstance(chosen, Pairs):
        return _pairs(table, chosen)
    if isinstance(method, Unpaired):
        return _unpaired(table, chosen)
    if zeros and len(chosen.indices) < len(table):
        return dataset_of(table, with_zeros(chosen, table), method)
    prompts, completions = table["prompt_token_ids"], table["token_ids"]
    unlearnt = prompts.map(lambda ids: np.full_like(ids, IGNORED))
    return Dataset.from_dict(
        {
            "input_ids": [np.concatenate([prompts[i], completions[i]]) for i in chosen.indices],
            "labels": [np.concatenate([unlearnt[i], completions[i]]) for i in chosen.indices],
            "length": table["length"].to_numpy()[chosen.indices],
            "reward": table["reward"].to_numpy()[chosen.indices],
            **chosen.columns,
            **chosen.token_columns,
        }
    )


def with_zeros(chosen: Selection, table: pd.DataFrame) -> Selection:
    """All rows of the table: `kept` is 1 for those that were chosen, and for the others, as every other column, 0."""
    rows = range(len(table))
    at = {int(row): i for i, row in enumerate(chosen.indices)}
    columns = {name: [values[at[row]] if row in at else 0.0 for row in rows] for name, values in chosen.columns.items()}
    tokens: dict[str, Sequence[NDArray[np.float64]]] = {
        name: [values[at[row]] if row in at else np.zeros(len(table["token_ids"][row])) for row in rows]
        for name, values in chosen.token_columns.items()
    }
    columns["kept"] = [float(row in at) for row in rows]
    return Selection(np.arange(len(table)), columns={k: np.array(v) for k, v in columns.items()}, token_columns=tokens)


def _pairs(table: pd.DataFrame, chosen: Pairs) -> Dataset:
    prompts, completions, lengths = table["prompt_token_ids"], table["token_ids"], table["length"].to_numpy()
    columns: dict[str, Any] = {
        "prompt_ids": [prompts[i] for i in chosen.chosen],
        "chosen_ids": [completions[i] for i in chosen.chosen],
        "rejected_ids": [completions[i] for i in chosen.rejected],
        "length": np.maximum(lengths[chosen.chosen], lengths[chosen.rejected]),
    }
    if "base_log_prob" in table:
        base = table["base_log_prob"].to_numpy()
        columns |= {"ref_chosen_logps": base[chosen.chosen], "ref_rejected_logps": base[chosen.rejected]}
    return Dataset.from_dict(columns)


def _unpaired(table: pd.DataFrame, chosen: Selection) -> Dataset:
    rows = table.iloc[chosen.indices]
    columns: dict[str, Any] = {
        "prompt_ids": list(rows["prompt_token_ids"]),
        "completion_ids": list(rows["token_ids"]),
        "label": rows["reward"].to_numpy() > 0,
        "length": rows["length"].to_numpy(),
        "ref_logps": rows["base_log_prob"].to_numpy(),
    }
    if "other" in rows:
        columns["KL_completion_ids"] = [table["token_ids"][i] for i in rows["other"]]
        columns["ref_KL_logps"] = rows["other_base_log_prob"].to_numpy()
    return Dataset.from_dict(columns)


def _check_tokens(
    path: Path, vocabulary: bytes | None, table: pd.DataFrame, settings: TrainSettings, tokenizer: Tokenizer
) -> None:
    if vocabulary is None:
        raise UserError(f"{path}: does not say which tokenizer its token ids are of: make the rollouts again")
    if vocabulary.decode() != vocabulary_digest(tokenizer):
        raise UserError(
            f"{path}: its token ids are of another tokenizer than that of {settings.base.model}: "
            "make the rollouts again with this base"
        )
    for column in ("prompt_token_ids", "token_ids"):
        largest = max((int(max(ids)) for ids in table[column] if len(ids)), default=0)
        if largest >= len(tokenizer):
            raise UserError(f"{path}: {column} has id {largest}, but the base's tokenizer has {len(tokenizer)} tokens")


def _check_needs(table: pd.DataFrame, method: OfflineMethod, settings: TrainSettings) -> None:
    run = f"run {settings.run!r}: method {settings.method}"
    if "groups" in method.needs and (lone := table["group_size"] < 2).any():
        raise UserError(
            f"{run} compares rollouts of one problem, but {lone.sum()} problems have one alone, the first "
            f"{table['problem_id'][lone.argmax()]!r}: raise rollouts.samples"
        )
    if "behaviour" in method.needs:
        if (missing := table["token_log_probs"].isna()).any():
            raise UserError(
                f"{run} needs the sampling policy's log-prob of every token, which {missing.sum()} rows lack: "
                "set rollouts.log_probs: true, and use a generator that shares the base's tokenizer"
            )
        lengths = table["token_log_probs"].map(len)
        if (lengths != table["token_ids"].map(len)).any():
            raise UserError(f"{run}: the rollouts have another number of log-probs than of tokens")
