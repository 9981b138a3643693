"""Sample the completions that every run is trained on, and write them as one table."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deltageom.files import whole_file
from deltageom.generation import parts
from deltageom.generation.engine import sampling_of
from deltageom.generation.generate import Job, generate, generate_part, longest, requests
from deltageom.models.load import context_length, load_tokenizer
from deltageom.models.prompts import VOCABULARY, Tokenizer, completion_ids, prompt_ids, turn_end, vocabulary_digest
from deltageom.problems.problem import Problem
from deltageom.rollouts import completions
from deltageom.study.settings import RolloutSettings


def sample(
    settings: RolloutSettings, base: str, generator: str, problems: list[Problem], output: Path, job: Job
) -> dict[str, int]:
    """Writes the completions of all problems, in their order; returns counts of what was written.

    One of several jobs writes nothing: it keeps its part in `job.scratch`, for the job that writes all.

    Token ids are the base's: where the generator has another vocabulary its text is encoded anew, and the log-probs of
    single tokens, which belong to its own, are left out.
    """
    wanted = settings.rollouts
    own = load_tokenizer(base, settings.base)
    # a revision names the base's commit, no other model's
    model = settings.base if generator == base else settings.base.model_copy(update={"revision": None})
    tokenizer = load_tokenizer(generator, model)
    prompts = [prompt_ids(tokenizer, settings.prompt, problem.question, wanted.thinking) for problem in problems]
    length = longest(prompts, wanted.max_tokens, context_length(generator, model), "rollouts")
    setup = job.setup(
        generator, model, settings.device, None, wanted.batch_size, length, settings.vllm, settings.transformers
    )
    asked = [(requests(problems, prompts, wanted.samples, wanted.seed), sampling_of(wanted, wanted.log_probs))]
    parts.check(job.parts, len(problems), "rollouts")
    if job.part:
        return {"rollouts": generate_part(wanted.engine, setup, asked, job)}
    ((made, shards),) = generate(wanted.engine, setup, asked, job)

    same, end = tokenizer.get_vocab() == own.get_vocab(), turn_end(own)
    texts = [tokenizer.decode(list(one.token_ids), skip_special_tokens=True) for one in made]
    tokens = [
        one.token_ids if same else completion_ids(own, text, end if one.finish_reason == "stop" else None)
        for one, text in zip(made, texts, strict=True)
    ]
    of_base = [prompt_ids(own, settings.prompt, problem.question, wanted.thinking) for problem in problems]
    columns: dict[str, Any] = {
        "problem_id": [problem.id for problem in problems for _ in range(wanted.samples)],
        "sample": list(range(wanted.samples)) * len(problems),
        "text": texts,
        "prompt_token_ids": [prompt for prompt in of_base for _ in range(wanted.samples)],
        "token_ids": tokens,
        "log_prob": [one.log_prob for one in made],
        "token_log_probs": [one.token_log_probs if same else None for one in made],
        "finish_reason": [one.finish_reason for one in made],
    }
    write(columns, own, output)
    shards.remove()
    return {
        "problems": len(problems),
        "rollouts": len(made),
        "truncated": sum(one.finish_reason == "length" for one in made),
    }


def write(columns: dict[str, Any], tokenizer: Tokenizer, output: Path) -> None:
    """A table of completions.SCHEMA that says whose token ids it has."""
    schema = completions.SCHEMA.with_metadata({VOCABULARY: vocabulary_digest(tokenizer)})
    with whole_file(output) as aside:
        pq.write_table(pa.table(columns, schema=schema), aside)
