"""Arguments that several commands share."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from deltageom.errors import UserError

if TYPE_CHECKING:  # every command imports this file, and few need pydantic
    from pydantic import BaseModel

Settings = TypeVar("Settings", bound="BaseModel")


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", required=True, metavar="JSON", help="the study's sections that this command uses")


def add_model(parser: argparse.ArgumentParser, adapter: bool = False) -> None:
    parser.add_argument("--base", required=True, help="the base model: a folder or a hub id")
    if adapter:
        parser.add_argument("--adapter", type=Path, help="a run's folder; without it, the base itself")


def parse_settings(model: type[Settings], text: str) -> Settings:
    """The sections in `text`. Raises UserError naming the first key that does not fit."""
    from pydantic import ValidationError

    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"--settings: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def named_path(text: str) -> tuple[str, Path]:
    """NAME=PATH, as an argparse type."""
    name, mark, path = text.partition("=")
    if not (name and mark and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, Path(path)


def add_named_paths(
    parser: argparse.ArgumentParser, option: str, metavar: str, help: str, required: bool = True
) -> None:
    """An option of NAME=PATH, repeated; `by_name` reads it."""
    default: list[object] = []
    parser.add_argument(
        option, type=named_path, action="append", required=required, default=default, metavar=metavar, help=help
    )


def add_shared(parser: argparse.ArgumentParser) -> None:
    add_named_paths(
        parser, "--shared", "STAGE=DIR", "folder of the study that has this stage's files, if another; repeat", False
    )


def add_earlier(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--earlier",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="another --output, of which is taken over what is the same; repeat",
    )


def by_name(option: str, given: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    """What an option of NAME=PATH was given. Raises UserError if a name is there twice."""
    paths = dict(given)
    if len(paths) < len(given):
        raise UserError(f"{option}: two have the same name; give each its own")
    return paths


def add_benchmarks(parser: argparse.ArgumentParser) -> None:
    add_named_paths(parser, "--benchmark", "NAME=FILE", "a benchmark's problems (jsonl); repeat for more")
