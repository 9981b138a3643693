"""The Hugging Face dataset card (README.md) of a study's rollouts: what the file holds, and how it was made."""

import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import DatasetCardData

from deltageom.text import escape

FILE = "rollouts.parquet"

COLUMNS = {
    "problem_id": "the problem's id in the problem set",
    "sample": "number of the completion among those of its problem, from 0; -1 for a reference solution",
    "source": "`rollout`, or `reference`: the problem set's own worked solution, not sampled",
    "text": "the completion, special tokens left out",
    "prompt_token_ids": "the prompt through the chat template, in the base's tokens",
    "token_ids": "the completion in the base's tokens, the closing one included if it finished",
    "log_prob": "nats, summed over the completion under the sampling policy; null where it is not known",
    "token_log_probs": "the same for each token; null also where the generator has another tokenizer",
    "finish_reason": "`stop`, `length` (cut off at the token limit) or `reference`",
    "length": "tokens of the completion",
    "extracted": "the final answer that was read from the text; null if there is none",
    "reward": "1 if the study's grader (see above) finds the answer equal to the gold one, else 0",
    "strict": "the verdict of the strict grader; null where the gold answer is not a rational number",
    "math_verify": "the verdict of math-verify; null where it has none",
    "math_verify_failure": "why it has none: `timeout`, `memory`, `crash` or `error`",
}

_SIZES = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]

_GRADING = r"""The strict grader reads the last balanced `\boxed{...}` after the last `</think>`, else the rest of the
line after the last `####`, never the last number, and compares exact rationals. Math-verify also reads symbolic
answers. A completion that was cut off within its thoughts has no answer for either."""
_PRIMARY = {
    "strict": "`reward` is the strict grader's verdict, wherever the two differ.",
    "math_verify": "`reward` is math-verify's verdict, wherever the two differ, and 0 where it has none.",
}

_LICENCE = """The problems and their reference solutions are their authors': the licence of the problem set applies to
them, and the terms of the generating model to the completions. This card grants nothing."""


def card(facts: Mapping[str, Any]) -> str:
    """The card as Markdown with YAML front matter.

    `facts`: study, generator, revision, file (what the rollouts were imported from, or None), engine, samples,
    temperature, top_p, top_k, max_tokens, thinking, seed, template, system,
    opening (what the template puts before the user message), grader, problems (a study's dataset
    section) and counts (problems, rollouts, correct, mixed_problems, truncated, references, graders_disagree,
    no_second_verdict, symbolic_golds, unread_golds).
    They come from a study's file: whatever they hold is shown as text. The card claims no licence.
    """
    rows = facts["counts"]["rollouts"] + facts["counts"]["references"]
    front = DatasetCardData(
        pretty_name=" ".join(f"Rollouts of {facts['study']}".split()),  # a line `---` would end the front matter
        task_categories=["text-generation"],
        tags=["math", "reasoning", "rollouts"],
        size_categories=[next((name for limit, name in _SIZES if rows < limit), "n>1M")],
        # the folder holds other parquet files too, of other columns
        configs=[{"config_name": "default", "data_files": FILE}],
    )
    parts = [
        f"---\n{front.to_yaml()}\n---",
        f"# Rollouts of the study {_text(facts['study'])}",
        "Completions of math problems, graded: the data that every run of the study was trained on.",
        "## How they were made",
        _table(_imported(facts) if facts["file"] is not None else _sampled(facts), ("setting", "value")),
        "The user message; `{question}` is the problem:",
        _fenced(facts["template"]),
        *(["The system message:", _fenced(facts["system"])] if facts["system"] is not None else []),
        "Every prompt begins with this, by the chat template, which may have a system message of its own:",
        _fenced(facts["opening"]),
        "## The problems",
        _table(_problems(facts["problems"]), ("setting", "value")),
        _LICENCE,
        "## Counts",
        _table(_counts(facts["counts"]), ("of", "number")),
        "## How they were graded",
        f"{_GRADING} {_PRIMARY[facts['grader']]}",
        "## Columns",
        _table({f"`{name}`": meaning for name, meaning in COLUMNS.items()}, ("column", "meaning")),
    ]
    return "\n\n".join(parts) + "\n"


def _sampled(facts: Mapping[str, Any]) -> dict[str, str]:
    return {
        "generator": _text(facts["generator"]),
        "revision": "not given" if facts["revision"] is None else _text(facts["revision"]),
        "engine": _text(facts["engine"]),
        "completions a problem (K)": _text(facts["samples"]),
        "temperature": _text(facts["temperature"]),
        "top_p": "off" if facts["top_p"] == 1 else _text(facts["top_p"]),
        "top_k": "off" if facts["top_k"] == 0 else _text(facts["top_k"]),
        "most tokens": _text(facts["max_tokens"]),
        "thinking": "not set" if facts["thinking"] is None else _text(str(facts["thinking"]).lower()),
        "seed": _text(facts["seed"]),
    }


def _imported(facts: Mapping[str, Any]) -> dict[str, str]:
    return {
        "imported from": _text(facts["file"]),
        "generator and sampling": "not known here: see where the file comes from",
        "completions a problem, at most": _text(facts["samples"]),
        "thinking, in the prompt": "not set" if facts["thinking"] is None else _text(str(facts["thinking"]).lower()),
    }


def _problems(dataset: Mapping[str, Any]) -> dict[str, str]:
    source = {"toy": "made by the program", "file": "a file", "hub": "a data set on the Hugging Face hub"}
    rows = {"source": source[dataset["source"]]}
    for key in ("path", "config", "split", "revision", "limit"):
        if dataset[key] is not None:
            rows[key] = _text(dataset[key])
    return rows


def _counts(counts: Mapping[str, int]) -> dict[str, str]:
    names = {
        "problems": "problems",
        "rollouts": "rollouts",
        "correct": "rollouts that are correct",
        "mixed_problems": "problems with both correct and wrong rollouts",
        "truncated": "rollouts cut off at the token limit",
        "references": "reference solutions",
        "graders_disagree": "rollouts on which the two graders disagree",
        "no_second_verdict": "rollouts without a verdict of math-verify",
        "symbolic_golds": "problems whose gold answer the strict grader does not read",
        "unread_golds": "problems whose gold answer neither grader reads",
    }
    return {meaning: f"{counts[name]:,}" for name, meaning in names.items()}


def _text(value: Any) -> str:
    return escape(str(value)) or "(empty)"


def _table(rows: Mapping[str, str], heading: tuple[str, str]) -> str:
    lines = ["| {} | {} |".format(*heading), "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
    return "\n".join(lines)


def _fenced(text: str) -> str:
    """A code block that the text cannot close."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
