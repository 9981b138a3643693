"""Muon in a precision of choice: torch.optim.Muon always computes in bfloat16.

On a GPU bfloat16 is the usual choice: Newton-Schulz forgives its rounding, and its products are many times faster. A
CPU that only emulates bfloat16 is ten times slower in it, so there it is float32.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch

QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: takes singular values in (0, 1] to about 1 in few steps


def orthogonalize(matrices: torch.Tensor, iterations: int) -> torch.Tensor:
    """Newton-Schulz: U V^T, roughly, of each matrix U S V^T in (n, rows, columns), rows <= columns."""
    a, b, c = QUINTIC
    x: torch.Tensor = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update is orthogonalised and scaled by sqrt(max(1, rows / columns)).

    For matrices only (Jordan et al. 2024); those of equal shape go through one batched product, computed in `dtype`.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        iterations: int = 3,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "iterations": iterations})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
        for group in self.param_groups:
            shapes = defaultdict(list)
            for p in group["params"]:
                shapes[tuple(sorted(p.shape))].append(p)
            for params in shapes.values():
                updates = torch.stack([self._wide(self._momentum(p, group["momentum"])) for p in params])
                updates = orthogonalize(updates.to(self.dtype), group["iterations"]).to(updates.dtype)
                for p, update in zip(params, updates, strict=True):
                    rows, columns = p.shape
                    scale = max(1.0, rows / columns) ** 0.5
                    p.sub_(update if rows <= columns else update.mT, alpha=group["lr"] * scale)

    def _momentum(self, p: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        assert p.grad is not None
        buffer: torch.Tensor = self.state[p].setdefault("momentum", torch.zeros_like(p))
        buffer.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buffer, momentum)

    @staticmethod
    def _wide(matrix: torch.Tensor) -> torch.Tensor:
        return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
