"""What a method's file provides. See docs/extending.md for the walk-through.

A file of this folder is a method. It defines `Options` (a MethodOptions), what the method selects and its loss, and
puts them together as `METHOD`, a Likelihood, Pairwise, Preference, Unpaired or Online, which mypy holds against
`Options`. `snakemake -n` imports the file for its options, so it imports torch and numpy only inside functions.

A method need not care about an empty selection: `training` reports it with the counts.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

import deltageom.methods as package
from deltageom.fields import Count, Seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from deltageom.methods.shared.selection import Floats, Indices, Strings


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


Options = TypeVar("Options", bound=MethodOptions)
Source = Literal["rollout", "reference"]
Need = Literal["groups", "behaviour", "base"]


@dataclass(frozen=True, kw_only=True)
class Method(Generic[Options]):
    """What every method says.

    options: the model of its options, which may have defaults; source: the rows that it sees, rollouts or the problems'
    own solutions ("reference"); needs: what it cannot do without:
        groups     two or more rollouts of each problem, right and wrong ones being compared
        behaviour  the sampling policy's log-prob of every token
        base       the base's log-prob of every row
    """

    options: type[Options]
    source: Source = "rollout"
    needs: tuple[Need, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Likelihood(Method[Options]):
    """select: which rows are trained on, with the numbers that the loss needs; loss(log_probs, mask, columns, options):
    (B,), each row's own, from (B, T) log-probs and mask of the completion's tokens; `training.reduction` makes one
    number of them."""

    select: Callable[[Rows, Options], Selection]
    loss: Callable[[Tensor, Tensor, dict[str, Tensor], Options], Tensor]


@dataclass(frozen=True, kw_only=True)
class Pairwise(Method[Options]):
    """select: the pairs; loss: as a Likelihood's, but (n,), each pair's own, from (2 n, T): the n chosen completions
    first, then the n rejected. What is minimised is the mean over pairs, whatever `training.reduction` is."""

    select: Callable[[Rows, Options], Pairs]
    loss: Callable[[Tensor, Tensor, dict[str, Tensor], Options], Tensor]


@dataclass(frozen=True, kw_only=True)
class Preference(Method[Options]):
    """select: the pairs; trainer_arguments: keyword arguments for trl.DPOConfig."""

    select: Callable[[Rows, Options], Pairs]
    trainer_arguments: Callable[[Options], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Unpaired(Method[Options]):
    """select: the rows; trainer_arguments: keyword arguments for trl.KTOConfig; mismatched: the seed by which each row
    gets another problem's completion, for a KL term; None for a loss without that."""

    select: Callable[[Rows, Options], Selection]
    trainer_arguments: Callable[[Options], dict[str, Any]]
    mismatched: Callable[[Options], Seed | None]


@dataclass(frozen=True, kw_only=True)
class Online(Method[Options]):
    """Samples while it trains; its options are a `shared.online.SamplingOptions`. trainer_arguments: keyword arguments
    for trl.GRPOConfig or, of one that learns a `teacher`'s distribution, for trl.DistillationConfig."""

    trainer_arguments: Callable[[Options], dict[str, Any]]
    teacher: bool = False


OfflineMethod = Likelihood[Any] | Pairwise[Any] | Preference[Any] | Unpaired[Any]
AnyMethod = OfflineMethod | Online[Any]


def in_pairs(method: AnyMethod) -> bool:
    """Whether a row of its loss is a pair, of two sequences."""
    return isinstance(method, Pairwise | Preference)


def all_rows(rows: Rows, **columns: Floats) -> Selection:
    """Every row, with the columns that the loss reads."""
    import numpy as np

    return Selection(np.arange(len(rows.rewards)), columns)


def select_pairs(rows: Rows, options: PairOptions) -> Pairs:
    from deltageom.methods.shared import selection

    chosen = selection.preference_pairs(
        rows.rewards, rows.problems, rows.lengths, options.pairs, options.max_pairs, options.pair_seed
    )
    return Pairs(*chosen)


def names() -> list[str]:
    """Every method there is: the modules of this package but this one."""
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.ispkg and m.name != "interface")


def offline_names() -> list[str]:
    """Those of `names()` that are trained on rollouts."""
    return [name for name in names() if not isinstance(load(name), Online)]


def load_offline(name: str) -> OfflineMethod:
    """A method that is trained on rollouts. Raises ValueError for one that samples while it trains."""
    method = load(name)
    if isinstance(method, Online):
        raise ValueError(f"method {name} samples while it trains: it has no rows of rollouts")
    return method


def load(name: str) -> AnyMethod:
    """A method by its name. Raises KeyError for a name that is none of `names()`."""
    method: AnyMethod = module(name).METHOD
    return method


def module(name: str) -> ModuleType:
    """The file of a method, whose docstring says what it is, in its first sentence, and its source. Raises KeyError."""
    if name not in names():
        raise KeyError(name)
    return importlib.import_module(f"deltageom.methods.{name}")


def full_name(method: str) -> str:
    """The first sentence of the method's file; of no method, `method` itself."""
    if method not in names():
        return method
    text = " ".join((module(method).__doc__ or method).split())
    return re.split(r"(?<!\beq)(?<!\bsec)\. ", text, maxsplit=1)[0].rstrip(".")
