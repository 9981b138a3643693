"""The base's weights, and their leading singular triplets, found once and kept in a file a module."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from deltageom.checkpoint_weights import is_transposed
from deltageom.geometry.base_spectrum import BaseSpectrum, base_spectrum
from deltageom.geometry.factored import Array
from deltageom.provenance import code_digest
from deltageom.records import whole_file
from deltageom.tensors import ModelTensors


@dataclass(frozen=True)
class BaseModule:
    """One module's weight (d_out, d_in), float64, and the file that keeps `rank` of its singular triplets."""

    weight: Array
    file: Path
    rank: int

    @cached_property
    def identity(self) -> str:
        """What the measures against the base depend on: its weight and the code, by digests, and the rank."""
        code = code_digest(["geometry.base_spectrum"])
        return f"{hashlib.sha256(self.weight.tobytes()).hexdigest()} rank {self.rank} by {code}"

    def spectrum(self) -> BaseSpectrum:
        """From the file, if it is of this identity; else it is found, and the file made anew."""
        kept = _read(self.file, self.identity)
        if kept is not None:
            return kept
        found = base_spectrum(self.weight, self.rank)
        facts = {"residual": repr(found.residual), "frobenius": repr(found.frobenius), "exact": str(found.exact)}
        tensors = {name: array.copy() for name, array in (("u", found.u), ("sigma", found.sigma), ("v", found.v))}
        with whole_file(self.file) as aside:
            save_file(tensors, aside, {**facts, "identity": self.identity})
        return found


class BaseWeights:
    """The modules of a base's folder, their triplets in `spectra`/MODULE.safetensors.

    Raises UserError for a folder that holds no model and for a module that is not there.
    """

    def __init__(self, folder: Path, spectra: Path, rank: int) -> None:
        self._tensors, self._spectra, self._rank = ModelTensors(folder), spectra, rank
        self._transposed = is_transposed(folder)

    def module(self, module: str) -> BaseModule:
        weight = self._tensors.read(self._tensors.weight_name(module))
        weight = np.ascontiguousarray(weight.T) if self._transposed else weight
        return BaseModule(weight, self._spectra / f"{module}.safetensors", self._rank)


def _read(path: Path, identity: str) -> BaseSpectrum | None:
    """What is in the file; None if there is none, a damaged one, or one of other weights or another rank."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as file:
            facts = file.metadata() or {}
            if facts.get("identity") != identity:
                return None
            u, sigma, v = (file.get_tensor(name) for name in ("u", "sigma", "v"))
        return BaseSpectrum(u, sigma, v, float(facts["residual"]), float(facts["frobenius"]), facts["exact"] == "True")
    except (SafetensorError, KeyError, ValueError):
        return None
