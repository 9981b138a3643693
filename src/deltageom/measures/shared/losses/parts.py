"""The loss of a run with only one part of its update, and with all but that part: a layer's, or a kind of module's."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from deltageom.measures.shared.losses.loss_paths import losses_by_problem
from deltageom.measures.shared.losses.own_answers import Text
from deltageom.measures.shared.losses.weighted_deltas import WeightedDeltas, everywhere
from deltageom.study.schema import Base, Device

Row = dict[str, Any]
Array = NDArray[np.float64]


def part(layer: int | None, module: str | None) -> str:
    """What the names of a part's modules contain: 'layers.3' or 'self_attn.q_proj'."""
    return module or f"layers.{layer}"


def within(part: str, name: str) -> bool:
    return f".{part}." in f".{name}."


def losses_of_parts(
    base: str, settings: Base, device: Device, run: Path, texts: Sequence[Text], batch_size: int
) -> Iterator[Row]:
    """A row per part, way and problem: layer or module, way, problem_id, nll, tokens, squared_norm.

    way: `none` (the base) and `all` (the run) once, without a part; `only` and `without` of every part that moved.
    nll is summed over the problem's texts; squared_norm is the part's of the delta, that of all in the row `all`.
    """
    deltas = WeightedDeltas(base, settings, device)
    deltas.add("run", run)
    places: list[tuple[int | None, str | None]] = [(layer, None) for layer in range(settings.layers)]
    places += [(None, module) for module in settings.modules]
    moved = {place: deltas.squared_norm("run", partial(within, part(*place))) for place in places}
    ways: list[tuple[int | None, str | None, str]] = [(None, None, "none"), (None, None, "all")]
    ways += [(*place, way) for place in places if moved[place] for way in ("only", "without")]
    for layer, module, way in tqdm(ways, unit="part"):
        model = deltas.weigh({"run": 0.0 if way == "none" else 1.0}, _chosen(part(layer, module), way))
        size = moved.get((layer, module), deltas.squared_norm("run"))
        for problem_id, (nll, tokens) in losses_by_problem(model, texts, batch_size).items():
            row = {"layer": layer, "module": module, "way": way, "problem_id": problem_id}
            yield row | {"nll": nll, "tokens": tokens, "squared_norm": size}


def _chosen(part: str, way: str) -> Callable[[str], bool]:
    if way in ("none", "all"):
        return everywhere
    return lambda name: within(part, name) == (way == "only")


def shares(none: Array, whole: Array, only: Array, without: Array) -> tuple[Array, Array]:
    """What share of the fall of the loss from the base to the run a part brings alone, and its absence takes away.

    Losses (...,) of base, run, run with only the part, and run without it. NaN where the run's is not below the base's.
    The two are equal where parts add up; a part that another can stand in for brings more than its absence takes.
    """
    fall = np.where(none > whole, none - whole, np.nan)
    return (none - only) / fall, (without - whole) / fall


def resampled(nll: Array, tokens: Array, resamples: int, seed: int) -> Array:
    """Losses per token of resamples of the problems: nll (ways, problems), tokens (problems,) to (resamples, ways)."""
    problems = nll.shape[1]
    times = np.random.default_rng(seed).multinomial(problems, np.full(problems, 1 / problems), resamples)
    return (times @ nll.T) / (times @ tokens)[:, None]
