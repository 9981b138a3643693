"""One weight update, written in three ways: what `deltageom compare` and vlora-dev's adapter similarity say of it.

    pip install vlora-dev                      # into an environment of your own: it is no part of this project
    python benchmarks/equal_deltas.py results/toy/runs/sft results/toy/runs/dpo

B A = (B G)(G^-1 A) for any invertible G: the same update, so no model can tell the adapters apart. The first adapter
is written again with a random G a module and with G = 8; the second is another run, for scale.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from deltageom.comparison import records, runs
from deltageom.geometry.aggregate.table import numbers

WEIGHTS = "adapter_model.safetensors"


def rewritten(adapter: Path, folder: Path, random: bool) -> Path:
    """The adapter with B G and G^-1 A for its B and A, float32 as it was."""
    folder.mkdir()
    shutil.copy(adapter / "adapter_config.json", folder)
    tensors, rng = load_file(adapter / WEIGHTS), np.random.default_rng(0)
    for name in [name for name in tensors if ".lora_A." in name]:
        other = name.replace(".lora_A.", ".lora_B.")
        rank = tensors[name].shape[0]
        g = np.linalg.qr(rng.normal(size=(rank, rank)))[0] * np.logspace(-1, 1, rank) if random else 8 * np.eye(rank)
        tensors[other] = (tensors[other].astype(np.float64) @ g).astype(np.float32)
        tensors[name] = np.linalg.solve(g, tensors[name].astype(np.float64)).astype(np.float32)
    save_file(tensors, folder / WEIGHTS)
    return folder


def ours(paths: dict[str, str]) -> dict[str, float]:
    """The global cosine of `it` with every other."""
    found = records.records(runs.open_all(paths, None, False, False), [1], None, 1)
    table = numbers(found, "global", {})
    rows = zip(table["a"], table["b"], table["measure"], table["value"], strict=True)
    return {b if a == "it" else a: value for a, b, measure, value in rows if measure == "cosine" and "it" in (a, b)}


def vlora(paths: dict[str, str]) -> dict[str, float]:
    from vlora.analysis import compute_similarity_matrix
    from vlora.io import load_adapter

    matrix = compute_similarity_matrix([load_adapter(path) for path in paths.values()])
    return {name: float(matrix[list(paths).index("it"), i]) for i, name in enumerate(paths)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("other", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        paths = {
            "it": str(arguments.adapter),
            "with a random G": str(rewritten(arguments.adapter, Path(name) / "random", True)),
            "with G = 8": str(rewritten(arguments.adapter, Path(name) / "scaled", False)),
            "another run": str(arguments.other),
        }
        columns = {"deltageom": ours(paths)}
        try:
            columns["vlora-dev"] = vlora(paths)
        except ImportError:
            print("vlora-dev is not installed: its column is left out")
    print("| cosine with it | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for row in list(paths)[1:]:
        print(f"| {row} | " + " | ".join(f"{values[row]:.6f}" for values in columns.values()) + " |")


if __name__ == "__main__":
    main()
