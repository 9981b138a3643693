"""What a weight update is, whatever it is read from: thin factors, or a dense difference, per module."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Factors:
    """A delta dW = scale * b @ a: b (d_out, r), a (r, d_in), float64. Runs may differ in r."""

    b: NDArray[np.float64]
    a: NDArray[np.float64]
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.b.shape[0], self.a.shape[1]

    def dense(self) -> NDArray[np.float64]:
        """(d_out, d_in)."""
        return self.scale * (self.b @ self.a)


@dataclass(frozen=True)
class Dense:
    """A delta that has no thin factors: weight (d_out, d_in), float64."""

    weight: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def dense(self) -> NDArray[np.float64]:
        return self.weight


class Delta(Protocol):
    """A run's delta, opened once: its headers and configurations are parsed, its tensors read when asked for.

    `modules` such as `layers.0.self_attn.q_proj`, by layer, then by name; `base_name`: what the run itself names
    as its base, if it does, and `base_revision`; `n_weights`: of all that the run trained; `notes`: what of the run is
    no part of the delta, a line each. Forked processes may read it at the same time.
    """

    folder: Path
    kind: Literal["adapter", "checkpoint"]
    modules: list[str]
    base_name: str | None
    base_revision: str | None
    n_weights: int
    notes: list[str]

    def has(self, module: str) -> bool:
        """Whether it can be read: also parts of `modules`, an expert's `gate_proj` of its `gate_up_proj`."""

    def shape(self, module: str) -> tuple[int, ...]:
        """(d_out, d_in)."""

    def read(self, module: str) -> Factors | Dense:
        """The delta of one module; only its tensors are read."""
