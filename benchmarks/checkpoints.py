"""The numbers of one module of two checkpoints, against the same with a whole LAPACK SVD of each delta.

    OMP_NUM_THREADS=1 python -m benchmarks.checkpoints            # 4096x2560 and 1024x2560; some minutes
    OMP_NUM_THREADS=1 python -m benchmarks.checkpoints --shapes 2560x2560 --rounds 1

CPU seconds of `measure_module` for two float32 deltas, in either way alternately, and how far the numbers are apart.
`gaussian`: nothing but noise, the flattest spectrum; `decaying`: 64 directions of size i^-0.5 over noise a tenth as
large; `merged`: the same over noise of 1e-9, as merging an adapter in float32 leaves it, whose squares are lost.
"""

import argparse
import time
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from deltageom.deltas.delta import Dense
from deltageom.geometry import dense_svd
from deltageom.geometry.module_numbers import measure_module

Array = NDArray[np.float64]
TOP_K = 10
SIZES = {"gaussian": (0.0, 1e-3), "decaying": (1.0, 1e-3), "merged": (1.0, 1e-12)}
RUN = ("norm", "spectral_norm", "effective_rank_sigma", "effective_rank_sigma2")


def delta(kind: str, shape: tuple[int, int], seed: int) -> Dense:
    """Two seeds share half of their leading directions' size, so that angles between them are of all sizes."""
    size, noise = SIZES[kind]
    own, shared = np.random.default_rng(seed), np.random.default_rng(0)
    u, v = (np.linalg.qr(own.standard_normal((d, 64)) + shared.standard_normal((d, 64)))[0] for d in shape)
    weight = size * (u * np.arange(1, 65) ** -0.5) @ v.T + noise * own.standard_normal(shape)
    return Dense(weight.astype(np.float32).astype(np.float64))


def measured(deltas: Mapping[str, Dense]) -> tuple[float, dict[str, Any]]:
    start = time.process_time()
    found = measure_module("layers.0.self_attn.q_proj", deltas, [TOP_K])
    return time.process_time() - start, found


def differences(found: dict[str, Any], exact: dict[str, Any]) -> dict[str, float]:
    """The largest of both runs and of both sides: relative, of singular values to the largest; angles in degrees."""
    runs = list(zip(found["runs"], exact["runs"], strict=True))
    pairs = list(zip(found["pairs"], exact["pairs"], strict=True))
    sigma = [(np.array(one["singular_values"]), np.array(other["singular_values"])) for one, other in runs]
    angles = [
        np.subtract(one["angles"][0][side], other["angles"][0][side])
        for one, other in pairs
        for side in ("left", "right")
    ]
    return {
        "ranks": float(sum(one["rank"] != other["rank"] for one, other in runs)),
        "sigma / sigma_1": max(float(abs(one - other).max() / other[0]) for one, other in sigma),
        "stated": max(one["errors"]["singular_value"] / one["spectral_norm"] for one, _ in runs),
        "smallest sigma": max(float(abs(one[-1] / other[-1] - 1)) for one, other in sigma),
        "residual": max(one["errors"]["residual"] for one, _ in runs),
        "norms and effective ranks": max(abs(one[key] / other[key] - 1) for one, other in runs for key in RUN),
        "cosine": max(abs(one["cosine"] - other["cosine"]) for one, other in pairs),
        "angles": max(float(abs(of_side).max()) for of_side in angles),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="4096x2560,1024x2560")
    parser.add_argument("--kinds", default=",".join(SIZES))
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    for text in arguments.shapes.split(","):
        d_out, d_in = map(int, text.split("x"))
        for kind in arguments.kinds.split(","):
            deltas = {name: delta(kind, (d_out, d_in), seed) for seed, name in enumerate("ab", 1)}
            ours, lapack = [], []
            for _ in range(arguments.rounds):
                seconds, found = measured(deltas)
                ours.append(seconds)
                with patch.object(dense_svd, "DENSE", 10**9):  # LAPACK decomposes matrices of all sizes
                    seconds, exact = measured(deltas)
                lapack.append(seconds)
            print(f"{text} {kind}: ", end="")
            for name, values in (("ours", ours), ("whole SVD", lapack)):
                print(f"{name} {np.median(values):.2f} ({min(values):.2f}-{max(values):.2f}) s; ", end="")
            print("; ".join(f"{name} {value:.1e}" for name, value in differences(found, exact).items()), flush=True)


if __name__ == "__main__":
    main()
