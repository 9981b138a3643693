"""Grade the completions of the training problems, add the reference solutions: the rollouts that every run reads."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deltageom.errors import UserError
from deltageom.files import whole_file, write_text
from deltageom.grading import graders, second_opinion
from deltageom.grading.answers import as_said
from deltageom.models.load import load_tokenizer
from deltageom.models.prompts import (
    VOCABULARY,
    Tokenizer,
    completion_ids,
    opening,
    prompt_ids,
    turn_end,
    vocabulary_digest,
)
from deltageom.problems.problem import Problem
from deltageom.rollouts import card, completions
from deltageom.study.settings import RewardSettings

SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("sample", pa.int32()),  # -1 for a reference solution
        ("source", pa.string()),  # "rollout" or "reference"
        *[field for field in completions.SCHEMA if field.name not in ("problem_id", "sample")],
        ("length", pa.int32()),  # tokens of the completion
        ("extracted", pa.string()),
        ("reward", pa.float64()),  # 1 or 0, by the study's grader
        ("strict", pa.bool_()),  # the strict grader's verdict; null where the gold is no rational number
        ("math_verify", pa.bool_()),  # math-verify's verdict; null where it has none
        ("math_verify_failure", pa.string()),
    ]
)


def reward(
    settings: RewardSettings, base: str, made: Path, problems: list[Problem], output: Path, workers: int
) -> dict[str, int]:
    """Writes `output`/rollouts.parquet and its card README.md; returns counts of what was written.

    Rollouts stand in the completions' order, then the reference solutions of the problems that have one.
    """
    tokenizer = load_tokenizer(base, settings.base)
    table = pq.read_table(made)
    if not table.schema.equals(completions.SCHEMA):
        raise UserError(f"{made}: is no table of completions: let `rollouts` or `import-rollouts` write it")
    references = _references(problems, tokenizer, settings)
    both = pa.concat_tables([table, references])
    golds = {problem.id: problem.answer for problem in problems}
    said = [
        (as_said(prompt, text, finish), golds[key])
        for key, prompt, text, finish in zip(
            both["problem_id"].to_pylist(),
            _ends(both["prompt_token_ids"], tokenizer),
            both["text"].to_pylist(),
            both["finish_reason"].to_pylist(),
            strict=True,
        )
    ]
    verdicts = graders.grade(said, partial(second_opinion.judge, workers=workers), settings.grader)
    added = {
        "source": ["rollout"] * len(table) + ["reference"] * len(references),
        "length": pc.list_value_length(both["token_ids"]),
        "extracted": [verdict.extracted for verdict in verdicts],
        "reward": [float(verdict.correct) for verdict in verdicts],
        "strict": [verdict.strict for verdict in verdicts],
        "math_verify": [verdict.math_verify for verdict in verdicts],
        "math_verify_failure": [verdict.failure for verdict in verdicts],
    }
    columns = {name: both[name] if name in both.column_names else added[name] for name in SCHEMA.names}
    schema = SCHEMA.with_metadata({VOCABULARY: vocabulary_digest(tokenizer)})
    graded = pa.table(columns, schema=schema)
    counts = _counts(graded)
    with whole_file(output / "rollouts.parquet") as aside:
        pq.write_table(graded, aside)
    write_text(output / "README.md", card.card(_facts(settings, tokenizer, counts)))
    return counts


def _ends(prompts: pa.ChunkedArray, tokenizer: Tokenizer) -> Iterator[str]:
    """The text of each prompt, which may open the completion's thoughts; equal ones, which stand together, once."""
    before, text = None, ""
    for row in prompts:  # row by row: all prompts as Python objects would take gigabytes
        prompt = row.as_py()
        if prompt != before:
            before, text = prompt, tokenizer.decode(prompt)
        yield text


def _references(problems: list[Problem], tokenizer: Tokenizer, settings: RewardSettings) -> pa.Table:
    """The problems' own solutions as completions: number -1, no log-probs."""
    solved = [problem for problem in problems if problem.solution is not None]
    end = turn_end(tokenizer)
    texts = [str(problem.solution) for problem in solved]
    columns: dict[str, Any] = {
        "problem_id": [problem.id for problem in solved],
        "sample": [-1] * len(solved),
        "text": texts,
        "prompt_token_ids": [
            prompt_ids(tokenizer, settings.prompt, problem.question, settings.rollouts.thinking) for problem in solved
        ],
        "token_ids": [completion_ids(tokenizer, text, end) for text in texts],
        "log_prob": [None] * len(solved),
        "token_log_probs": [None] * len(solved),
        "finish_reason": ["reference"] * len(solved),
    }
    return pa.table(columns, schema=completions.SCHEMA)


def _counts(graded: pa.Table) -> dict[str, int]:
    sampled = graded.filter(pc.equal(graded["source"], "rollout")).select(
        ["problem_id", "reward", "finish_reason", "strict", "math_verify", "math_verify_failure"]
    )
    frame = sampled.to_pandas()
    groups = frame.groupby("problem_id")["reward"]
    first, second = frame["strict"], frame["math_verify"]
    both = first.notna() & second.notna()
    return {
        "problems": groups.ngroups,
        "rollouts": len(frame),
        "correct": int((frame["reward"] == 1).sum()),
        "mixed_problems": int((groups.nunique() > 1).sum()),
        "truncated": int((frame["finish_reason"] == "length").sum()),
        "graders_disagree": int((both & (first.eq(True) != second.eq(True))).sum()),
        "no_second_verdict": int(second.isna().sum()),
        "symbolic_golds": frame.loc[first.isna(), "problem_id"].nunique(),
        "unread_golds": frame.loc[first.isna() & frame["math_verify_failure"].eq("error"), "problem_id"].nunique(),
        "references": len(graded) - len(frame),
    }


def _facts(settings: RewardSettings, tokenizer: Tokenizer, counts: dict[str, int]) -> dict[str, Any]:
    wanted = settings.rollouts.model_dump(mode="json")
    generator = settings.base.model if wanted["generator"] == "base" else wanted["generator"]
    return wanted | {
        "study": settings.study,
        "generator": generator,
        "revision": settings.base.revision if wanted["generator"] == "base" else None,
        "template": settings.prompt.template,
        "system": settings.prompt.system,
        "opening": opening(tokenizer, settings.prompt, settings.rollouts.thinking),
        "grader": settings.grader,
        "problems": settings.problems.model_dump(mode="json"),
        "counts": counts,
    }
