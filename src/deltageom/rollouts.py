"""Sample the rollouts that every run is trained on, grade them, and write them as one table."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deltageom import engines, grading, models
from deltageom.jobs import RolloutSettings
from deltageom.records import Problem, whole_file

SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("sample", pa.int32()),  # -1 for a reference solution
        ("source", pa.string()),  # "rollout" or "reference"
        ("text", pa.string()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("token_ids", pa.list_(pa.int32())),  # of the completion, in the base's tokenizer
        ("log_prob", pa.float64()),  # sum under the sampling policy; null for a reference solution
        ("token_log_probs", pa.list_(pa.float32())),  # null where the generator has another tokenizer
        ("finish_reason", pa.string()),  # "stop", "length" or "reference"
        ("length", pa.int32()),
        ("extracted", pa.string()),
        ("reward", pa.float64()),
    ]
)


def sample(
    settings: RolloutSettings, base: str, generator: str, problems: list[Problem], output: Path
) -> dict[str, int]:
    """Writes the rollouts of all problems, then their reference solutions; returns counts of what was written."""
    own = models.load_tokenizer(base, settings.base)
    # a revision names the base's commit, no other model's
    model = settings.base if generator == base else settings.base.model_copy(update={"revision": None})
    tokenizer = models.load_tokenizer(generator, model)
    wanted = settings.rollouts
    sampling = engines.Sampling(
        wanted.samples, wanted.temperature, wanted.top_p, wanted.top_k, wanted.max_tokens, wanted.seed
    )
    engine = engines.load(wanted.engine, generator, model, settings.device, None, wanted.batch_size)
    prompts = [models.prompt_ids(tokenizer, settings.prompt, problem.question) for problem in problems]
    completions = engine.generate(prompts, sampling)

    same = tokenizer.get_vocab() == own.get_vocab()
    rows: list[dict[str, Any]] = []
    for problem, made in zip(problems, completions, strict=True):
        prompt = models.prompt_ids(own, settings.prompt, problem.question)
        for index, completion in enumerate(made):
            text = tokenizer.decode(completion.token_ids, skip_special_tokens=True)
            tokens = completion.token_ids if same else _encode(own, text, completion.finish_reason == "stop")
            rows.append(
                _row(problem, index, "rollout", text, prompt, tokens, completion.finish_reason)
                | {
                    "log_prob": sum(completion.token_log_probs),
                    "token_log_probs": completion.token_log_probs if same else None,
                }
            )
    rows.extend(_references(problems, own, settings))
    schema = SCHEMA.with_metadata({models.VOCABULARY: models.vocabulary_digest(own)})
    with whole_file(output) as aside:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), aside)
    return _counts(rows)


def _references(
    problems: list[Problem], tokenizer: models.Tokenizer, settings: RolloutSettings
) -> Iterator[dict[str, Any]]:
    for problem in problems:
        if problem.solution is not None:
            prompt = models.prompt_ids(tokenizer, settings.prompt, problem.question)
            tokens = _encode(tokenizer, problem.solution, finished=True)
            yield _row(problem, -1, "reference", problem.solution, prompt, tokens, "reference")


def _encode(tokenizer: models.Tokenizer, text: str, finished: bool) -> list[int]:
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    return [*ids, tokenizer.eos_token_id] if finished else ids


def _row(
    problem: Problem, index: int, source: str, text: str, prompt: list[int], tokens: list[int], finish: str
) -> dict[str, Any]:
    grade = grading.grade(text, problem.answer)
    return {
        "problem_id": problem.id,
        "sample": index,
        "source": source,
        "text": text,
        "prompt_token_ids": prompt,
        "token_ids": tokens,
        "finish_reason": finish,
        "length": len(tokens),
        "extracted": grade.extracted,
        "reward": float(grade.correct),
    }


def _counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    sampled = [row for row in rows if row["source"] == "rollout"]
    groups: dict[str, set[float]] = {}
    for row in sampled:
        groups.setdefault(row["problem_id"], set()).add(row["reward"])
    return {
        "problems": len(groups),
        "rollouts": len(sampled),
        "correct": sum(row["reward"] == 1.0 for row in sampled),
        "mixed_problems": sum(len(rewards) > 1 for rewards in groups.values()),
        "truncated": sum(row["finish_reason"] == "length" for row in sampled),
        "references": len(rows) - len(sampled),
    }
