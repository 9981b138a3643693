"""What is compared: runs named on a command line, opened, and checked to be deltas of the same weights."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePath

from deltageom.comparison.bases import check_bases
from deltageom.deltas import hub
from deltageom.deltas.delta import Delta
from deltageom.deltas.folder import is_checkpoint
from deltageom.deltas.names import divided, natural, some
from deltageom.deltas.open import open_run
from deltageom.errors import UserError
from deltageom.geometry.base_spectrum import DENSE

_NAMED = re.compile(r"(?P<name>[A-Za-z0-9._-]+)=(?P<path>.+)")


@dataclass
class Sources:
    """Runs' deltas by name, sorted; the modules that are compared, in natural order; notes, a line each, on what is
    not. `base` is the folder of the base's weights; None where none are needed."""

    deltas: dict[str, Delta]
    modules: list[str]
    base: Path | None
    notes: list[str]

    def not_compared(self, run: str) -> tuple[int, float]:
        """How many weights of a run are not compared, and which share of all that it trained."""
        delta = self.deltas[run]
        left = delta.n_weights - sum(math.prod(delta.shape(module)) for module in self.modules)
        return left, left / delta.n_weights


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
    notes += check_bases(deltas, wanted, any_base)
    if base is not None and wanted is None:
        notes.append("--base is not used: no run is a checkpoint, and --against-base is not given")
    modules = _common(deltas, intersect)
    for name, delta in deltas.items():
        own = divided({*delta.modules, *filter(delta.has, modules)})
        if left := len(own) - len(modules):
            notes.append(f"{name}: {left} of its {len(own)} modules are not compared: others lack them")
    large = sum(min(deltas[name].shape(module)) > DENSE for name in checkpoints[:1] for module in modules)
    if large:
        notes.append(
            f"{', '.join(checkpoints)}: in {large} matrices with both sides above {DENSE} each singular value may be "
            "off by up to 1e-6 of the largest and 1 % of itself"
        )
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


def _common(deltas: dict[str, Delta], intersect: bool) -> list[str]:
    """The modules of all runs, of a checkpoint only those that an adapter has.

    Raises UserError if there are none, or if they differ and are not to be intersected.
    """
    adapters = [delta for delta in deltas.values() if delta.kind == "adapter"]
    wanted = divided({module for delta in adapters or deltas.values() for module in delta.modules})
    offered = {name: set(filter(delta.has, wanted)) for name, delta in deltas.items()}
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
