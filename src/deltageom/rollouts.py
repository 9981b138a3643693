"""Sample the completions that every run is trained on, and write them as one table."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deltageom import completions, engines, generation, models
from deltageom.generation import Job
from deltageom.jobs import RolloutSettings
from deltageom.records import Problem, whole_file


def sample(
    settings: RolloutSettings, base: str, generator: str, problems: list[Problem], output: Path, job: Job
) -> dict[str, int]:
    """Writes the completions of all problems, in their order; returns counts of what was written.

    Token ids are the base's: where the generator has another vocabulary its text is encoded anew, and the log-probs of
    single tokens, which belong to its own, are left out.
    """
    wanted = settings.rollouts
    own = models.load_tokenizer(base, settings.base)
    # a revision names the base's commit, no other model's
    model = settings.base if generator == base else settings.base.model_copy(update={"revision": None})
    tokenizer = models.load_tokenizer(generator, model)
    prompts = [models.prompt_ids(tokenizer, settings.prompt, problem.question, wanted.thinking) for problem in problems]
    length = generation.longest(prompts, wanted.max_tokens, models.context_length(generator, model), "rollouts")
    setup = job.setup(
        generator, model, settings.device, None, wanted.batch_size, length, settings.vllm, settings.transformers
    )
    asked = generation.requests(problems, prompts, wanted.samples, wanted.seed)
    ((made, shards),) = generation.run(wanted.engine, setup, [(asked, engines.sampling_of(wanted))], job)

    same = tokenizer.get_vocab() == own.get_vocab()
    texts = [tokenizer.decode(list(one.token_ids), skip_special_tokens=True) for one in made]
    tokens = [
        one.token_ids if same else models.completion_ids(own, text, one.finish_reason == "stop")
        for one, text in zip(made, texts, strict=True)
    ]
    of_base = [models.prompt_ids(own, settings.prompt, problem.question, wanted.thinking) for problem in problems]
    columns: dict[str, Any] = {
        "problem_id": [problem.id for problem in problems for _ in range(wanted.samples)],
        "sample": list(range(wanted.samples)) * len(problems),
        "text": texts,
        "prompt_token_ids": [prompt for prompt in of_base for _ in range(wanted.samples)],
        "token_ids": tokens,
        "log_prob": [sum(one.token_log_probs) for one in made],
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


def write(columns: dict[str, Any], tokenizer: models.Tokenizer, output: Path) -> None:
    """A table of completions.SCHEMA that says whose token ids it has."""
    schema = completions.SCHEMA.with_metadata({models.VOCABULARY: models.vocabulary_digest(tokenizer)})
    with whole_file(output) as aside:
        pq.write_table(pa.table(columns, schema=schema), aside)
