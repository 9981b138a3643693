"""What a method's file provides. See docs/extending.md for the walk-through.

`snakemake -n` imports it for its options, so it imports torch and numpy only inside functions.

Every file defines `Options` (a MethodOptions), `FAMILY` and `SOURCE`, the rows that it sees: "rollout", or
"reference" for the problems' own solutions. For FAMILY = "likelihood":
    select(rows, options) -> Selection         which rows are trained on, with the numbers that the loss needs
    loss(log_probs, mask, columns, options)    (B, T) completion log-probs -> (B,) loss of each row
For FAMILY = "preference":
    select(rows, options) -> Pairs
    dpo_arguments(options) -> dict             keyword arguments for trl.DPOConfig

A method need not care about an empty selection: `training` reports it with the counts.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

import deltageom.methods as package

if TYPE_CHECKING:
    from deltageom.selection import Floats, Indices, Strings


class MethodOptions(BaseModel):
    """Options of a method, as a run may set them; strict, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Rows:
    """What a method selects from: the rows' rewards (N,) in {0, 1} and problem ids (N,), equal ids a
    group."""

    rewards: Floats
    problems: Strings


@dataclass(frozen=True)
class Selection:
    """Indices into the rows (n,) and named float columns (n,) that the loss reads."""

    indices: Indices
    columns: dict[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True)
class Pairs:
    """Indices into the rows of the chosen and the rejected completion, each (n,)."""

    chosen: Indices
    rejected: Indices


def all_rows(rows: Rows, **columns: Floats) -> Selection:
    """Every row, with the columns that the loss reads."""
    import numpy as np

    return Selection(np.arange(len(rows.rewards)), columns)


def names() -> list[str]:
    """Every method there is: the modules of this package but this one."""
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name != "interface")


def load(name: str) -> ModuleType:
    """The module of a method. Raises KeyError for a name that is none of `names()`."""
    if name not in names():
        raise KeyError(name)
    return importlib.import_module(f"deltageom.methods.{name}")
