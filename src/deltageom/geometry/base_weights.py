"""The base's weights, and their leading singular triplets, found once and kept in a file per module."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from deltageom.deltas.linear_weights import LinearWeights
from deltageom.files import whole_file
from deltageom.geometry.base_spectrum import BaseSpectrum, base_spectrum
from deltageom.geometry.factored import Array
from deltageom.jobs import still_true


@dataclass(frozen=True)
class BaseModule:
    """One module's weight (d_out, d_in), float64, and the file that keeps `rank` of its singular triplets."""

    weight: Array
    file: Path
    rank: int

    @cached_property
    def identity(self) -> str:
        """What the measures against the base depend on: its weight and the code, by digests, and the rank."""
        code = still_true.of_code("geometry.base_spectrum")
        return f"{still_true.of_arrays(self.weight)} rank {self.rank} by {code}"

    def spectrum(self) -> BaseSpectrum:
        """From the file, if it is of this identity; else it is found, and the file made anew."""
        kept = _read(self.file, self.identity)
        if kept is not None:
            return kept
        found = base_spectrum(self.weight, self.rank)
        facts = {"residual": found.residual, "frobenius": found.frobenius, "exact": found.exact}
        tensors = {name: array.copy() for name, array in (("u", found.u), ("sigma", found.sigma), ("v", found.v))}
        with whole_file(self.file) as aside:
            # in one entry: safetensors writes several in any order, and the file would differ each time
            save_file(tensors, aside, {"facts": json.dumps({**facts, "identity": self.identity})})
        return found


class BaseWeights:
    """The modules of a base's folder, their triplets in `spectra`/MODULE.safetensors.

    Raises UserError for a folder that holds no model and for a module that is not there, or is quantised.
    """

    def __init__(self, folder: Path, spectra: Path, rank: int) -> None:
        self._weights, self._spectra, self._rank = LinearWeights(folder), spectra, rank

    def module(self, module: str) -> BaseModule:
        return BaseModule(self._weights.read(module), self._spectra / f"{module}.safetensors", self._rank)


def _read(path: Path, identity: str) -> BaseSpectrum | None:
    """What is in the file; None if there is none, a damaged one, or one of other weights or another rank."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as file:
            facts = json.loads(file.metadata()["facts"])
            if facts["identity"] != identity:
                return None
            u, sigma, v = (file.get_tensor(name) for name in ("u", "sigma", "v"))
        return BaseSpectrum(u, sigma, v, facts["residual"], facts["frobenius"], facts["exact"])
    except (SafetensorError, KeyError, TypeError, ValueError):  # damaged, or of another version
        return None
