"""Greedy pass@1 of one model on every benchmark, one engine start, one record an item."""

from pathlib import Path
from typing import Any

from deltageom import engines, grading, models
from deltageom.jobs import EvaluationSettings
from deltageom.records import Problem, write_jsonl


def evaluate(
    settings: EvaluationSettings,
    base: str,
    adapter: Path | None,
    benchmarks: dict[str, list[Problem]],
    output: Path,
) -> dict[str, float]:
    """Writes `output`/<benchmark>.jsonl, and returns each benchmark's accuracy. `adapter` None scores the base."""
    tokenizer = models.load_tokenizer(base, settings.base)
    wanted = settings.evaluation
    engine = engines.load(wanted.engine, base, settings.base, settings.device, adapter, wanted.batch_size)
    accuracy = {}
    for name, problems in benchmarks.items():
        prompts = [models.prompt_ids(tokenizer, settings.prompt, problem.question) for problem in problems]
        made = engine.generate(prompts, engines.greedy(wanted.max_tokens))
        records = [
            _record(problem, completion, tokenizer.decode(completion.token_ids, skip_special_tokens=True))
            for problem, (completion,) in zip(problems, made, strict=True)
        ]
        accuracy[name] = sum(record["correct"] for record in records) / len(records)
        write_jsonl(output / f"{name}.jsonl", records)
    return accuracy


def _record(problem: Problem, completion: engines.Completion, text: str) -> dict[str, Any]:
    grade = grading.grade(text, problem.answer)
    return {
        "problem_id": problem.id,
        "completion": text,
        "extracted": grade.extracted,
        "gold": problem.answer,
        "correct": grade.correct,
        "reason": grade.reason,
        "finish_reason": completion.finish_reason,
        "length": len(completion.token_ids),
    }
