"""The base's weights, and their leading singular triplets, found once and kept in a file a module."""

import hashlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from deltageom.checkpoint_weights import is_transposed
from deltageom.errors import UserError
from deltageom.geometry.base_spectrum import BaseSpectrum, base_spectrum
from deltageom.geometry.factored import Array
from deltageom.provenance import code_digest
from deltageom.records import whole_file
from deltageom.tensors import ModelTensors


class BaseWeights:
    """The weights of a base's folder and, under `spectra`, MODULE.safetensors with `rank` triplets of each.

    A file is used if it is of the same weights and rank, and made anew if not. Raises UserError for a folder that
    holds no model and for a module that is not there.
    """

    def __init__(self, folder: Path, spectra: Path, rank: int) -> None:
        self._tensors, self._spectra, self._rank = ModelTensors(folder), spectra, rank
        self._transposed = is_transposed(folder)
        self._made_by = code_digest(["geometry.base_spectrum"])

    def read(self, module: str) -> Array:
        """(d_out, d_in), float64."""
        # the hub's GPT-2 lacks the prefix that an adapter of it is saved with
        names = self._ending_in(module) or self._ending_in(module.removeprefix("transformer."))
        if len(names) != 1:
            found = f"{len(names)} are: {', '.join(names)}" if names else "none is"
            raise UserError(f"{self._tensors.folder}: one tensor must be named ...{module}.weight, but {found}")
        weight = self._tensors.read(names[0])
        return np.ascontiguousarray(weight.T) if self._transposed else weight

    def _ending_in(self, module: str) -> list[str]:
        return [name for name in self._tensors.names if f".{name}".endswith(f".{module}.weight")]

    def identity(self, module: str) -> str:
        """What the measures against the base depend on: its weight and the code, by digests, and the rank."""
        return self._identity(self.read(module))

    def spectrum(self, module: str, weight: Array) -> BaseSpectrum:
        """Of `weight`, the module's."""
        path, identity = self._spectra / f"{module}.safetensors", self._identity(weight)
        kept = _read(path, identity)
        if kept is not None:
            return kept
        found = base_spectrum(weight, self._rank)
        facts = {"residual": repr(found.residual), "frobenius": repr(found.frobenius), "exact": str(found.exact)}
        tensors = {name: array.copy() for name, array in (("u", found.u), ("sigma", found.sigma), ("v", found.v))}
        with whole_file(path) as aside:
            save_file(tensors, aside, {**facts, "identity": identity})
        return found

    def _identity(self, weight: Array) -> str:
        return f"{hashlib.sha256(weight.tobytes()).hexdigest()} rank {self._rank} by {self._made_by}"


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
