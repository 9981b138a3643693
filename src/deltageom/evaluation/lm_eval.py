"""lm-evaluation-harness's sample logs: graded records written as one, and one read as records of scores.

The shape is that of lm-eval 0.4.13: `evaluator.evaluate` makes the samples, `EvaluationTracker.save_results_samples`
writes them, `result_schema.SampleResult` describes them. A line is a problem; its k samples are the k entries of its
one request's `resps`.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from deltageom.errors import UserError
from deltageom.files import read_jsonl

METRIC = "exact_match"
FILTER = "strict"  # what made `filtered_resps`: the strict grader's extraction
INVALID = "[invalid]"  # what lm-eval's own filters give where there is no answer

_FIELDS = {
    "problem_id": str,
    "sample": int,
    "question": str,
    "prompt": str,
    "response": str,
    "gold": str,
    "extracted": str | None,
    "correct": bool,
}
_SHARED = ("question", "prompt", "gold")  # by all samples of a problem


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file that `deltageom grade` wrote. Raises UserError naming the line's number that is none."""
    records = read_jsonl(path)
    if not records:
        raise UserError(f"{path}: holds no records")
    for number, record in enumerate(records, 1):
        for field, kind in _FIELDS.items():
            if field not in record or not isinstance(record[field], kind):
                raise UserError(
                    f"{path}, record {number}: {field} is missing or of a wrong type: give the graded records, as "
                    "`deltageom grade` writes them"
                )
    return records


def samples(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line per problem, in the order in which the problems come; `exact_match` is the share of correct samples.

    `filtered_resps` holds an answer a problem where every problem has one sample, else a list of k: as lm-eval's
    filters `take_first` and `take_first_k` leave them. Raises UserError for two records of one sample, and for samples
    of one problem that differ in question, prompt or gold answer.
    """
    groups: dict[str, dict[int, Mapping[str, Any]]] = {}
    for record in records:
        group = groups.setdefault(record["problem_id"], {})
        where = f"problem {record['problem_id']!r}, sample {record['sample']}"
        if record["sample"] in group:
            raise UserError(f"{where}: two records; export each model and benchmark from a file of its own")
        for field in _SHARED:
            if group and record[field] != next(iter(group.values()))[field]:
                raise UserError(f"{where}: another {field} than in this problem's first record: grade one evaluation")
        group[record["sample"]] = record
    ordered = [[group[sample] for sample in sorted(group)] for group in groups.values()]
    single = all(len(group) == 1 for group in ordered)
    return [_line(number, group, single) for number, group in enumerate(ordered)]


def is_log(lines: Sequence[Mapping[str, Any]]) -> bool:
    return bool(lines) and all("doc_id" in line and "problem_id" not in line for line in lines)


def scored(
    lines: Sequence[Mapping[str, Any]], name: str, metric: str | None = None, chosen: str | None = None
) -> list[dict[str, Any]]:
    """A sample log as records with problem_id, sample and correct, for `scores.read`.

    A problem is known by our own problem_id, else by its doc_hash, else by its doc_id. `metric`: the field that says
    what is correct; without it exact_match, or the only one that the log names. `chosen`: the filter, where the log has
    lines of several. A share of k samples becomes as many correct ones, in no order. Raises UserError, with `name` for
    the log, where one of these is not to be found, or a metric is no share of the samples.
    """
    filters = list(dict.fromkeys(str(line.get("filter", "none")) for line in lines))
    if chosen is None and len(filters) > 1:
        raise UserError(f"{name}: has the answers by {len(filters)} filters, {', '.join(filters)}: choose by --filter")
    if chosen is not None and chosen not in filters:
        raise UserError(f"{name}: has no filter {chosen[:80]!r}; it has {', '.join(filters)}")
    kept = [line for line in lines if chosen is None or str(line.get("filter", "none")) == chosen]
    return [
        {"problem_id": _problem(line), "sample": sample, "correct": sample < correct}
        for number, line in enumerate(kept, 1)
        for correct, of in [_correct(line, metric, f"{name}: line {number}")]
        for sample in range(of)
    ]


def _problem(line: Mapping[str, Any]) -> str:
    document = line.get("doc")
    own = document.get("problem_id") if isinstance(document, Mapping) else None
    return str(own if own is not None else line.get("doc_hash", line["doc_id"]))


def _correct(line: Mapping[str, Any], metric: str | None, where: str) -> tuple[int, int]:
    """How many of the problem's samples are correct, and how many it has."""
    named = [str(name) for name in line.get("metrics", [])]
    wanted = metric or (METRIC if METRIC in line or len(named) != 1 else named[0])
    if wanted not in line:
        raise UserError(f"{where}: no metric {wanted!r}; it has {', '.join(named) or 'none'}: choose by --metric")
    answers, value = line.get("filtered_resps"), line[wanted]
    of = len(answers[0]) if isinstance(answers, list) and answers and isinstance(answers[0], list) else 1
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1 or abs(value * of - round(value * of)) > 1e-6:
        samples = "1 sample" if of == 1 else f"{of} samples"
        raise UserError(f"{where}: {wanted} is {str(value)[:40]!r}, which is no share of {samples}: choose by --metric")
    return round(value * of), of


def file_name(task: str, at: datetime) -> str:
    """`samples_<task>_<date>.jsonl`, the task's name as lm-eval sanitises it."""
    return f"samples_{sanitised_task(task)}_{at.isoformat().replace(':', '-')}.jsonl"


def sanitised_task(task: str) -> str:
    return re.sub(r"\W", "_", task)


def sanitised_model(model: str) -> str:
    """The name of lm-eval's folder for a model."""
    return re.sub(r"[\"<>:/|\\?*\[\]]+", "__", model)


def _line(number: int, group: Sequence[Mapping[str, Any]], single: bool) -> dict[str, Any]:
    first = group[0]
    document = {"problem_id": first["problem_id"], "question": first["question"], "answer": first["gold"]}
    answers = [INVALID if record["extracted"] is None else record["extracted"] for record in group]
    return {
        "doc_id": number,
        "doc": document,
        "target": first["gold"],
        "arguments": {"gen_args_0": {"arg_0": first["prompt"], "arg_1": {"until": []}}},
        "resps": [[record["response"] for record in group]],
        "filtered_resps": answers if single else [answers],
        "filter": FILTER,
        "metrics": [METRIC],
        "doc_hash": _hash(json.dumps(document, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(first["prompt"]),
        "target_hash": _hash(first["gold"]),
        METRIC: sum(record["correct"] for record in group) / len(group),
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
