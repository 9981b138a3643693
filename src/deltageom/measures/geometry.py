"""The weight geometry of the modules of one chunk: one JSON file a module, all runs and pairs in it."""

from pathlib import Path

from deltageom import adapters
from deltageom.geometry.measures import measure_module
from deltageom.records import write_json


def write(modules: list[str], runs: dict[str, Path], top_k: int, output: Path) -> None:
    """Writes `output`/<module>.json for each module ('layers.17.self_attn.q_proj'); `runs`: name to adapter folder."""
    for module in modules:
        factors = {run: adapters.read_factors(folder, module) for run, folder in runs.items()}
        layer = int(module.split(".")[1])
        write_json(output / f"{module}.json", {"module": module, "layer": layer, **measure_module(factors, top_k)})
