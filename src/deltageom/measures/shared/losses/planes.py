"""The plane through three points of weight space, and losses on it (Garipov et al. 2018, appendix A.1). In float64."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from deltageom.deltas.delta import Delta, Factors
from deltageom.deltas.open import open_run
from deltageom.errors import UserError
from deltageom.geometry.stack import FactoredStack
from deltageom.measures.shared.losses.loss_paths import losses_by_problem
from deltageom.measures.shared.losses.own_answers import Text
from deltageom.measures.shared.losses.weighted_deltas import WeightedDeltas
from deltageom.study.schema import Base, Device

Row = dict[str, Any]
Array = NDArray[np.float64]
FLAT = 1e-6  # of the longest side: below it the third point is on the line through the first two, up to rounding


def corners(gram: Array) -> Array:
    """Coordinates (3, 2) of three points from their inner products (3, 3), in an orthonormal basis of their plane.

    The first is the origin, the second on the positive x axis, the third above it. Raises ValueError if two points are
    the same or all three are on one line.
    """
    u, v = np.array([-1.0, 1.0, 0.0]), np.array([-1.0, 0.0, 1.0])
    uu, uv, vv = u @ gram @ u, u @ gram @ v, v @ gram @ v
    height = vv - uv**2 / uu if uu > 0 else 0.0
    if height <= FLAT**2 * max(uu, vv):
        raise ValueError("three points on one line have no plane")
    width = np.sqrt(uu)
    return np.array([[0.0, 0.0], [width, 0.0], [uv / width, np.sqrt(height)]])


def weights(corners: Array, point: Array) -> Array:
    """The weights (3,), of sum 1, with which the corners (3, 2) add up to a point (2,)."""
    return np.linalg.solve(np.vstack([corners.T, np.ones(3)]), np.append(point, 1.0))


def grid(corners: Array, points: int, margin: float) -> Array:
    """(points^2, 2): equal steps over a rectangle around the corners, wider on each side by `margin` of its width."""
    low, high = corners.min(0), corners.max(0)
    edge = margin * (high - low)
    x, y = (np.linspace(low[i] - edge[i], high[i] + edge[i], points) for i in (0, 1))
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)


def gram(deltas: Sequence[Delta | None]) -> Array:
    """Inner products of updates, summed over the modules that any of them has; None is the base itself."""
    found = np.zeros((len(deltas), len(deltas)))
    moved = [number for number, delta in enumerate(deltas) if delta]
    for module in sorted({module for delta in deltas if delta for module in delta.modules}):
        inside = [number for number in moved if (delta := deltas[number]) and delta.has(module)]
        read = [delta.read(module) for number in inside if (delta := deltas[number])]
        factors = [one for one in read if isinstance(one, Factors)]
        flat = [] if len(factors) == len(read) else [one.dense().ravel() for one in read]
        found[np.ix_(inside, inside)] += (
            FactoredStack(factors).inner if not flat else np.array([[a @ b for b in flat] for a in flat])
        )
    return found


def losses_on_plane(
    base: str,
    settings: Base,
    device: Device,
    models: Mapping[str, Path | None],
    texts: Sequence[Text],
    points: int,
    margin: float,
    batch_size: int,
) -> Iterator[Row]:
    """A row per corner and point of the grid: model (at a corner), along, across, loss (nats per token), n problems.

    models: three, by name; None for the base itself. Raises UserError if their updates are on one line.
    """
    start = Path(base) if Path(base).is_dir() else None
    inner = gram([open_run(folder, start) if folder else None for folder in models.values()])
    try:
        found = corners(inner)
    except ValueError:
        raise UserError(
            f"measures.loss_plane.models: {', '.join(models)} are on one line, which has no plane: name others"
        ) from None
    deltas = WeightedDeltas(base, settings, device)
    for name, folder in models.items():
        if folder:
            deltas.add(name, folder)
    places: list[tuple[str | None, Array]] = list(zip(models, found, strict=True))
    places += [(None, point) for point in grid(found, points, margin)]
    for corner, point in tqdm(places, unit="point"):
        share = dict(zip(models, weights(found, point), strict=True))
        losses = losses_by_problem(deltas.weigh(share), texts, batch_size).values()
        loss = sum(nll for nll, _ in losses) / sum(tokens for _, tokens in losses)
        yield {"model": corner, "along": float(point[0]), "across": float(point[1]), "loss": loss, "n": len(losses)}
