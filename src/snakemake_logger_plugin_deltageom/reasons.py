"""Snakemake's reason for a job, shortened to what an edit did."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

TEXT = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
NOW = " now: "
TEXT_OR_NOW = re.compile(f"{TEXT.pattern}|{NOW}")
CODE = re.compile(r"(\S+\.py) [0-9a-f]{12}")
PARTS = {  # how Snakemake begins each part of a reason
    "forced": "Forced execution",
    "missing": "Missing output files: ",
    "incomplete": "Incomplete output files: ",
    "updated": "Updated input files: ",
    "follows": "Input files updated by another job: ",
    "input": "Set of input files has changed since last execution",
    "code": "Code has changed since last execution",
    "params": "Params have changed since last execution: ",
    "software": "Software environment definition has changed since last execution",
}
MANY = 3  # of several changes so many are named
ABSENT = object()


def short(reason: str, made: bool, makers: Mapping[str, str]) -> str:
    """Why a job would run.

    `made`: whether any of its outputs is there. `makers`: the rule of each file that another job of the plan makes.
    """
    found = _parts(reason)
    if "missing" in found and not made:
        return "not made yet"
    own = [text for part in PARTS if part in found and (text := _one(part, found[part]))]
    if own:
        return "; ".join(own)
    rules = sorted({makers[file] for file in _files(found.get("follows", "")) if file in makers})
    return f"follows {', '.join(rules)}" if rules else reason


def path(shown: str) -> str:
    """A file as Snakemake shows it, without its remark: `easy.jsonl (update)`."""
    return re.sub(r" \([^()]*\)$", "", shown)


def _parts(reason: str) -> dict[str, str]:
    """What stands after each beginning, up to the next one; params hold any text, so they are cut out first."""
    before, begins, params = reason.partition(PARTS["params"])
    params, environment, _ = params.partition(f" ; {PARTS['software']}")
    found = {"params": params} if begins else {}
    for text in [*before.split("; "), environment.lstrip(" ;")]:
        found |= {part: text.removeprefix(begin) for part, begin in PARTS.items() if text.startswith(begin)}
    return found


def _one(part: str, body: str) -> str:
    match part:
        case "forced":
            return "forced"
        case "missing":
            return f"missing: {_some(_names(body))}"
        case "incomplete":
            return "was stopped before its end"
        case "updated":
            return f"changed: {_some(_names(body))}" if body else ""
        case "follows":
            return ""
        case "input":
            return "reads other files than before"
        case "code":
            return "its rule has changed"
        case "params":
            return _some(list(_changes(body)), "; ") or "its arguments have changed"
        case _:
            return "its environment has changed"


def _changes(body: str) -> Iterator[str]:
    """Of params before and now: changed keys of the settings, edited sources, and anything else as it stands."""
    # the first " now: " that stands in no text
    turn = next((found.start() for found in TEXT_OR_NOW.finditer(body) if found[0] == NOW), len(body))
    old, new = _texts(body[:turn]), _texts(body[turn:])
    settings = [_settings(texts) for texts in (old, new)]
    keys = dict.fromkeys(key for side in settings for key in side)
    for key in keys:
        was, is_now = (side.get(key, ABSENT) for side in settings)
        if was != is_now:
            yield f"{key}: {_value(was)} -> {_value(is_now)}"
    sources = dict.fromkeys(_source(text) for text in (*old, *new))
    yield from (f"edited {file}" for file in sources if file)
    others = [[text for text in texts if not (_source(text) or text.startswith("{"))] for texts in (old, new)]
    if any(others):
        yield f"{_some(others[0]) or '(nothing)'} -> {_some(others[1]) or '(nothing)'}"


def _source(text: str) -> str | None:
    found = CODE.fullmatch(text)
    return found[1] if found else None


def _texts(shown: str) -> list[str]:
    """The texts among the params, in the order of their letters: Snakemake shows a set."""
    return sorted(ast.literal_eval(text) for text in TEXT.findall(shown))


def _settings(texts: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        try:
            found |= _leaves("", json.loads(text)) if text.startswith("{") else {}
        except json.JSONDecodeError:
            continue
    return found


def _leaves(path: str, value: Any) -> dict[str, Any]:
    """`{"training.steps": 64, ...}`; a list is one value."""
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _leaves(f"{path}.{key}".lstrip("."), inner)
    return found


def _value(value: Any) -> str:
    return "(none)" if value is ABSENT else json.dumps(value)


def _files(body: str) -> list[str]:
    return [path(file) for file in body.split(", ") if file]


def _names(body: str) -> list[str]:
    """Without their folders, in the order of letters: Snakemake shows a set."""
    return sorted({file.rpartition("/")[2] for file in _files(body)})


def _some(items: Sequence[str], between: str = ", ") -> str:
    rest = f"{between}{len(items) - MANY} more" if len(items) > MANY else ""
    return between.join(items[:MANY]) + rest
