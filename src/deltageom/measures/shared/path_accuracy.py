"""What the models on the path between two deltas answer: alpha dW_a + (1 - alpha) dW_b, in one loaded model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deltageom.generation.engine import Sampling
from deltageom.generation.engines.transformers import TransformersEngine
from deltageom.generation.generate import complete, longest, requests
from deltageom.grading import graders, second_opinion
from deltageom.grading.answers import as_said
from deltageom.measures.shared.losses.weighted_deltas import WeightedDeltas
from deltageom.measures.shared.settings import HeldOutAccuracySettings
from deltageom.models.load import context_length, load_tokenizer
from deltageom.models.prompts import end_tokens, prompt_ids
from deltageom.problems.problem import Problem

Row = dict[str, Any]


def correct_along_paths(
    settings: HeldOutAccuracySettings,
    base: str,
    a: Path,
    others: Mapping[str, Path | None],
    problems: Sequence[Problem],
) -> list[Row]:
    """One row per path, alpha and problem: b, alpha (weight of a), problem_id, correct (1 or 0).

    Answers are greedy, by transformers in this process, and graded as evaluations are. others: names to folders, None
    for the base itself. Raises UserError if a prompt and max_tokens are more than the model's context.
    """
    wanted, tokenizer = settings.held_out_accuracy, load_tokenizer(base, settings.base)
    prompts = [prompt_ids(tokenizer, settings.prompt, problem.question, settings.thinking) for problem in problems]
    longest(prompts, settings.max_tokens, context_length(base, settings.base), "measures.held_out_paths.accuracy")
    asked = requests(problems, prompts, 1, seed=0)
    greedy = Sampling(temperature=0.0, top_p=1.0, top_k=0, max_tokens=settings.max_tokens, log_probs=False)
    limits = wanted.batch_size, settings.transformers.batch_tokens
    deltas = WeightedDeltas(base, settings.base, settings.device)
    deltas.add("a", a)
    rows: list[Row] = []
    said: list[second_opinion.Pair] = []
    for b, folder in others.items():
        with deltas.beside("b", folder):
            for alpha in wanted.alphas:
                model = deltas.weigh({"a": alpha, "b": 1 - alpha})
                ends = end_tokens(tokenizer, model.generation_config)
                made = complete(TransformersEngine(model, tokenizer.pad_token_id, ends, *limits), asked, greedy)
                for problem, prompt, one in zip(problems, prompts, made, strict=True):
                    response = tokenizer.decode(list(one.token_ids), skip_special_tokens=True)
                    said.append((as_said(tokenizer.decode(prompt), response, one.finish_reason), problem.answer))
                    rows.append({"b": b, "alpha": alpha, "problem_id": problem.id})
    judge = second_opinion.judge if settings.grader == "math_verify" else None
    verdicts = graders.grade(said, judge, settings.grader)
    return [row | {"correct": int(verdict.correct)} for row, verdict in zip(rows, verdicts, strict=True)]
