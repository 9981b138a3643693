"""Runs' first steps from the base against each other and against where their training ended."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltageom.deltas.delta import Dense, Factors
from deltageom.deltas.names import layer_of
from deltageom.deltas.open import open_run
from deltageom.errors import UserError
from deltageom.geometry import factored
from deltageom.geometry.factored import ThinSvd

Array = NDArray[np.float64]
Row = dict[str, Any]

EPS = 1e-8  # AdamW's, which the trainers leave at its default
GRADIENT, SIGN, DELTA = range(3)  # the vectors of a run


def adamw_step(gradient: Array) -> Array:
    """AdamW's first step per unit of learning rate, g / (|g| + eps): the sign of g where |g| is well above eps."""
    return gradient / (np.abs(gradient) + EPS)


def compare(gradients: Mapping[str, Path], deltas: Mapping[str, Path]) -> list[Row]:
    """The first run itself (`b` is empty), and with each of the others: at every module, every layer, and over all.

    gradients: by run the folder of its step of gradient descent; deltas: of its trained adapter. Of the run itself:
    norm of that step, gradient_norm (of dL/dB, all modules), and the cosines of the step (gradient_delta) and of
    AdamW's first step (sign_delta) with its own delta. Of a pair the cosines of the two steps (gradient), of the two
    first steps of AdamW (sign) and of the two trained deltas (delta). Over modules, vectors are stacked. A cosine with
    a vector that is 0 is empty. Raises UserError if the runs adapt other modules.
    """
    first, *others = gradients
    opened = {run: (open_run(gradients[run]), open_run(deltas[run])) for run in gradients}
    modules = opened[first][0].modules
    for run, both in opened.items():
        if any(one.modules != modules for one in both):
            raise UserError(f"{gradients[run]}: has other modules than {gradients[first]}: compute both again")
    own = np.zeros((len(modules), 4))  # inner products with its own delta, of the step and AdamW's; |step|, |dL/dB|
    squares = {run: np.zeros((len(modules), 3)) for run in opened}
    inner = {run: np.zeros((len(modules), 3)) for run in others}
    for i, module in enumerate(modules):
        found = {run: _vectors(*(one.read(module) for one in both)) for run, both in opened.items()}
        for run, vectors in found.items():
            squares[run][i] = [factored.norm(vector) ** 2 for vector in vectors]
        mine = found[first]
        for run in others:
            inner[run][i] = [factored.inner(a, b) for a, b in zip(mine, found[run], strict=True)]
        step = opened[first][0].read(module)
        assert isinstance(step, Factors)
        with_delta = (factored.inner(mine[which], mine[DELTA]) for which in (GRADIENT, SIGN))
        own[i] = [*with_delta, squares[first][i, GRADIENT], np.sum(step.b**2)]
    table = []
    for place, at in _places(modules):
        square = {run: values[at].sum(0) for run, values in squares.items()}
        table.append({"b": "", **place, **_of_run(own[at].sum(0), square[first])})
        for run in others:
            table.append({"b": run, **place, **_of_pair(inner[run][at].sum(0), square[first], square[run])})
    columns = list(dict.fromkeys(column for row in table for column in row))
    return [{column: row.get(column) for column in columns} for row in table]


def _vectors(step: Factors | Dense, delta: Factors | Dense) -> tuple[ThinSvd, ThinSvd, ThinSvd]:
    """The step of gradient descent, AdamW's first step and the trained delta of a module."""
    assert isinstance(step, Factors)
    assert isinstance(delta, Factors)
    adamw = Factors(adamw_step(step.b), step.a, step.scale)
    gradient, sign, trained = (factored.thin_svd(one) for one in (step, adamw, delta))
    return gradient, sign, trained


def _places(modules: Sequence[str]) -> Iterator[tuple[Row, list[int]]]:
    """Each module, each layer, and the whole, with the modules that are in it."""
    layers = [layer_of(module) for module in modules]
    for i, module in enumerate(modules):
        yield {"layer": layers[i], "module": module}, [i]
    for layer in dict.fromkeys(layers):
        yield {"layer": layer, "module": None}, [i for i, one in enumerate(layers) if one == layer]
    yield {"layer": None, "module": None}, list(range(len(modules)))


def _of_run(own: Array, square: Array) -> Row:
    return {
        "norm": float(np.sqrt(own[2])),
        "gradient_norm": float(np.sqrt(own[3])),
        "gradient_delta": _cosine(own[0], square[GRADIENT], square[DELTA]),
        "sign_delta": _cosine(own[1], square[SIGN], square[DELTA]),
    }


def _of_pair(inner: Array, a: Array, b: Array) -> Row:
    names = ("gradient", "sign", "delta")
    return {name: _cosine(inner[which], a[which], b[which]) for which, name in enumerate(names)}


def _cosine(inner: float, a: float, b: float) -> float | None:
    """From the inner product and the two squared norms; None where one is 0."""
    return float(np.clip(inner / np.sqrt(a * b), -1.0, 1.0)) if a > 0 and b > 0 else None
