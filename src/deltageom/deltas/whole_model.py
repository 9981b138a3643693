"""The delta of a checkpoint, a whole model of which each weight was trained: dW = W - W_base. Needs no torch."""

from pathlib import Path
from typing import Literal

from deltageom.deltas.delta import Dense
from deltageom.deltas.linear_weights import LinearWeights
from deltageom.deltas.names import divided, natural, some
from deltageom.deltas.tensors import FP8, rounded
from deltageom.errors import UserError

FP8_ROUNDING = 0.026  # relative error of a matrix in E4M3, in the Frobenius norm: an eighth / sqrt(12), over its values


class Checkpoint:
    """A checkpoint and its base, each in one safetensors file or in many; the headers are parsed once.

    `modules`: the matrices that both have, in natural order: linear layers, each expert's, embeddings and the head;
    a head that both tie to the embeddings is not named twice, but may be read. `notes`: what is not compared, a line
    each. Raises UserError for a folder without weights, a damaged or incomplete one, quantised layers (but for FP8
    with scales in the base, or in both), and where they have no module in common.
    """

    kind: Literal["adapter", "checkpoint"] = "checkpoint"
    base_name: str | None = None
    base_revision: str | None = None

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder = folder
        self._run, self._base = LinearWeights(folder), LinearWeights(base)
        self._check_plain()
        either = divided({*self._run.modules, *self._base.modules})
        self.modules = sorted(filter(self.has, either), key=natural)
        if not self.modules:
            raise UserError(
                f"{folder} and {base} have no linear layers in common: one has "
                f"{some(self._run.modules) or 'none'}, the other {some(self._base.modules) or 'none'}"
            )
        self.n_weights = self._run.size
        self.notes = self._notes()

    def has(self, module: str) -> bool:
        return self._run.has(module) and self._base.has(module)

    def shape(self, module: str) -> tuple[int, ...]:
        """(d_out, d_in)."""
        return self._run.shape(module)

    def read(self, module: str) -> Dense:
        """dW = W - W_base, with the base as training in the run's type began: else the rounding of its own values
        would pass for an update.

        Raises UserError for a module that is not there, or of another shape, and for what TensorFile.read does.
        """
        shape, base_shape = self._run.shape(module), self._base.shape(module)
        if shape != base_shape:
            raise UserError(
                f"{self.folder}: module {module} is {shape}, but {base_shape} in {self._base.folder}: "
                "a checkpoint is compared with the base that it was trained from"
            )
        dtype, before = self._run.dtype(module), self._base.read(module)
        delta = self._run.read(module)
        delta -= before if dtype in (self._base.dtype(module), FP8) else rounded(before, dtype)
        return Dense(delta)

    def _check_plain(self) -> None:
        for side, what in ((self._run, "its difference to the base"), (self._base, "the difference to it")):
            for module, how in side.quantised.items():
                if not side.is_fp8(module) or (self._base.has(module) and not self._base.is_fp8(module)):
                    raise UserError(
                        f"{side.folder}: {module} is quantised ({how}), so {what} would be that rounding: give the "
                        "folder of its unquantised weights, or dequantise it and save it again"
                    )

    def _notes(self) -> list[str]:
        """One line for what one side lacks, and one for what is no matrix."""
        rest = []
        for side in (self._run, self._base):
            paired = {tensor for module in self.modules for tensor in side.pieces(module)}
            rest.append({name for name, tensor in side.names.items() if tensor not in paired})
        run, base = (_unpaired(names, other) for names, other in ((rest[0], self._base), (rest[1], self._run)))
        rounded = [module for module in self.modules if self._base.is_fp8(module)]
        notes = [
            *([_note_of_fp8(rounded, any(map(self._run.is_fp8, rounded)))] if rounded else []),
            *([f"the base lacks {some(run)}: not compared"] if run else []),
            *([f"the checkpoint lacks {some(base)}: not compared"] if base else []),
        ]
        if others := sorted(rest[0] - set(run), key=natural):
            notes.append(f"norms, biases and others that are no matrices: not compared: {some(others)}")
        return notes


def _note_of_fp8(modules: list[str], both: bool) -> str:
    sides = "of the base and of the checkpoint" if both else "of the base"
    unless = "" if both else ", unless it was trained from these very values"
    return (
        f"{some(modules)} {sides} are FP8: rounding, about {FP8_ROUNDING:.1%} of each weight's norm, is in the "
        f"delta{unless}"
    )


def _unpaired(names: set[str], other: LinearWeights) -> list[str]:
    return sorted((name for name in names if name not in other.names), key=natural)
