"""Answers of one model to every benchmark: one engine start, one record an item. They are graded elsewhere."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deltageom import engines, generation, models
from deltageom.generation import Job
from deltageom.jobs import EvaluationSettings
from deltageom.records import Problem, write_json, write_jsonl

IDENTITY = "identity.json"


def evaluate(
    settings: EvaluationSettings,
    base: str,
    adapter: Path | None,
    benchmarks: dict[str, list[Problem]],
    output: Path,
    job: Job,
) -> tuple[list[str], list[str]]:
    """Writes `output`/<benchmark>.jsonl for each benchmark; returns those kept and those answered.

    Records that lie there already are kept where all that decides them is what it was, so that another benchmark does
    not cost those there are: identity.json says of what they are. `adapter` None evaluates the base.
    """
    tokenizer = models.load_tokenizer(base, settings.base)
    context = models.context_length(base, settings.base)
    prompts, lengths = {}, []
    for name, problems in benchmarks.items():
        decoding = settings.decodings[name]
        prompts[name] = [
            models.prompt_ids(tokenizer, settings.prompt, problem.question, decoding.thinking) for problem in problems
        ]
        lengths.append(generation.longest(prompts[name], decoding.max_tokens, context, f"benchmark {name!r}"))
    wanted = settings.evaluation
    setup = job.setup(
        base,
        settings.base,
        settings.device,
        adapter,
        wanted.batch_size,
        max(lengths),
        settings.vllm,
        settings.transformers,
        lora=True,
    )
    asked = {
        name: (generation.requests(problems, prompts[name], of.samples, of.seed), engines.sampling_of(of))
        for (name, problems), of in zip(
            benchmarks.items(), map(settings.decodings.__getitem__, benchmarks), strict=True
        )
    }
    identities = {
        name: _digest([generation.identity(wanted.engine, setup, *asked[name]), list(map(asdict, problems))])
        for name, problems in benchmarks.items()
    }
    kept = _kept(output, identities)
    todo = [name for name in benchmarks if name not in kept]
    made = zip(todo, generation.run(wanted.engine, setup, [asked[name] for name in todo], job), strict=True)
    finished = []
    for name, (completions, shards) in made:
        records = _records(benchmarks[name], prompts[name], completions, tokenizer)
        write_jsonl(output / f"{name}.jsonl", records)
        finished.append(shards)
    write_json(output / IDENTITY, {name: [identities[name], _content(output, name)] for name in benchmarks})
    for shards in finished:  # not before: a job that is killed may leave no benchmark at all
        shards.remove()
    return kept, todo


def _kept(output: Path, identities: dict[str, str]) -> list[str]:
    """The benchmarks whose records lie there as this very evaluation wrote them."""
    try:
        found = json.loads((output / IDENTITY).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    return [
        name
        for name, identity in identities.items()
        if (output / f"{name}.jsonl").is_file() and found.get(name) == [identity, _content(output, name)]
    ]


def _content(output: Path, name: str) -> str:
    return hashlib.sha256((output / f"{name}.jsonl").read_bytes()).hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _records(
    problems: list[Problem],
    prompts: list[list[int]],
    completions: list[engines.Completion],
    tokenizer: models.Tokenizer,
) -> Iterator[dict[str, Any]]:
    samples = len(completions) // len(problems)
    for number, completion in enumerate(completions):
        problem, sample = divmod(number, samples)
        text = tokenizer.decode(list(completion.token_ids), skip_special_tokens=True)
        yield _record(problems[problem], sample, tokenizer.decode(prompts[problem]), text, completion)


def _record(problem: Problem, sample: int, prompt: str, text: str, completion: engines.Completion) -> dict[str, Any]:
    return {
        "problem_id": problem.id,
        "sample": sample,
        "question": problem.question,
        "prompt": prompt,
        "response": text,
        "gold": problem.answer,
        "finish_reason": completion.finish_reason,
        "length": len(completion.token_ids),
        "log_prob": sum(completion.token_log_probs),
    }
