"""Grade the completions of the training problems, add the reference solutions: the rollouts that every run reads."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deltageom import completions, dataset_card, grading, models, second_opinion
from deltageom.errors import UserError
from deltageom.jobs import RewardSettings
from deltageom.records import Problem, whole_file, write_text

SCHEMA = pa.schema(
    [
        ("problem_id", pa.string()),
        ("sample", pa.int32()),  # -1 for a reference solution
        ("source", pa.string()),  # "rollout" or "reference"
        *[field for field in completions.SCHEMA if field.name not in ("problem_id", "sample")],
        ("length", pa.int32()),  # tokens of the completion
        ("extracted", pa.string()),
        ("reward", pa.float64()),  # 1 or 0, by the strict grader
        ("math_verify", pa.bool_()),  # the second opinion; null where it has none
        ("math_verify_failure", pa.string()),
    ]
)


def reward(
    settings: RewardSettings, base: str, made: Path, problems: list[Problem], output: Path, workers: int
) -> dict[str, int]:
    """Writes `output`/rollouts.parquet and its card README.md; returns counts of what was written.

    Rollouts stand in the completions' order, then the reference solutions of the problems that have one.
    """
    tokenizer = models.load_tokenizer(base, settings.base)
    table = pq.read_table(made)
    if not table.schema.equals(completions.SCHEMA):
        raise UserError(f"{made}: is no table of completions: let `rollouts` or `import-rollouts` write it")
    references = _references(problems, tokenizer, settings)
    both = pa.concat_tables([table, references])
    golds = {problem.id: problem.answer for problem in problems}
    texts, gold = both["text"].to_pylist(), [golds[key] for key in both["problem_id"].to_pylist()]
    grades = [grading.grade(text, answer) for text, answer in zip(texts, gold, strict=True)]
    opinions = second_opinion.judge(list(zip(texts, gold, strict=True)), workers)
    added = {
        "source": ["rollout"] * len(table) + ["reference"] * len(references),
        "length": pc.list_value_length(both["token_ids"]),
        "extracted": [grade.extracted for grade in grades],
        "reward": [float(grade.correct) for grade in grades],
        "math_verify": [opinion.verdict for opinion in opinions],
        "math_verify_failure": [opinion.failure for opinion in opinions],
    }
    columns = {name: both[name] if name in both.column_names else added[name] for name in SCHEMA.names}
    schema = SCHEMA.with_metadata({models.VOCABULARY: models.vocabulary_digest(tokenizer)})
    graded = pa.table(columns, schema=schema)
    counts = _counts(graded)
    with whole_file(output / "rollouts.parquet") as aside:
        pq.write_table(graded, aside)
    write_text(output / "README.md", dataset_card.card(_facts(settings, counts)))
    return counts


def _references(problems: list[Problem], tokenizer: models.Tokenizer, settings: RewardSettings) -> pa.Table:
    """The problems' own solutions as completions: number -1, no log-probs."""
    solved = [problem for problem in problems if problem.solution is not None]
    texts = [str(problem.solution) for problem in solved]
    columns: dict[str, Any] = {
        "problem_id": [problem.id for problem in solved],
        "sample": [-1] * len(solved),
        "text": texts,
        "prompt_token_ids": [
            models.prompt_ids(tokenizer, settings.prompt, problem.question, settings.rollouts.thinking)
            for problem in solved
        ],
        "token_ids": [models.completion_ids(tokenizer, text, finished=True) for text in texts],
        "log_prob": [None] * len(solved),
        "token_log_probs": [None] * len(solved),
        "finish_reason": ["reference"] * len(solved),
    }
    return pa.table(columns, schema=completions.SCHEMA)


def _counts(graded: pa.Table) -> dict[str, int]:
    sampled = graded.filter(pc.equal(graded["source"], "rollout")).select(
        ["problem_id", "reward", "finish_reason", "math_verify"]
    )
    frame = sampled.to_pandas()
    groups = frame.groupby("problem_id")["reward"]
    second = frame["math_verify"]
    return {
        "problems": groups.ngroups,
        "rollouts": len(frame),
        "correct": int((frame["reward"] == 1).sum()),
        "mixed_problems": int((groups.nunique() > 1).sum()),
        "truncated": int((frame["finish_reason"] == "length").sum()),
        "graders_disagree": int((second.notna() & (second.eq(True) != (frame["reward"] == 1))).sum()),
        "no_second_verdict": int(second.isna().sum()),
        "references": len(graded) - len(frame),
    }


def _facts(settings: RewardSettings, counts: dict[str, int]) -> dict[str, Any]:
    wanted = settings.rollouts.model_dump(mode="json")
    generator = settings.base.model if wanted["generator"] == "base" else wanted["generator"]
    return wanted | {
        "study": settings.study,
        "generator": generator,
        "revision": settings.base.revision if wanted["generator"] == "base" else None,
        "template": settings.prompt.template,
        "system": settings.prompt.system,
        "problems": settings.problems.model_dump(mode="json"),
        "counts": counts,
    }
