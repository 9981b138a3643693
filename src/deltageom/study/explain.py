"""Errors of a study in a user's words, with the file or option that holds the value: pydantic's, and old names."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from deltageom.errors import UserError
from deltageom.study.layers import Layer, Tree

# keys, values and methods of version 0.1 that have other names now
RENAMED = {"embedded": "toy", "measures.reference": "measures.compare_with"}
RENAMED_VALUES = {
    "base.model": ("embedded", "toy"),
    "source": ("embedded", "toy"),
    "statistics.family": ("reference", "compare_with"),
}
RENAMED_METHODS = {"sft_reference": "sft_solutions"}


def errors_of(model: type[BaseModel], tree: Any, prefix: str, layers: list[Layer]) -> list[str]:
    try:
        model.model_validate(tree)
    except ValidationError as error:
        return explain(error, model, prefix, layers, {})
    return []


def explain(
    error: ValidationError, model: type[BaseModel], prefix: str, layers: list[Layer], entries: Mapping[str, str]
) -> list[str]:
    """A line an error; `entries` are the grid's, by the runs that they were expanded to."""
    lines = []
    for detail in error.errors():
        path = [p for p in [prefix, *map(str, detail["loc"])] if p]
        shown = [p for i, p in enumerate(path) if not (path[0] == "runs" and i == 2 and p == "training")]
        if path[0:1] == ["runs"] and len(path) > 1 and path[1] in entries:
            shown[:2] = ["grid", entries[path[1]]]
        text = message(detail)
        origin = _origin(shown, layers) if shown else _origin_of_all(_keys_named(text), layers)
        if detail.get("input", "") is None and shown and origin == layers[0].origin:
            origin = next((layer.origin for layer in reversed(layers) if layer.origin.startswith("studies/")), origin)
            text = "is not set, and has no default"
        elif detail["type"] == "extra_forbidden":
            beside = _keys_beside(model, [p for p in path if p != prefix]) if len(path) > 1 else list(layers[0].tree)
            text += near(path[-1], beside)
        elif named := [run for run in entries if repr(run) in text or f"runs.{run}." in text]:
            text += f" ({', '.join(f'{run} is a run of grid.{entries[run]}' for run in named)})"
        where = f"{origin}: " if origin else ""
        lines.append(f"{where}{'.'.join(shown)}: {text}" if shown else f"{where}{text}")
    return lines


def located(path: list[str], text: str, layers: list[Layer]) -> str:
    """What is wrong with a key, with the file or option that says it."""
    origin = _origin(path, layers)
    return f"{f'{origin}: ' if origin else ''}{'.'.join(path)}: {text}"


def of_study(text: str, layers: list[Layer]) -> str:
    """What clashes in the whole study, with the file or option that says the first of the keys that it names."""
    origin = _origin_of_all(_keys_named(text), layers)
    return f"{origin}: {text}" if origin else text


def _origin(path: list[str], layers: list[Layer]) -> str | None:
    """The topmost layer that says it, or else what it is part of."""
    for length in range(len(path), 0, -1):
        for layer in reversed(layers):
            if _has(layer.tree, path[:length]):
                return layer.origin
    return None


def _origin_of_all(paths: list[list[str]], layers: list[Layer]) -> str | None:
    """The first of several keys' that is not the defaults': what a study says can be changed, and is what clashes."""
    origins = [origin for path in paths if (origin := _origin(path, layers))]
    return next((origin for origin in origins if origin != layers[0].origin), origins[0] if origins else None)


def _keys_named(text: str) -> list[list[str]]:
    """The keys in a message of the whole study, the one that it begins with first: `measures.cka.benchmark ...`, `run
    'sft': ...`."""
    if run := re.match(r"run '([^']+)'", text):
        return [["runs", run[1]]]
    first = re.split(r"[\s:]", text, maxsplit=1)[0]
    return [key.split(".") for key in (first, *re.findall(r"[a-z_]+(?:\.[a-z_]+)+", text))]


def message(detail: Mapping[str, Any]) -> str:
    """pydantic's message in a user's words."""
    kind, value = detail["type"], detail.get("input")
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "missing":
        return "is missing"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if isinstance(value, str | int | float | bool) or value is None:
        message = f"{message[0].lower()}{message[1:]}; got {value!r}" if "got" not in message else message
    if isinstance(value, str) and kind in ("float_type", "int_type"):
        try:
            number = float(value)
        except ValueError:
            return message
        example = repr(number) if "." in repr(number) else repr(number).replace("e", ".0e")
        message += f", which YAML reads as text: write {int(number) if kind == 'int_type' else example}"
    return message


def _keys_beside(model: Any, path: list[str]) -> list[str]:
    """The known keys where the last of `path` stands, following the models' annotations."""
    for part in path[:-1]:
        if isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(part)
            model = field.annotation if field else None
        elif getattr(model, "__origin__", None) is dict:
            model = model.__args__[1]
    if isinstance(model, type) and issubclass(model, BaseModel):
        return list(model.model_fields)
    return []


def _has(tree: Any, path: list[str]) -> bool:
    for part in path:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def near(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check_results(folder: Path) -> None:
    """Raises UserError for results of version 0.1: its settings had other names, so every job would be done again."""
    for record in (folder / "provenance.json", folder / "provenance" / "pretrain.json"):
        try:
            made_with = json.loads(record.read_bytes())["settings"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if "embedded" in made_with:
            raise UserError(
                f"{folder}: is of version 0.1, and every job would write over it: move it away to keep it, or delete it"
            )


def check_names(layer: Layer) -> None:
    """Raises UserError for a key or a value that has another name now."""
    for path, value in _walk(layer.tree):
        if path in RENAMED:
            raise UserError(f"{layer.origin}: {path}: is called {RENAMED[path]} now: rename the key")
        for key, (old, new) in RENAMED_VALUES.items():
            if value == old and (path == key or (key == "source" and path.endswith(".source"))):
                raise UserError(f"{layer.origin}: {path}: {old} is called {new} now: write that")


def _walk(tree: Tree, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every key by its dotted path, with its value."""
    for key, value in tree.items():
        path = f"{above}{key}"
        yield path, value
        if isinstance(value, dict):
            yield from _walk(value, f"{path}.")
