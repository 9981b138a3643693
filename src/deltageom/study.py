"""Read a study: config.yaml's defaults, the chain of `extends`, the command line; merge, validate, explain.

Imports nothing heavier than pydantic and PyYAML, for the Snakemake process reads the study on every start.
"""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from deltageom import grid, model_files
from deltageom.errors import UserError
from deltageom.methods import interface as methods
from deltageom.resolved import Study
from deltageom.schema import EMBEDDED, NAME, Training

Tree = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """One file's, or the command line's, say in the study."""

    origin: str
    tree: Tree


def load_study(config: Mapping[str, Any] | None = None, root: Path = Path(), overrides: Sequence[Layer] = ()) -> Study:
    """The resolved study of the project folder `root`.

    `config` and then `overrides` stand above the study, the last one on top: what they say counts, also where it
    equals a default. Raises UserError naming file or option, key and fix; also where base.layers is not what the base
    has, as far as its config.json is on this machine.
    """
    defaults = Layer("config.yaml", read_yaml(root / "config.yaml"))
    above = [Layer("--config", dict(config or {})), *overrides]
    name = next((layer.tree["study"] for layer in [*reversed(above), defaults] if "study" in layer.tree), None)
    study = _resolve(name, [defaults, *_inherited(name, root), *above])
    base = study.base
    config = {} if base.model == EMBEDDED else model_files.config(base.model, base.revision, root)
    model_files.check_layers(base, study.embedded.layers if base.model == EMBEDDED else model_files.layers(config))
    return study


def told(files: Iterable[Path], arguments: Iterable[str]) -> list[Layer]:
    """What Snakemake was told beside the study: each `--configfile`, then all of `--config KEY=VALUE`.

    Values are read as YAML, so that nested numbers, booleans and nulls have their types. Raises UserError.
    """
    layers = [Layer(f"--configfile {path}", read_yaml(path)) for path in files]
    for layer in layers:
        if "extends" in layer.tree:
            raise UserError(
                f"{layer.origin}: extends: only a study extends another: put the file into studies/ and run it with "
                "--config study=NAME"
            )
    tree: Tree = {}
    for argument in arguments:
        key, _, text = argument.partition("=")
        try:
            tree = merge(tree, {key: yaml.load(text, Loader=_UniqueKeys)})
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"--config {argument}: the value is not YAML ({reason}): write it as 'training={{steps: 3}}'"
            ) from None
    return [*layers, Layer("--config", tree)]


def read_yaml(path: Path) -> Tree:
    """A YAML file whose top level is a mapping. Raises UserError if it is missing, malformed or has a key twice."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: the top level must be keys and values")
    return tree


def merge(under: Any, over: Any) -> Any:
    """`over` on top of `under`, mapping by mapping; a null in `over` replaces whatever is below."""
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return {**under, **{key: merge(under.get(key), value) for key, value in over.items()}}


def settings(*models: BaseModel | None, **values: Any) -> str:
    """Plain values as canonical JSON, so that equal settings are equal strings whatever the order of their keys."""
    plain = {
        key: value.model_dump(mode="json") if isinstance(value, BaseModel) else value for key, value in values.items()
    }
    for model in models:
        plain |= model.model_dump(mode="json") if model else {}
    return json.dumps(plain, sort_keys=True)


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys in silence: a run written twice would vanish."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *anchor`: keys beside it override those merged
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _inherited(name: Any, root: Path) -> list[Layer]:
    """The study's own file and those it extends, the farthest ancestor first."""
    chain: list[Layer] = []
    names: list[str] = []
    while name is not None:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UserError(f"study name {name!r}: use A-Z a-z 0-9 . _ - and begin with a letter or digit")
        if name in names:
            raise UserError(f"studies/{name}.yaml: extends itself by way of {' -> '.join([*names, name])}")
        path = root / "studies" / f"{name}.yaml"
        if not path.is_file():
            known = sorted(p.stem for p in (root / "studies").glob("*.yaml"))
            where = f" (extended by studies/{names[-1]}.yaml)" if names else ""
            raise UserError(
                f"unknown study {name!r}{where}: there is no studies/{name}.yaml; "
                f"known: {', '.join(known) or 'none'}{_near(name, known)}"
            )
        tree = read_yaml(path)
        names.append(name)
        chain.append(Layer(f"studies/{name}.yaml", tree))
        name = tree.pop("extends", None)
    if not chain:
        raise UserError("config.yaml: `study` names no study; set it, or pass --config study=NAME")
    return chain[::-1]


def _resolve(name: Any, layers: list[Layer]) -> Study:
    tree: Tree = {}
    for layer in layers:
        _check_sections(layer, layers[0].tree)
        tree = merge(tree, layer.tree)
    tree = {**tree, "study": name}
    tree.pop("extends", None)
    dataset, option_defaults, training = tree.pop("dataset"), tree.pop("methods"), tree.pop("training")
    benchmark = dataset | tree.pop("decoding")
    tree["problems"] = merge(dataset, tree["problems"])
    benchmarks = {key: value for key, value in tree["benchmarks"].items() if value is not None}
    tree["benchmarks"] = {key: merge(benchmark, value) for key, value in benchmarks.items()}
    expanded = grid.expand(tree.pop("grid"), tree["runs"])
    entries = {run: entry for run, (entry, _) in expanded.items()}
    runs = {key: value for key, value in tree["runs"].items() if value is not None}
    runs |= {run: given for run, (_, given) in expanded.items()}
    problems = [
        f"methods.{key}: unknown method; known: {', '.join(methods.names())}{_near(key, methods.names())}"
        for key in option_defaults
        if key not in methods.names()
    ]
    resolved = {
        key: _run(_place(key, entries), value, training, option_defaults, problems) for key, value in runs.items()
    }
    problems += _errors(Training, training, "training", layers)
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    # in the order of config.yaml's methods, then by name: a study's own order of keys changes nothing
    order = list(option_defaults)
    tree["runs"] = dict(
        sorted(
            resolved.items(),
            key=lambda item: (
                order.index(item[1]["method"]) if item[1]["method"] in order else len(order),
                str(item[0]),
            ),
        )
    )
    try:
        return Study.model_validate(tree)
    except ValidationError as error:
        raise UserError("\n".join(dict.fromkeys(_explain(error, Study, "", layers, entries)))) from None


def _check_sections(layer: Layer, defaults: Tree) -> None:
    for key, value in layer.tree.items():
        if isinstance(defaults.get(key), dict) and not isinstance(value, dict):
            raise UserError(f"{layer.origin}: {key}: is a section of keys and values; got {value!r}")


def _place(run: str, entries: Mapping[str, str]) -> str:
    """Where a run stands in the study: `runs.NAME`, or its entry of the grid."""
    return f"grid.{entries[run]}" if run in entries else f"runs.{run}"


def _run(place: str, given: Any, training: Tree, option_defaults: Tree, problems: list[str]) -> Any:
    """A run's settings: its keys that the method names are options, the others override `training`."""
    if not isinstance(given, dict) or not isinstance(given.get("method"), str):
        problems.append(f"{place}: write the run as {{method: NAME, ...}}")
        return given
    method = given["method"]
    if method not in methods.names():
        known = methods.names()
        problems.append(f"{place}.method: unknown method {method!r}; known: {', '.join(known)}{_near(method, known)}")
        return given
    options_model = methods.load(method).Options
    fields = {field.alias or key for key, field in options_model.model_fields.items()}
    options = dict(option_defaults.get(method) or {})
    overrides: Tree = {}
    for key, value in given.items():
        if key == "method":
            continue
        if key in fields:
            options[key] = value
        elif key in training:
            overrides[key] = value
        else:
            known = sorted({*fields, *training})
            problems.append(
                f"{place}.{key}: unknown key; a run takes method, any key of `training`"
                f"{_options_hint(method, fields)}{_near(key, known)}"
            )
    try:
        options_model.model_validate(options)
    except ValidationError as error:
        problems += [f"{'.'.join(map(str, (place, *e['loc'][:1])))}: {_message(e)}" for e in error.errors()]
    return {"method": method, "options": options, "training": merge(training, overrides)}


def _options_hint(method: str, fields: set[str]) -> str:
    return f", or an option of {method} ({', '.join(sorted(fields))})" if fields else f" ({method} has no options)"


def _errors(model: type[BaseModel], tree: Any, prefix: str, layers: list[Layer]) -> list[str]:
    try:
        model.model_validate(tree)
    except ValidationError as error:
        return _explain(error, model, prefix, layers, {})
    return []


def _explain(
    error: ValidationError, model: type[BaseModel], prefix: str, layers: list[Layer], entries: Mapping[str, str]
) -> list[str]:
    """A line an error; `entries` are the grid's, by the runs that they were expanded to."""
    lines = []
    for detail in error.errors():
        path = [p for p in [prefix, *map(str, detail["loc"])] if p]
        shown = [p for i, p in enumerate(path) if not (path[0] == "runs" and i == 2 and p == "training")]
        if path[0:1] == ["runs"] and len(path) > 1 and path[1] in entries:
            shown[:2] = ["grid", entries[path[1]]]
        origin = next((layer.origin for layer in reversed(layers) if _has(layer.tree, shown)), None)
        text = _message(detail)
        if detail["type"] == "extra_forbidden":
            beside = _keys_beside(model, [p for p in path if p != prefix]) if len(path) > 1 else list(layers[0].tree)
            text += _near(path[-1], beside)
        elif named := [run for run in entries if repr(run) in text or f"runs.{run}." in text]:
            text += f" ({', '.join(f'{run} is a run of grid.{entries[run]}' for run in named)})"
        where = f"{origin}: " if origin else ""
        lines.append(f"{where}{'.'.join(shown)}: {text}" if shown else f"{where}{text}")
    return lines


def _message(detail: Mapping[str, Any]) -> str:
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


def _near(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
