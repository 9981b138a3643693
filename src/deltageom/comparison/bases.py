"""Are the runs' bases one? By their names, or, where these differ, by the weights that are on this machine."""

import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from deltageom.deltas import hub
from deltageom.deltas.delta import Delta
from deltageom.deltas.names import canonical
from deltageom.deltas.tensors import FLOATS, ModelTensors
from deltageom.errors import UserError

COMPARED = 1 << 16  # bytes of each tensor
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Base(NamedTuple):
    """A base as a run or the command names it: a folder or a hub id, and the hub's revision."""

    name: str
    revision: str

    def __str__(self) -> str:
        return self.name if self.revision == "main" else f"{self.name}@{self.revision}"


def check_bases(deltas: Mapping[str, Delta], base: str | None, any_base: bool) -> list[str]:
    """Notes on bases that differ and are let pass (`any_base`), and on what could not be checked against `base`, the
    one whose weights are read. Raises UserError where adapters are of different bases, or of another than `base`."""
    named = {name: _named(delta.base_name, delta.base_revision) for name, delta in deltas.items() if delta.base_name}
    notes = []
    for a, b in combinations(named, 2):
        if named[a] == named[b] or (same := _same(named[a], named[b])):
            continue
        why = "their weights differ" if same is False else "their weights cannot be compared on this machine"
        what = f"{a} is an adapter of {named[a]}, {b} of {named[b]}: updates of different weights"
        if not any_base:
            raise UserError(f"{what} ({why}); --any-base compares them anyway")
        notes.append(f"{what} ({why})")
        break
    if base is not None:
        meant = _named(*hub.with_revision(base))
        for name, of in named.items():
            same = of == meant or _same(of, meant)
            if not same:
                how = "not checked" if same is None else "other weights"
                notes.append(f"{name} is an adapter of {of}; --base is {base}: {how}")
                break
    return notes


def _named(name: str, revision: str | None) -> Base:
    return Base(name.rstrip("/"), revision or "main")


def _same(one: Base, other: Base) -> bool | None:
    """None where it cannot be told."""
    names = [base.name.casefold() for base in (one, other)]  # the hub does not tell capitals apart
    if names[0] == names[1] and one.revision == other.revision and _HUB_ID.fullmatch(one.name):
        return True
    folders = [hub.at_hand(base.name, None if base.revision == "main" else base.revision) for base in (one, other)]
    if folders[0] is None or folders[1] is None:
        return None
    return folders[0].samefile(folders[1]) or same_weights(folders[0], folders[1])


def same_weights(one: Path, other: Path) -> bool | None:
    """Whether the tensors that two models hold in the same type begin with the same bytes, a quantised model's norms
    and embeddings among them; None if there are none such."""
    try:
        models = [ModelTensors(folder) for folder in (one, other)]
    except UserError:
        return None
    names = [{canonical(name): name for name in model.names} for model in models]
    shared = [(names[0][name], names[1][name]) for name in names[0].keys() & names[1].keys()]
    alike = [
        (a, b)
        for a, b in shared
        if models[0].dtype(a) in FLOATS
        and (models[0].dtype(a), models[0].shape(a)) == (models[1].dtype(b), models[1].shape(b))
    ]
    if not alike:
        return None
    return all(models[0].beginning(a, COMPARED) == models[1].beginning(b, COMPARED) for a, b in alike)
