"""What the sample browser shows: completions of every model, beside each other, problem by problem.

A model wrote these texts. The page shows them as text nodes; here they are cut, and what is invisible is made visible.
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import pvariance
from typing import Any

from deltageom.files import read_jsonl
from deltageom.grading.records import case

HEAD, TAIL = 1500, 2500  # characters of a completion that is longer than both: its answer is at its end
ASKED = 4000  # characters of a question
ALL_TEXT = 4_000_000  # characters of all completions of a page; compressed, about a third
MARKS = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "\u2421",
    **{code: f"\u27e8U+{code:04X}\u27e9" for code in (*range(0x80, 0xA0), 0x61C, 0x200E, 0x200F, 0xFEFF)},
    **{code: f"\u27e8U+{code:04X}\u27e9" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))},
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
    0x2028: "\n",
    0x2029: "\n",
}

Graded = Mapping[tuple[str, str], Path]
Record = dict[str, Any]


def samples(graded: Graded) -> dict[str, Any]:
    """By benchmark: its models, and its problems with an entry per model: see `_entry`. `all`: how many problems there
    are, `differ`: on how many of them not all models do equally well, `samples`: completions per problem.

    Of several completions per problem the first one is shown, with how many are correct. Problems come with those
    first on which the models differ most; as many as ALL_TEXT holds, in equal parts to the benchmarks.
    """
    names = list(dict.fromkeys(benchmark for _, benchmark in graded))
    return {name: _benchmark(_of(graded, name), ALL_TEXT // len(names)) for name in names}


def visible(text: str) -> str:
    """Control characters, marks of direction and halves of surrogate pairs as signs that can be seen."""
    return text.translate(MARKS)


def _of(graded: Graded, benchmark: str) -> dict[str, Path]:
    return {model: path for (model, name), path in graded.items() if name == benchmark}


def _benchmark(paths: Mapping[str, Path], budget: int) -> dict[str, Any]:
    scores = {model: _scores(path) for model, path in paths.items()}
    every = dict.fromkeys(problem for of in scores.values() for problem in of)
    shares = {
        problem: [sum(of[problem]) / len(of[problem]) for of in scores.values() if problem in of] for problem in every
    }
    wanted = sorted(every, key=lambda problem: -pvariance(shares[problem]))  # stable: the file's order among equals
    entries: dict[str, dict[str, Any]] = {problem: {"id": problem, "of": [None] * len(paths)} for problem in wanted}
    cost = dict.fromkeys(wanted, 0)
    for at, (model, path) in enumerate(paths.items()):
        for row in read_jsonl(path):
            if row["sample"] == 0:
                problem = str(row["problem_id"])
                entries[problem] |= {"question": _cut(str(row.get("question", "")), ASKED, 0)["text"]}
                entries[problem] |= {"gold": visible(str(row["gold"]))[:200]}
                entries[problem]["of"][at] = _entry(row, scores[model][problem])
                cost[problem] += min(len(str(row.get("response", ""))), HEAD + TAIL) + 200
    shown: list[dict[str, Any]] = []
    for problem in wanted:
        budget -= cost[problem]
        if budget < 0 and shown:
            break
        shown.append(entries[problem])
    return {
        "models": list(paths),
        "problems": shown,
        "all": len(every),
        "differ": sum(len(set(of)) > 1 for of in shares.values()),
        "samples": max((len(verdicts) for of in scores.values() for verdicts in of.values()), default=1),
    }


def _entry(row: Record, verdicts: list[bool]) -> dict[str, Any]:
    """text (its end after `left` characters that are left out), and what both graders say."""
    said = {None: "no verdict", True: "correct", False: "wrong"}
    strict = said[row["strict"]] if row["strict"] is not None else "does not read the gold answer"
    other = (
        said[row["math_verify"]] if row["math_verify"] is not None else str(row["math_verify_failure"] or said[None])
    )
    return _cut(str(row.get("response", "")), HEAD, TAIL) | {
        "correct": bool(row["correct"]),
        "right": sum(verdicts),
        "strict": strict,
        "reason": str(row["reason"]),
        "math_verify": other,
        "extracted": visible(str(row["extracted"]))[:200] if row["extracted"] is not None else None,
        "finish": str(row["finish_reason"]),
        "tokens": int(row["length"]),
        "apart": case(row) in ("strict_alone", "math_verify_alone"),
    }


def _cut(text: str, head: int, tail: int) -> dict[str, Any]:
    if len(text) <= head + tail:
        return {"text": visible(text)}
    end = {"end": visible(text[len(text) - tail :])} if tail else {}
    return {"text": visible(text[:head]), "left": len(text) - head - tail} | end


def _scores(path: Path) -> dict[str, list[bool]]:
    """Whether each completion is correct, by problem in the file's order."""
    found: dict[str, list[bool]] = {}
    for row in read_jsonl(path):
        found.setdefault(str(row["problem_id"]), []).append(bool(row["correct"]))
    return found
