"""What a method's file provides. See docs/extending.md for the walk-through.

`snakemake -n` imports it for its options, so it imports torch and numpy only inside functions.

Every file defines `Options` (a MethodOptions), `FAMILY`, `SOURCE`, the rows that it sees: "rollout", or "reference" for
the problems' own solutions, and `NEEDS`, a tuple of what it cannot do without:
    "groups"     two or more rollouts of each problem, right and wrong ones being compared
    "behaviour"  the sampling policy's log-prob of every token
    "base"       the base's log-prob of every row
By FAMILY:
    "likelihood"  select(rows, options) -> Selection    which rows are trained on, with the numbers that the loss needs
                  loss(log_probs, mask, columns, options) -> (B,) loss of each row, from (B, T) completion log-probs
    "pairwise"    select(rows, options) -> Pairs        a row of the loss is a pair
                  loss(log_probs, mask, columns, options) -> (n,) loss of each pair, from (2 n, T) log-probs: the n
                  chosen completions first, then the n rejected; the mean over pairs, whatever `training.reduction` is
    "preference"  select(rows, options) -> Pairs
                  trainer_arguments(options) -> dict    keyword arguments for trl.DPOConfig
    "unpaired"    select(rows, options) -> Selection
                  trainer_arguments(options) -> dict    keyword arguments for trl.KTOConfig

A method need not care about an empty selection: `training` reports it with the counts.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

import deltageom.methods as package
from deltageom.schema import Count, Seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deltageom.selection import Floats, Indices, Strings


class MethodOptions(BaseModel):
    """Options of a method, as a run may set them; strict, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True, allow_inf_nan=False)


class PairOptions(MethodOptions):
    """Which pairs of a correct and a wrong rollout of one problem: see `selection.preference_pairs`."""

    pairs: Literal["random", "longest", "shortest", "closest"]
    max_pairs: Count | None
    pair_seed: Seed


@dataclass(frozen=True)
class Rows:
    """What a method selects from, N rows.

    rewards (N,) in {0, 1}; problems (N,) problem ids, equal ids a group; group_means (N,), the mean reward of all that
    was sampled for the row's problem, rows that were dropped for their length included; lengths (N,) completion tokens;
    token_ids (N,) each an array (length,); token_log_probs (N,) each an array (length,), under the sampling policy, or
    None where the rollouts have none; base_log_probs (N,) of the whole completion under the base, or None where the
    method does not need "base".
    """

    rewards: Floats
    problems: Strings
    group_means: Floats
    lengths: Indices
    token_ids: Sequence[NDArray[Any]]
    token_log_probs: Sequence[Floats] | None
    base_log_probs: Floats | None


@dataclass(frozen=True)
class Selection:
    """Indices into the rows (n,), and what the loss reads beside the log-probs.

    columns: one float a row, (n,), which the loss gets as (B,). token_columns: one array (length,) a row, a number a
    completion token, which the loss gets as (B, T), aligned with `log_probs` and 0 where `mask` is. duplicates: how
    many rows de-duplication removed.
    """

    indices: Indices
    columns: dict[str, Floats] = field(default_factory=dict)
    token_columns: dict[str, Sequence[Floats]] = field(default_factory=dict)
    duplicates: int = 0


@dataclass(frozen=True)
class Pairs:
    """Indices into the rows of the chosen and the rejected completion, each (n,)."""

    chosen: Indices
    rejected: Indices


def all_rows(rows: Rows, **columns: Floats) -> Selection:
    """Every row, with the columns that the loss reads."""
    import numpy as np

    return Selection(np.arange(len(rows.rewards)), columns)


def select_pairs(rows: Rows, options: PairOptions) -> Pairs:
    from deltageom import selection

    chosen = selection.preference_pairs(
        rows.rewards, rows.problems, rows.lengths, options.pairs, options.max_pairs, options.pair_seed
    )
    return Pairs(*chosen)


def names() -> list[str]:
    """Every method there is: the modules of this package but this one."""
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "interface")


def load(name: str) -> ModuleType:
    """The module of a method. Raises KeyError for a name that is none of `names()`."""
    if name not in names():
        raise KeyError(name)
    return importlib.import_module(f"deltageom.methods.{name}")
