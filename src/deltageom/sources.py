"""What is compared: runs named on a command line, opened, and checked to be deltas of the same weights."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePath

from deltageom import hub
from deltageom.adapters import Delta, is_checkpoint, open_run
from deltageom.errors import UserError
from deltageom.module_names import natural, some

_NAMED = re.compile(r"(?P<name>[A-Za-z0-9._-]+)=(?P<path>.+)")


@dataclass
class Sources:
    """Runs' deltas by name, sorted; the modules that are compared, in natural order; notes, a line each, on what is
    not. `base` is the folder of the base's weights; None where none are needed."""

    deltas: dict[str, Delta]
    modules: list[str]
    base: Path | None
    notes: list[str]


def named(arguments: Sequence[str]) -> dict[str, str]:
    """Name to folder or hub id, from 'NAME=PATH' or PATH.

    A path by itself is named after its last component, or after as many of its last as tell it from the others,
    joined by '-'. Raises UserError for fewer than two arguments and for a name that two of them would have.
    """
    if len(arguments) < 2:
        raise UserError(f"{'one adapter only' if arguments else 'no adapter'}: compare needs two or more")
    found: dict[str, str] = {}
    paths = []
    for argument in arguments:
        match = _NAMED.fullmatch(argument)
        if match is None or Path(argument).is_dir():  # a folder such as lr=1e-5 needs no name
            paths.append(argument)
        elif match["name"] in found:
            raise UserError(f"{match['name']}= is given twice: every run needs a name of its own")
        else:
            found[match["name"]] = match["path"]
    return found | _default_names(paths, set(found))


def open_all(
    named: Mapping[str, str], base: str | None, intersect: bool, any_base: bool, against_base: bool = False
) -> Sources:
    """Opens the runs; `base` is a folder or a hub id, and is fetched only where a run is a checkpoint, or for
    `against_base`.

    `intersect`: compare the modules that all runs have, where they differ; `any_base`: compare adapters of
    different bases. Of a checkpoint beside adapters only their modules are compared. Raises UserError for a run
    that cannot be opened, for checkpoints without a base, and for bases or modules that differ unasked.
    """
    folders = {name: hub.adapter_folder(named[name]) for name in sorted(named)}
    checkpoints = [name for name, folder in folders.items() if is_checkpoint(folder)]
    if checkpoints and base is None:
        raise UserError(f"{checkpoints[0]} is a checkpoint, and its delta the difference to its base: give --base")
    wanted = base if checkpoints or against_base else None
    base_folder = None if wanted is None else hub.weights_folder(*hub.with_revision(wanted))
    deltas = {name: open_run(folder, base_folder) for name, folder in folders.items()}
    notes = [f"{name}: {note}" for name, delta in deltas.items() for note in delta.notes]
    notes += _bases(deltas, wanted, any_base)
    if base is not None and wanted is None:
        notes.append("--base is not used: no run is a checkpoint, and --against-base is not given")
    modules = _common(deltas, intersect)
    for name, delta in deltas.items():
        if left := len(delta.modules) - len(modules):
            notes.append(f"{name}: {left} of its {len(delta.modules)} modules are not compared: others lack them")
    return Sources(deltas, modules, base_folder, notes)


def _default_names(paths: list[str], taken: set[str]) -> dict[str, str]:
    parts = [_parts(path) for path in paths]
    depths = [1] * len(paths)
    while True:
        names = [_joined(part, depth) for part, depth in zip(parts, depths, strict=True)]
        clashing = [i for i, name in enumerate(names) if name in taken or names.count(name) > 1]
        if not clashing:
            return dict(zip(names, paths, strict=True))
        longer = [i for i in clashing if depths[i] < len(parts[i])]
        if not longer:
            name = names[clashing[0]]
            given = [paths[i] for i in clashing if names[i] == name]
            raise UserError(f"{' and '.join(given)}: two runs would be named {name}: give one as NAME=PATH")
        for i in longer:
            depths[i] += 1


def _parts(path: str) -> list[str]:
    """The components of a folder's whole path ('.' has none of its own), or of a hub id."""
    pure = Path(path).absolute() if Path(path).is_dir() else PurePath(path)
    return [part for part in pure.parts if part != pure.anchor]


def _joined(parts: list[str], depth: int) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts[-depth:])) or "run"


def _bases(deltas: dict[str, Delta], base: str | None, any_base: bool) -> list[str]:
    """Raises UserError if two adapters name different bases; notes on what is let pass, and where an adapter names
    another base than `base`, which may be the same in another place."""
    notes = []
    bases = {name: delta.base_name.rstrip("/") for name, delta in deltas.items() if delta.base_name}
    different = [(a, b) for a, b in combinations(bases, 2) if bases[a] != bases[b]]
    if different:
        a, b = different[0]
        what = f"{a} is an adapter of {bases[a]}, {b} of {bases[b]}"
        if not any_base:
            raise UserError(f"{what}: updates of different weights; --any-base compares them anyway")
        notes.append(f"{what}: updates of different weights")
    if base is not None:
        other = [name for name in bases if bases[name] != base.rstrip("/")]
        notes += [f"{name} is an adapter of {bases[name]}; --base is {base}: not checked" for name in other[:1]]
    return notes


def _common(deltas: dict[str, Delta], intersect: bool) -> list[str]:
    """The modules of all runs, of a checkpoint only those that an adapter has.

    Raises UserError if there are none, or if they differ and are not to be intersected.
    """
    adapted = {module for delta in deltas.values() if delta.kind == "adapter" for module in delta.modules}
    offered = {
        name: set(delta.modules) & adapted if adapted and delta.kind == "checkpoint" else set(delta.modules)
        for name, delta in deltas.items()
    }
    common = sorted(set.intersection(*offered.values()), key=natural)
    different = [(a, b) for a, b in combinations(deltas, 2) if offered[a] != offered[b]]
    if not common:
        apart = [(a, b) for a, b in different if not offered[a] & offered[b]]
        a, b = (apart or different)[0]
        raise UserError(
            f"no module is common to all runs: {a} has {some(deltas[a].modules, 1)}, {b} {some(deltas[b].modules, 1)}"
        )
    if different and not intersect:
        a, b = different[0]
        lacks = [
            f"{one} lacks {some(sorted(offered[other] - offered[one], key=natural), 2)}"
            for one, other in ((a, b), (b, a))
            if offered[other] - offered[one]
        ]
        raise UserError(
            f"{a} and {b} have different modules: {'; '.join(lacks)}: "
            f"--intersect compares the {len(common)} that all runs have"
        )
    return common
