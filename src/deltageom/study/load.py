"""Read a study: config.yaml's defaults, the chain of `extends`, the command line; merge, validate, explain.

Imports nothing heavier than pydantic and PyYAML, for the Snakemake process reads the study on every start.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from deltageom.errors import UserError
from deltageom.fields import NAME
from deltageom.methods import interface as methods
from deltageom.study import base_config, grid
from deltageom.study.explain import RENAMED_METHODS, check_names, errors_of, explain, located, message, near, of_study
from deltageom.study.layers import Layer, Tree, merge, read_yaml
from deltageom.study.resolved import Study
from deltageom.study.schema import TOY_BASE, Training

Problem = tuple[list[str], str]  # a key's path, and what is wrong with it


def load_study(config: Mapping[str, Any] | None = None, root: Path = Path(), overrides: Sequence[Layer] = ()) -> Study:
    """The resolved study of the project folder `root`.

    `config` and then `overrides` stand above the study, the last one on top: what they say counts, also where it
    equals a default. Raises UserError naming file or option, key and fix; also where base.layers is not what the base
    has, as far as its config.json is on this machine.
    """
    defaults = Layer("config.yaml", read_yaml(root / "config.yaml"))
    above = [Layer("--config", dict(config or {})), *overrides]
    name = next((layer.tree["study"] for layer in [*reversed(above), defaults] if "study" in layer.tree), None)
    layers = [defaults, *_inherited(name, root), *above]
    study = _resolve(name, layers)
    base = study.base
    config = {} if base.model == TOY_BASE else base_config.config(base.model, base.revision, root)
    try:
        base_config.check_layers(base, study.toy.layers if base.model == TOY_BASE else base_config.layers(config))
    except UserError as error:
        raise UserError(of_study(str(error), layers)) from None
    return study


def ancestors(study: str, root: Path = Path()) -> list[Study]:
    """The studies that a study extends, the farthest first, each as its own files say, without the command line.

    One that cannot be resolved is left out: the study that extends it may be in order.
    """
    found = []
    for layer in _inherited(study, root)[:-1]:
        with suppress(UserError):
            found.append(load_study({"study": Path(layer.origin).stem}, root))
    return found


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
                f"known: {', '.join(known) or 'none'}{near(name, known)}"
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
        check_names(layer)
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
    problems: list[Problem] = [
        (["methods", str(key)], f"is called {RENAMED_METHODS[key]} now: write that")
        if key in RENAMED_METHODS
        else (["methods", str(key)], f"unknown method; known: {', '.join(methods.names())}{near(key, methods.names())}")
        for key in option_defaults
        if key not in methods.names()
    ]
    resolved = {
        key: _run(_place(key, entries), value, training, option_defaults, problems) for key, value in runs.items()
    }
    lines = [located(path, text, layers) for path, text in problems]
    lines += errors_of(Training, training, "training", layers)
    if lines:
        raise UserError("\n".join(dict.fromkeys(lines)))
    # in the order of config.yaml's methods, replays last, then by name: a study's own order of keys changes nothing
    order = list(option_defaults)
    tree["runs"] = dict(
        sorted(
            resolved.items(),
            key=lambda item: (
                item[1]["training"].get("rollouts_of") is not None,
                order.index(item[1]["method"]) if item[1]["method"] in order else len(order),
                str(item[0]),
            ),
        )
    )
    derived = {key: value for key, value in tree["derived"].items() if value is not None}
    tree["derived"] = dict(sorted(derived.items(), key=lambda item: str(item[0])))
    try:
        return Study.model_validate(tree)
    except ValidationError as error:
        raise UserError("\n".join(dict.fromkeys(explain(error, Study, "", layers, entries)))) from None


def _check_sections(layer: Layer, defaults: Tree) -> None:
    for key, value in layer.tree.items():
        if isinstance(defaults.get(key), dict) and not isinstance(value, dict):
            raise UserError(f"{layer.origin}: {key}: is a section of keys and values; got {value!r}")


def _place(run: str, entries: Mapping[str, str]) -> list[str]:
    """Where a run stands in the study: `runs`, NAME, or its entry of the grid."""
    return ["grid", entries[run]] if run in entries else ["runs", str(run)]


def _run(place: list[str], given: Any, training: Tree, option_defaults: Tree, problems: list[Problem]) -> Any:
    """A run's settings: its keys that the method names are options, the others override `training`."""
    if not isinstance(given, dict) or not isinstance(given.get("method"), str):
        problems.append((place, "write the run as {method: NAME, ...}"))
        return given
    method = given["method"]
    if method in RENAMED_METHODS:
        problems.append(([*place, "method"], f"{method} is called {RENAMED_METHODS[method]} now: write that"))
        return given
    if method not in methods.names():
        known = methods.names()
        said = f"unknown method {method!r}; known: {', '.join(known)}{near(method, known)}"
        problems.append(([*place, "method"], said))
        return given
    options_model = methods.load(method).options
    fields = {field.alias or key for key, field in options_model.model_fields.items()}
    options = _own_defaults(options_model) | dict(option_defaults.get(method) or {})
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
            said = "unknown key; a run takes method, any key of `training`"
            problems.append(([*place, str(key)], f"{said}{_options_hint(method, fields)}{near(key, known)}"))
    try:
        options_model.model_validate(options)
    except ValidationError as error:
        problems += [([*place, *map(str, e["loc"][:1])], message(e)) for e in error.errors()]
    return {"method": method, "options": options, "training": merge(training, overrides)}


def _own_defaults(model: type[BaseModel]) -> Tree:
    """Those of a method of one's own, which has no block in config.yaml."""
    fields = model.model_fields.items()
    return {
        field.alias or key: field.get_default(call_default_factory=True)
        for key, field in fields
        if not field.is_required()
    }


def _options_hint(method: str, fields: set[str]) -> str:
    return f", or an option of {method} ({', '.join(sorted(fields))})" if fields else f" ({method} has no options)"
