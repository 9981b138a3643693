"""Linear CKA of models' hidden states, layer by layer, biased and debiased."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.numpy import load_file

from deltageom import representations
from deltageom.errors import UserError

ESTIMATORS = {
    "biased": representations.linear_cka_biased,
    "debiased": representations.linear_cka_debiased,
}


def compare(a: Path, others: Mapping[str, Path]) -> list[dict[str, float | str | int]]:
    """One row an other, layer and estimator: b, layer, estimator, similarity, n (prompts)."""
    first = load_file(a)["hidden"]
    rows: list[dict[str, float | str | int]] = []
    for name, b in others.items():
        second = load_file(b)["hidden"]
        if first.shape != second.shape:
            raise UserError(f"{a} holds hidden states of shape {first.shape}, {b} of {second.shape}: they do not match")
        rows += [
            {
                "b": name,
                "layer": layer,
                "estimator": estimator,
                "similarity": cka(first[layer], second[layer]),
                "n": first.shape[1],
            }
            for layer in range(first.shape[0])
            for estimator, cka in ESTIMATORS.items()
        ]
    return rows
