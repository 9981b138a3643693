"""Linear CKA of two models' hidden states, layer by layer, biased and debiased."""

from pathlib import Path

from safetensors.numpy import load_file

from deltageom import representations
from deltageom.errors import UserError

ESTIMATORS = {
    "biased": representations.linear_cka_biased,
    "debiased": representations.linear_cka_debiased,
}


def compare(a: Path, b: Path) -> list[dict[str, float | str | int]]:
    """One row a layer and estimator: layer, estimator, similarity, n (prompts)."""
    first, second = load_file(a)["hidden"], load_file(b)["hidden"]
    if first.shape != second.shape:
        raise UserError(f"{a} holds hidden states of shape {first.shape}, {b} of {second.shape}: they do not match")
    return [
        {
            "layer": layer,
            "estimator": name,
            "similarity": cka(first[layer], second[layer]),
            "n": first.shape[1],
        }
        for layer in range(first.shape[0])
        for name, cka in ESTIMATORS.items()
    ]
