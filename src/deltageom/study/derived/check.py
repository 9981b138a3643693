"""Are a study's derived runs possible? What can be known before the first job.

Nothing here may import more than pydantic, for the Snakemake process reads it on every start.
"""

from collections.abc import Collection, Mapping

from deltageom.fields import NAME
from deltageom.study.derived.recipe import Recipe
from deltageom.study.explain import near

TAKEN = ("base", "train")  # by the workflow's own files


def check(derived: Mapping[str, Recipe], ranks: Mapping[str, int | None], layers: Collection[int]) -> None:
    """Raises ValueError naming the key and the fix.

    `ranks`: of each trained run's adapter, None for a run without one; `layers`: those that the runs adapt.
    """
    for name, recipe in derived.items():
        _check_name(name, ranks)
        for key, other in recipe.named():
            _check_operand(f"derived.{name}.{key}", other, ranks, derived)
    for name, recipe in derived.items():
        if unknown := sorted(set(recipe.layers or ()) - set(layers)):
            raise ValueError(
                f"derived.{name}.layers names layer {unknown[0]}, which the runs do not adapt; they adapt "
                f"{', '.join(map(str, sorted(layers)))}"
            )
    ranks_of(derived, ranks)


def in_order(derived: Mapping[str, Recipe]) -> list[str]:
    """The names, each after those of the runs that it is made from. Raises ValueError for a circle."""
    found: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            circle = " -> ".join([*above[above.index(name) :], name])
            raise ValueError(f"derived.{name} is made from itself, by way of {circle}: break the circle")
        if name in found:
            return
        for other in derived[name].operands():
            if other in derived:
                visit(other, (*above, name))
        found.append(name)

    for name in derived:
        visit(name, ())
    return found


def ranks_of(derived: Mapping[str, Recipe], ranks: Mapping[str, int | None]) -> dict[str, int]:
    """The most that the rank of each derived run's update can be. Raises ValueError where `rank` is above that."""
    known: dict[str, int] = {name: rank for name, rank in ranks.items() if rank is not None}
    for name in in_order(derived):
        known[name] = _rank(name, derived[name], known)
    return {name: known[name] for name in derived}


def _check_name(name: str, runs: Collection[str]) -> None:
    if not NAME.fullmatch(name):
        raise ValueError(
            f"derived: name {name!r} becomes a file name: use A-Z a-z 0-9 . _ - and begin with a letter or digit"
        )
    if name in TAKEN:
        raise ValueError(f"derived.{name}: the name is taken by the workflow's own files: choose another")
    if name in runs:
        raise ValueError(f"derived.{name}: there is a run of this name: choose another")


def _check_operand(place: str, name: str, ranks: Mapping[str, int | None], derived: Mapping[str, Recipe]) -> None:
    if name not in ranks and name not in derived:
        known = [*ranks, *derived]
        raise ValueError(f"{place} {name!r} is none of the runs: {', '.join(known)}{near(name, known)}")
    if ranks.get(name, 1) is None:
        raise ValueError(f"{place} {name!r} trains without an adapter: name a LoRA run, whose update has thin factors")


def _rank(name: str, recipe: Recipe, known: Mapping[str, int]) -> int:
    """The most that it can be. Raises ValueError for `rank` above that."""
    most = sum(known[other] for other in recipe.terms())
    if recipe.remove is not None:
        most += known[recipe.remove]
    elif recipe.keep is not None:
        most = known[recipe.keep]
    if recipe.rank is None:
        return most
    if recipe.rank > most:
        raise ValueError(
            f"derived.{name}.rank {recipe.rank} is more than the rank {most} that its update can have: lower it, or "
            "leave it out"
        )
    return recipe.rank
