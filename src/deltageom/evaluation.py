"""Answers of one model to every benchmark: one engine start, one record an item. They are graded elsewhere."""

from pathlib import Path
from typing import Any

from deltageom import engines, generation, models
from deltageom.generation import Job
from deltageom.jobs import EvaluationSettings
from deltageom.records import Problem, write_jsonl


def evaluate(
    settings: EvaluationSettings,
    base: str,
    adapter: Path | None,
    benchmarks: dict[str, list[Problem]],
    output: Path,
    job: Job,
) -> dict[str, dict[str, int]]:
    """Writes `output`/<benchmark>.jsonl, and returns each benchmark's counts. `adapter` None evaluates the base."""
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
        base, settings.base, settings.device, adapter, wanted.batch_size, max(lengths), settings.vllm, lora=True
    )
    decodings = [settings.decodings[name] for name in benchmarks]
    asked = [
        (generation.requests(problems, prompts[name], decoding.samples, decoding.seed), engines.sampling_of(decoding))
        for (name, problems), decoding in zip(benchmarks.items(), decodings, strict=True)
    ]
    counts, done = {}, []
    for (name, problems), decoding, (made, shards) in zip(
        benchmarks.items(), decodings, generation.run(wanted.engine, setup, asked, job), strict=True
    ):
        shown = [tokenizer.decode(prompt) for prompt in prompts[name]]
        texts = [tokenizer.decode(list(one.token_ids), skip_special_tokens=True) for one in made]
        places = [(number, sample) for number in range(len(problems)) for sample in range(decoding.samples)]
        records = [
            _record(problems[number], sample, shown[number], text, one)
            for (number, sample), text, one in zip(places, texts, made, strict=True)
        ]
        write_jsonl(output / f"{name}.jsonl", records)
        counts[name] = {"completions": len(made), "truncated": sum(one.finish_reason == "length" for one in made)}
        done.append(shards)
    for shards in done:  # not before: of a job that is killed Snakemake keeps no benchmark
        shards.remove()
    return counts


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
