"""What each file and the command line say: YAML, merged layer by layer."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from deltageom.errors import UserError

Tree = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """One file's, or the command line's, say in the study."""

    origin: str
    tree: Tree


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
