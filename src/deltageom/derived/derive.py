"""Derive an update from those of other runs: the steps of a recipe, in their order."""

from collections.abc import Mapping
from dataclasses import dataclass

from deltageom.deltas.delta import Delta, Factors
from deltageom.deltas.names import layer_of, natural, some
from deltageom.derived import combine
from deltageom.derived.combine import Read, Update
from deltageom.errors import UserError
from deltageom.geometry import factored
from deltageom.study.derived.recipe import Recipe


@dataclass(frozen=True)
class Derived:
    """update: by module. coefficient: of the projection, where all modules have one; scale: that of norm_of."""

    update: Update
    coefficient: float | None
    scale: float | None


def derive(recipe: Recipe, deltas: Mapping[str, Delta]) -> Derived:
    """`deltas` are those of the recipe's runs, by the recipe's names for them; they are read module by module.

    Raises UserError for runs that adapt other modules, layers that are not there, a rank above every module's sides,
    and a zero update where a direction or a length is needed.
    """
    modules = _common_modules(deltas)
    reads = {name: _reader(delta) for name, delta in deltas.items()}
    terms = [(coefficient, reads[name]) for name, coefficient in recipe.terms().items()]
    update = {module: combine.summed([(c, read(module)) for c, read in terms]) for module in modules}
    coefficient = scale = None
    if recipe.other is not None:
        update, coefficient = _projected(recipe, update, reads[recipe.other])
    if recipe.layers is not None:
        update = _of_layers(update, recipe.layers)
    if recipe.rank is not None:
        update = _of_rank(update, recipe.rank)
    if recipe.norm_of is not None:
        update, scale = _as_long(update, recipe.norm_of, reads[recipe.norm_of])
    return Derived(update, coefficient, scale)


def _projected(recipe: Recipe, update: Update, other: Read) -> tuple[Update, float | None]:
    """What `remove` leaves, or `keep` keeps; and the coefficient, if it is one."""
    if not any(other(module).sigma.size for module in update):
        key = "remove" if recipe.remove is not None else "keep"
        raise UserError(f"{key} {recipe.other!r}: its update is zero, so it has no direction: name another run")
    by_module = recipe.project == "module"
    found = combine.coefficients(update, other, by_module)
    if recipe.keep is not None:
        update = {module: combine.scaled(other(module), found[module]) for module in update}
    else:
        update = {module: combine.summed([(1.0, of), (-found[module], other(module))]) for module, of in update.items()}
    return update, None if by_module else next(iter(found.values()))


def _of_layers(update: Update, layers: list[int]) -> Update:
    there = {layer for module in update if (layer := layer_of(module)) is not None}
    if unknown := sorted(set(layers) - there):
        raise UserError(f"layers: there is no layer {unknown[0]}; the runs adapt {', '.join(map(str, sorted(there)))}")
    return {module: of if layer_of(module) in layers else combine.zero(of) for module, of in update.items()}


def _of_rank(update: Update, rank: int) -> Update:
    most = max(min(of.u.shape[0], of.v.shape[0]) for of in update.values())
    if rank > most:
        raise UserError(f"rank {rank} is more than any module can have, which is {most}: lower it")
    return {module: combine.truncated(of, rank) for module, of in update.items()}


def _as_long(update: Update, name: str, other: Read) -> tuple[Update, float]:
    target, norm = combine.norm({module: other(module) for module in update}), combine.norm(update)
    if not target:
        raise UserError(f"norm_of {name!r}: its update is zero, so nothing can be as long and not vanish: name another")
    if not norm:
        raise UserError(f"norm_of {name!r}: what is to be scaled is zero, which no factor makes as long as another")
    factor = target / norm
    return {module: combine.scaled(of, factor) for module, of in update.items()}, factor


def _reader(delta: Delta) -> Read:
    """Raises UserError for a whole model."""
    if delta.kind != "adapter":
        raise UserError(f"{delta.folder}: a whole model: runs are derived from LoRA adapters, which have thin factors")

    def read(module: str) -> factored.ThinSvd:
        factors = delta.read(module)
        assert isinstance(factors, Factors)
        return factored.thin_svd(factors)

    return read


def _common_modules(deltas: Mapping[str, Delta]) -> list[str]:
    (first, one), *others = deltas.items()
    for name, other in others:
        if apart := sorted(set(one.modules) ^ set(other.modules), key=natural):
            has, lacks = (first, name) if apart[0] in one.modules else (name, first)
            raise UserError(
                f"{first} and {name} adapt other modules: {has} has {some(apart, 1)}, which {lacks} lacks: derive from "
                "runs that adapt the same modules"
            )
        for module in one.modules:
            if one.shape(module) != other.shape(module):
                raise UserError(
                    f"{module} is {one.shape(module)} in {first}, but {other.shape(module)} in {name}: they are of "
                    "models of other sizes"
                )
    return one.modules
