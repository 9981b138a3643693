"""Finished rollouts from a file instead of a generator: checked row by row, and put into the base's tokens."""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deltageom.errors import UserError
from deltageom.files import file_rows, whole_file
from deltageom.grading.answers import opens_thoughts
from deltageom.models.prompts import VOCABULARY, Tokenizer, completion_ids, prompt_ids, turn_end, vocabulary_digest
from deltageom.problems.problem import Problem
from deltageom.rollouts.completions import SCHEMA
from deltageom.study.settings import ImportSettings

FIELDS = ("problem_id", "response", "sample", "finish_reason", "token_ids", "token_log_probs")
ROWS = 4096  # of the output that are held as Python objects at a time


@dataclass(frozen=True)
class Imported:
    """One row of the file. `token_ids` (T,) int64 and `token_log_probs` (T,) float64, nats: both or neither."""

    place: str  # the file and the row's number, for errors
    problem_id: str
    sample: int | None
    response: str
    finish_reason: Literal["stop", "length"]
    says_finish: bool  # or it is the default
    token_ids: np.ndarray | None
    token_log_probs: np.ndarray | None


def read(path: Path, problems: Sequence[Problem], samples: int, dropped: Container[str] = ()) -> list[Imported]:
    """The rollouts in a jsonl, json or parquet file: by problem in the problems' order, then by sample.

    `dropped`: ids of problems that decontamination left out, whose rollouts are left out too. Prints how many those
    are, which fields are not used, and how many problems have fewer than `samples`. Raises UserError naming the row
    that is wrong, the ids that are no problem's, and the problems with no rollout or with more than `samples`.
    """
    fields: Counter[str] = Counter()
    groups: dict[str, list[Imported]] = {problem.id: [] for problem in problems}
    unknown: dict[str, str] = {}
    left_out = 0
    for number, row in enumerate(file_rows(path), 1):
        fields.update(row.keys())
        rollout = _imported(row, f"{path}, rollout {number}")
        if rollout.problem_id in groups:
            groups[rollout.problem_id].append(rollout)
        elif rollout.problem_id in dropped:
            left_out += 1
        else:
            unknown.setdefault(rollout.problem_id, f"rollout {number}")
    if unknown:
        first = ", ".join(f"{key!r} ({where})" for key, where in list(unknown.items())[:3])
        raise UserError(
            f"{path}: {len(unknown)} problem ids are none of the {len(groups)} training problems', the first {first}: "
            "correct problem_id, or take these rollouts out (the ids are those of id_field or, without one, the row's "
            "number; problems.limit and bad_answers leave problems out)"
        )
    if left_out:
        print(f"{path}: {left_out} rollouts of problems that decontamination dropped are left out")
    _check_counts(path, groups, samples)
    if unused := sorted(set(fields) - set(FIELDS)):
        print(f"{path}: fields that are not used: {', '.join(map(repr, unused))}")
    return [rollout for group in groups.values() for rollout in _in_order(group)]


def write(
    rollouts: Iterable[Imported],
    problems: Sequence[Problem],
    tokenizer: Tokenizer,
    ends: Iterable[int],
    settings: ImportSettings,
    output: Path,
) -> None:
    """The completions as the rollouts' later steps read them, `samples` numbered from 0 for each problem.

    `ends`: the token ids that may close a finished completion. Raises UserError naming the row whose tokens are not
    the base's.
    """
    schema = SCHEMA.with_metadata({VOCABULARY: vocabulary_digest(tokenizer)})
    questions = {problem.id: problem.question for problem in problems}
    rows = _completions(rollouts, questions, tokenizer, set(ends), settings)
    with whole_file(output) as aside, pq.ParquetWriter(aside, schema) as writer:
        while chunk := [row for _, row in zip(range(ROWS), rows, strict=False)]:
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))


class _Row(BaseModel):
    """A rollout as the file has it."""

    model_config = ConfigDict(strict=True)

    problem_id: str | int
    response: Annotated[str, Field(pattern=r"\S")]
    sample: Annotated[int, Field(ge=0)] | None = None
    finish_reason: Literal["stop", "length"] | None = None
    token_ids: list[int] | None = None
    token_log_probs: list[Annotated[float, Field(le=0, allow_inf_nan=False)]] | None = None


MUST_BE = {
    "problem_id": "a problem's id",
    "response": "the completion's text, in Unicode",
    "sample": "0, 1, 2, ... or left out",
    "finish_reason": "stop, length or left out (stop)",
    "token_ids": "a list of integers or left out",
    "token_log_probs": "a list of finite numbers of at most 0 or left out",
}


def _imported(row: Mapping[str, Any], place: str) -> Imported:
    try:
        found = _Row.model_validate(row)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        at = next((part for part in error.errors()[0]["loc"] if isinstance(part, int)), None)
        value, where = (row.get(name), name) if at is None else (row[name][at], f"{name}[{at}]")
        raise UserError(f"{place}: {where} is {_shown(value)}; {name} must be {MUST_BE[name]}") from None
    ids, scores = found.token_ids, found.token_log_probs
    if (ids is None) != (scores is None):
        raise UserError(f"{place}: token_ids and token_log_probs must be two lists, or both be left out")
    if ids is not None and scores is not None and (len(ids) != len(scores) or not ids):
        raise UserError(f"{place}: {len(ids)} token_ids and {len(scores)} token_log_probs; give one of each per token")
    return Imported(
        place,
        str(found.problem_id),
        found.sample,
        found.response,
        found.finish_reason or "stop",
        found.finish_reason is not None,
        None if ids is None else np.array(ids),
        None if scores is None else np.array(scores, dtype=np.float64),
    )


def _check_counts(path: Path, groups: Mapping[str, Sequence[Imported]], samples: int) -> None:
    missing = [key for key, group in groups.items() if not group]
    if missing:
        first = ", ".join(map(repr, missing[:3]))
        raise UserError(
            f"{path}: {len(missing)} of {len(groups)} problems have no rollout, the first {first}: add them, or leave "
            "these problems out of the data set"
        )
    for key, group in groups.items():
        if len(group) > samples:
            raise UserError(
                f"{path}: problem {key!r} has {len(group)} rollouts, more than rollouts.samples: {samples} (see "
                f"{group[samples].place}): raise it, or take some out"
            )
    fewer = sum(len(group) < samples for group in groups.values())
    if fewer:
        print(f"{path}: {fewer} of {len(groups)} problems have fewer than {samples} rollouts")


def _in_order(group: Sequence[Imported]) -> list[Imported]:
    """By sample where the rows have one, else as they stand in the file."""
    seen: dict[int, Imported] = {}
    for rollout in group:
        if (rollout.sample is None) != (group[0].sample is None):
            raise UserError(
                f"{rollout.place}: some rollouts of problem {rollout.problem_id!r} have a sample, others none"
            )
        if rollout.sample is None:
            continue
        if rollout.sample in seen:
            raise UserError(
                f"{rollout.place}: problem {rollout.problem_id!r} has sample {rollout.sample} already "
                f"({seen[rollout.sample].place}): number them apart, or leave sample out"
            )
        seen[rollout.sample] = rollout
    return [seen[sample] for sample in sorted(seen)] if seen else list(group)


def _completions(
    rollouts: Iterable[Imported],
    questions: Mapping[str, str],
    tokenizer: Tokenizer,
    ends: set[int],
    settings: ImportSettings,
) -> Iterator[dict[str, Any]]:
    """Rows of SCHEMA. `rollouts`: those of a problem stand together."""
    before, sample, prompt, thinks, end = None, 0, [], False, turn_end(tokenizer)
    for rollout in rollouts:
        if rollout.problem_id == before:
            sample += 1
        else:
            before, sample = rollout.problem_id, 0
            question = questions[rollout.problem_id]
            prompt = prompt_ids(tokenizer, settings.prompt, question, settings.rollouts.thinking)
            thinks = opens_thoughts(tokenizer.decode(prompt))
        if thinks and not rollout.says_finish and "</think>" not in rollout.response:
            raise UserError(
                f"{rollout.place}: the base's prompt opens <think>, and response does not close it: say by "
                "finish_reason whether it was cut off in its thoughts (length) or comes without them (stop)"
            )
        scores = rollout.token_log_probs
        yield {
            "problem_id": rollout.problem_id,
            "sample": sample,
            "text": rollout.response,
            "prompt_token_ids": prompt,
            "token_ids": _encoded(rollout, tokenizer, end) if scores is None else _checked(rollout, tokenizer, ends),
            "log_prob": None if scores is None else float(scores.sum()),
            "token_log_probs": None if scores is None else scores.astype(np.float32),
            "finish_reason": rollout.finish_reason,
        }


def _encoded(rollout: Imported, tokenizer: Tokenizer, end: int) -> list[int]:
    """The response in the base's tokens, closed if it finished."""
    finished = rollout.finish_reason == "stop"
    ids = completion_ids(tokenizer, rollout.response, end if finished else None)
    special = set(ids[:-1] if finished else ids) & set(tokenizer.all_special_ids)
    if special:  # a closing one would be there twice; any other would end or open a turn in the middle of a text
        names = ", ".join(map(repr, sorted(tokenizer.convert_ids_to_tokens(list(special)))))
        raise UserError(
            f"{rollout.place}: response holds the tokenizer's special token {names}: take it out of the text"
        )
    return ids


def _checked(rollout: Imported, tokenizer: Tokenizer, ends: set[int]) -> list[int]:
    """The token ids that the file gives."""
    ids: list[int] = cast(np.ndarray, rollout.token_ids).tolist()
    otherwise = "leave token_ids and token_log_probs out, and the response is encoded anew"
    if min(ids) < 0 or max(ids) >= len(tokenizer):
        wrong = min(ids) if min(ids) < 0 else max(ids)
        raise UserError(
            f"{rollout.place}: token id {wrong} is none of the {len(tokenizer)} of the base's tokenizer: {otherwise}"
        )
    text = tokenizer.decode(ids, skip_special_tokens=True)
    if text != rollout.response:
        raise UserError(
            f"{rollout.place}: token_ids decode to {_shown(text)} in the base's tokenizer, but response is "
            f"{_shown(rollout.response)}: {otherwise}"
        )
    if rollout.finish_reason == "stop" and ids[-1] not in ends:
        raise UserError(
            f"{rollout.place}: finish_reason is stop, but the last token id is {ids[-1]} and not an end of sequence "
            f"({', '.join(map(str, sorted(ends)))}): append it with its log-prob, set finish_reason: length, or "
            f"{otherwise}"
        )
    return ids


def _shown(value: Any) -> str:
    """Untrusted text in an error: quoted, and not whole."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
