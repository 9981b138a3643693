"""The weight geometry of the modules of one chunk: one JSON file a module, all runs and pairs in it."""

from pathlib import Path

from deltageom import adapters
from deltageom.adapters import Factors
from deltageom.errors import UserError
from deltageom.geometry.measures import measure_module
from deltageom.records import write_json


def write(modules: list[str], runs: dict[str, Path], top_k: int, output: Path, base: Path | None = None) -> None:
    """Writes `output`/<module>.json for each module ('layers.17.self_attn.q_proj').

    `runs`: name to folder; `base`: the folder of the base's weights, needed where a run is a checkpoint.
    Raises UserError for what read_factors does, and for a top_k over a module's shorter side.
    """
    for module in modules:
        factors = {run: adapters.read_factors(folder, module, base) for run, folder in runs.items()}
        _has_directions(module, factors, top_k)
        layer = int(module.split(".")[1])
        write_json(output / f"{module}.json", {"module": module, "layer": layer, **measure_module(factors, top_k)})


def _has_directions(module: str, factors: dict[str, Factors], top_k: int) -> None:
    """A study is checked against the ranks of its adapters; the shape of a module is known only here."""
    directions = min(min(f.b.shape[0], f.a.shape[1]) for f in factors.values())
    if top_k > directions:
        raise UserError(
            f"measures.geometry.top_k {top_k} is more than the {directions} singular directions of {module}: lower it"
        )
