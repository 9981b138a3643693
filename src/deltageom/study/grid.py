"""Expand a study's `grid`: each of its entries stands for one run per combination of the values in its lists."""

import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from deltageom.errors import UserError
from deltageom.methods import interface as methods
from deltageom.study.schema import Training

SHORT = {"learning_rate": "lr", "init_seed": "init"}  # in run names; other keys stand as they are

Tree = dict[str, Any]
Key = tuple[str, ...]  # ("lora", "init_seed")


def expand(grid: Mapping[str, Any], taken: Collection[str]) -> dict[str, tuple[str, Tree]]:
    """Run name -> the entry that it comes from, and the run's keys, each list replaced by one of its values.

    A name is the entry's and, axis by axis in the order written, what the key is called and its value:
    `sft-lr0.002-init42`. An entry that is null, a removed one, is left out. Raises UserError for an entry without an
    axis, an axis whose values are none, equal or not plain, and a name that is among `taken`.
    """
    runs: dict[str, tuple[str, Tree]] = {}
    for entry, given in grid.items():
        if given is None:
            continue
        if not isinstance(given, dict):
            raise UserError(f"grid.{entry}: write it as a run, {{method: NAME, KEY: [VALUE, ...], ...}}")
        axes = [_labelled(entry, key, values) for key, values in _axes(given, _models(given))]
        if not axes:
            raise UserError(f"grid.{entry}: no key has a list of values, so it is one run: write it under `runs`")
        for point in itertools.product(*axes):
            run, name = given, str(entry)
            for key, value, label in point:
                run, name = _with(run, key, value), f"{name}-{label}"
            if name in taken or name in runs:
                where = f"grid.{runs[name][0]}" if name in runs else "`runs`"
                raise UserError(f"grid.{entry}: its run {name!r} is already in {where}: rename one of them")
            runs[name] = (entry, run)
    return runs


def _models(given: Tree) -> list[type[BaseModel]]:
    """What a run's keys are fields of: the training, and the options of its method or methods."""
    method = given.get("method")
    asked = method if isinstance(method, list) else [method]
    return [Training, *(methods.load(name).options for name in methods.names() if name in asked)]


def _axes(tree: Tree, models: list[type[BaseModel]], above: Key = ()) -> Iterator[tuple[Key, list[Any]]]:
    for key, value in tree.items():
        path = (*above, key)
        if isinstance(value, dict):
            yield from _axes(value, models, path)
        elif isinstance(value, list) and (not _takes_list(models, path) or any(isinstance(v, list) for v in value)):
            yield path, value


def _takes_list(models: list[type[BaseModel]], path: Key) -> bool:
    """Whether a list is one value of the key at `path`."""
    annotations: list[Any] = list(models)
    for part in path:
        fields = [a.model_fields for a in annotations if isinstance(a, type) and issubclass(a, BaseModel)]
        annotations = [f.annotation for known in fields for name, f in known.items() if part in (name, f.alias)]
    return any(_holds_list(annotation) for annotation in annotations)


def _holds_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(_holds_list(part) for part in get_args(annotation))


def _labelled(entry: str, key: Key, values: list[Any]) -> list[tuple[Key, Any, str]]:
    """Each value of an axis with its part of the run's name."""
    where = f"grid.{entry}.{'.'.join(map(str, key))}"
    if not values:
        raise UserError(f"{where}: the list is empty: give the values to try, or one value without brackets")
    short = SHORT.get(key[-1], key[-1])
    labels: dict[str, Any] = {}
    for value in values:
        if isinstance(value, dict):
            raise UserError(f"{where}: the list holds {value!r}: give numbers, words or lists, which can be named")
        label = re.sub(r"[^A-Za-z0-9._-]", "_", f"{short}{_text(value)}")
        if label in labels:
            raise UserError(
                f"{where}: {labels[label]!r} and {value!r} would both be the run ...-{label}: "
                "give each value once, told apart by six digits"
            )
        labels[label] = value
    return [(key, value, label) for label, value in labels.items()]


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "_".join(_text(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _with(tree: Tree, key: Key, value: Any) -> Tree:
    head, *rest = key
    return {**tree, head: _with(tree[head], tuple(rest), value) if rest else value}
