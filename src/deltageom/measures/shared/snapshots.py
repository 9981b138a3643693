"""Runs' updates after the steps of their snapshots: their lengths and cosines, from the thin factors alone."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltageom.deltas.adapter import Adapter
from deltageom.deltas.folder import snapshot
from deltageom.deltas.names import layer_of
from deltageom.geometry.stack import FactoredStack

Row = dict[str, Any]
Array = NDArray[np.float64]


def follow(a: Path, others: Mapping[str, Path], steps: Sequence[int]) -> Iterator[Row]:
    """Rows of run `a` and of its pairs with each of `others` after each of `steps`; the paths are the runs' folders.

    b: the other run, None of the run itself; layer: None of all modules, stacked into one vector; norm: Frobenius, of
    a; norm_b: of b; cosine: of a with b at the same step, of the run itself with its own end. None where a norm is 0.
    """
    end = Adapter(a)
    for step in steps:
        now = [Adapter(folder, snapshot=snapshot(folder, step)) for folder in (a, *others.values())]
        for layer, inner in _inner([now[0], end, *now[1:]]).items():
            norms = np.sqrt(inner.diagonal())
            for b, other in zip((None, *others), range(1, len(inner)), strict=True):
                both = norms[0] * norms[other]
                yield {
                    "b": b,
                    "layer": layer,
                    "step": step,
                    "norm": float(norms[0]),
                    "norm_b": float(norms[other]),
                    "cosine": float(np.clip(inner[0, other] / both, -1.0, 1.0)) if both else None,
                }


def _inner(deltas: Sequence[Adapter]) -> dict[int | None, Array]:
    """By layer, None for all modules, the inner products of n updates, (n, n): <dW_i, dW_j> summed over modules."""
    n, found = len(deltas), dict[int | None, Array]()
    for module in deltas[0].modules:
        inner = FactoredStack([delta.read(module) for delta in deltas]).inner
        for layer in {None, layer_of(module)}:
            found[layer] = found.get(layer, np.zeros((n, n))) + inner
    return dict(sorted(found.items(), key=lambda item: -1 if item[0] is None else item[0]))
