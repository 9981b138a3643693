"""Make a run from the updates of others: a part of one, a sum, another rank, another length; no training.

The steps are done in this order: --of, --sum or --mean; --remove or --keep; --layers; --rank; --norm-of. A RUN is a
PEFT LoRA adapter's folder or hub id (owner/name, owner/name@revision), or a NAME of --run; or all of them are whole
models, whose base is then --base.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deltageom.cli.shared.arguments import add_named_paths, by_name, parse_settings

if TYPE_CHECKING:
    from deltageom.study.derived.recipe import Recipe

STEPS = ("of", "sum", "mean", "remove", "keep", "project", "layers", "rank", "norm_of")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--of", metavar="RUN", help="start from the update of this run")
    parser.add_argument(
        "--sum", nargs="+", type=_term, metavar="RUN=X", help="start from the sum of these updates, each times X"
    )
    parser.add_argument("--mean", nargs="+", metavar="RUN", help="start from the mean of these updates")
    parser.add_argument("--remove", metavar="RUN", help="take away the projection on this run's update")
    parser.add_argument("--keep", metavar="RUN", help="keep the projection on this run's update alone")
    parser.add_argument(
        "--project", choices=("global", "module"), help="one coefficient for all modules (the default), or one each"
    )
    parser.add_argument("--layers", type=_layers, metavar="N[,N...]", help="keep these layers; zero in the others")
    parser.add_argument("--rank", type=int, metavar="R", help="the best approximation of this rank in each module")
    parser.add_argument("--norm-of", metavar="RUN", help="scale to the Frobenius norm of this run's update")
    add_named_paths(parser, "--run", "NAME=FOLDER", "call a run by a name; repeat", required=False)
    parser.add_argument("--settings", metavar="JSON", help="the steps as a study has them, in place of these options")
    parser.add_argument("--base", metavar="MODEL", help="what the whole models were trained from: a folder or hub id")
    parser.add_argument("--any-base", action="store_true", help="derive though the runs name different bases")
    parser.add_argument("--output", type=Path, required=True, help="folder for the run and selection.json")


def run(arguments: argparse.Namespace) -> None:
    from deltageom.comparison.bases import check_bases
    from deltageom.deltas import hub
    from deltageom.deltas.folder import is_checkpoint
    from deltageom.deltas.open import open_run
    from deltageom.derived.derive import derive
    from deltageom.derived.write import write
    from deltageom.errors import UserError
    from deltageom.study.derived.recipe import Recipe
    from deltageom.study.layers import settings

    recipe = parse_settings(Recipe, arguments.settings) if arguments.settings else _recipe(arguments)
    arguments.settings = settings(recipe)  # for the record
    named = by_name("--run", arguments.run)
    folders = {name: hub.adapter_folder(str(named.get(name, name))) for name in recipe.operands()}
    if arguments.output.resolve() in {folder.resolve() for folder in folders.values()}:
        raise UserError(f"--output {arguments.output} is one of the runs: give a folder of its own")
    if all(map(is_checkpoint, folders.values())):
        _whole(recipe, folders, arguments)
        return
    deltas = {name: open_run(folder) for name, folder in folders.items()}
    for note in check_bases(deltas, None, arguments.any_base):
        print(note)
    derived = derive(recipe, deltas)
    rank = write(derived, recipe, next(iter(folders.values())), arguments.output)
    print(f"{recipe.words()}: rank {rank}, {len(derived.update)} modules, written to {arguments.output}")


def _whole(recipe: "Recipe", folders: Mapping[str, Path], arguments: argparse.Namespace) -> None:
    from deltageom.deltas import hub
    from deltageom.derived import whole
    from deltageom.errors import UserError

    if arguments.base is None:
        raise UserError("these are whole models, whose updates are their differences to a base: give it with --base")
    base = hub.weights_folder(*hub.with_revision(arguments.base))
    derived = whole.derive(recipe, folders, base)
    parameters = whole.write(derived, recipe, base, next(iter(folders.values())), arguments.output)
    print(f"{recipe.words()}: a whole model of {parameters:,} parameters, written to {arguments.output}")


def _recipe(arguments: argparse.Namespace) -> "Recipe":
    """Raises UserError naming the option."""
    from pydantic import ValidationError

    from deltageom.errors import UserError
    from deltageom.study.derived.recipe import Recipe
    from deltageom.study.explain import message

    given = {key: getattr(arguments, key) for key in STEPS}
    if given["sum"]:
        names = [name for name, _ in given["sum"]]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"--sum names {twice[0]} twice: name each once")
        given["sum"] = dict(given["sum"])
    try:
        return Recipe.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        option = f"--{str(first['loc'][0]).replace('_', '-')}" if first["loc"] else "the recipe"
        raise UserError(f"{option} {message(dict(first))}") from None


def _term(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        coefficient = float(number)
    except ValueError:
        name, coefficient = "", 0.0
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not RUN=X with a number X")
    return name, coefficient


def _layers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of layers such as 2,3")
    return [int(part) for part in parts]
