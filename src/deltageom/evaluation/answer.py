"""Answers of one model to every benchmark: one engine start, one record an item. They are graded elsewhere."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deltageom.files import whole_file, write_json, write_jsonl
from deltageom.generation import generate, parts
from deltageom.generation.engine import Completion, sampling_of
from deltageom.generation.generate import Job
from deltageom.generation.shards import identity
from deltageom.jobs import still_true
from deltageom.models.load import context_length, load_tokenizer
from deltageom.models.prompts import Tokenizer, prompt_ids
from deltageom.problems.problem import Problem
from deltageom.study.settings import EvaluationSettings

IDENTITY = "identity.json"


def evaluate(
    settings: EvaluationSettings,
    base: str,
    adapter: Path | None,
    benchmarks: dict[str, list[Problem]],
    output: Path,
    job: Job,
    earlier: Sequence[Path] = (),
) -> tuple[list[str], list[str]]:
    """Writes `output`/<benchmark>.jsonl for each benchmark; returns those kept and those answered.

    Records that lie there already are kept where all that decides them is what it was, so that another benchmark does
    not cost those there are: identity.json says of what they are. So are those in one of `earlier`, folders of the same
    model's answers for other studies, of which they are copied. `adapter` None evaluates the base.

    One of several jobs writes no records: it keeps its part in `job.scratch`, for the job that writes all.
    """
    tokenizer = load_tokenizer(base, settings.base)
    context = context_length(base, settings.base)
    prompts, lengths = {}, []
    for name, problems in benchmarks.items():
        decoding = settings.decodings[name]
        prompts[name] = [
            prompt_ids(tokenizer, settings.prompt, problem.question, decoding.thinking) for problem in problems
        ]
        lengths.append(generate.longest(prompts[name], decoding.max_tokens, context, f"benchmark {name!r}"))
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
        name: (generate.requests(problems, prompts[name], of.samples, of.seed), sampling_of(of, wanted.log_probs))
        for (name, problems), of in zip(
            benchmarks.items(), map(settings.decodings.__getitem__, benchmarks), strict=True
        )
    }
    identities = {
        name: still_true.of_values([identity(wanted.engine, setup, *asked[name]), list(map(asdict, problems))])
        for name, problems in benchmarks.items()
    }
    parts.check(job.parts, sum(map(len, benchmarks.values())), "evaluation")
    kept = _kept(output, identities)
    if job.part:
        found = {*kept, *(name for folder in earlier for name in _kept(folder, identities))}
        todo = [name for name in benchmarks if name not in found]
        generate.generate_part(wanted.engine, setup, [asked[name] for name in todo], job)
        return sorted(found), todo
    for folder in earlier:
        for name in _kept(folder, identities):
            if name not in kept:
                _take_over(folder, output, name)
                kept.append(name)
    todo = [name for name in benchmarks if name not in kept]
    made = zip(todo, generate.generate(wanted.engine, setup, [asked[name] for name in todo], job), strict=True)
    finished = []
    for name, (completions, shards) in made:
        records = _records(benchmarks[name], prompts[name], completions, tokenizer)
        write_jsonl(output / f"{name}.jsonl", records)
        finished.append(shards)
    content = {name: still_true.of_file(output / f"{name}.jsonl") for name in benchmarks}
    write_json(output / IDENTITY, {name: [identities[name], content[name]] for name in benchmarks})
    for shards in finished:  # not before: a job that is killed may leave no benchmark at all
        shards.remove()
    return kept, todo


def _take_over(folder: Path, output: Path, name: str) -> None:
    with whole_file(output / f"{name}.jsonl") as aside:
        shutil.copyfile(folder / f"{name}.jsonl", aside)


def _kept(output: Path, identities: dict[str, str]) -> list[str]:
    """The benchmarks whose records lie there as this very evaluation wrote them."""
    try:
        found = json.loads((output / IDENTITY).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    records = {name: output / f"{name}.jsonl" for name in identities}
    return [
        name
        for name, path in records.items()
        if path.is_file() and found.get(name) == [identities[name], still_true.of_file(path)]
    ]


def _records(
    problems: list[Problem],
    prompts: list[list[int]],
    completions: list[Completion],
    tokenizer: Tokenizer,
) -> Iterator[dict[str, Any]]:
    samples = len(completions) // len(problems)
    for number, completion in enumerate(completions):
        problem, sample = divmod(number, samples)
        text = tokenizer.decode(list(completion.token_ids), skip_special_tokens=True)
        yield _record(problems[problem], sample, tokenizer.decode(prompts[problem]), text, completion)


def _record(problem: Problem, sample: int, prompt: str, text: str, completion: Completion) -> dict[str, Any]:
    return {
        "problem_id": problem.id,
        "sample": sample,
        "question": problem.question,
        "prompt": prompt,
        "response": text,
        "gold": problem.answer,
        "finish_reason": completion.finish_reason,
        "length": len(completion.token_ids),
        "log_prob": completion.log_prob,
    }
