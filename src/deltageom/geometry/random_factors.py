"""What chance gives runs that keep their A: B replaced by Gaussian noise, independent in each run.

LoRA runs share the initial A, so the input sides of their deltas are aligned whatever B has learned. The adapters
hold the trained A alone, so that one stands in for the initial one: what two runs' A learned alike counts as chance.
"""

from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from deltageom.geometry.factored import Array
from deltageom.geometry.random_subspaces import wishart_root
from deltageom.geometry.stack import Side

Indices = NDArray[np.intp]
DRAWS = 4  # random B a run; a pair has every draw of one with every draw of the other
SEED = 2410


def cosine_sd(into: Side, d_out: int) -> Array:
    """(n, n): the standard deviation of the cosine of B A_i and B' A_j over B and B', whose mean is 0.

    |A_i A_j^T| / (|A_i| |A_j| sqrt(d_out)), for the norms of B A_i hardly vary where d_out r is large.
    """
    products = into.products([c @ t for c, t in zip(into.coefficients, into.triangles, strict=True)])
    norms = np.sqrt(np.einsum("iiaa->i", products))
    with np.errstate(invalid="ignore"):  # NaN for an A of zeros
        sds: Array = np.linalg.norm(products, axis=(2, 3)) / (norms[:, None] * norms * np.sqrt(d_out))
    return sds


def leading_right_vectors(into: Side, d_out: int, k: int, names: Sequence[str], module: str) -> Array:
    """(n, DRAWS, r, k): coefficients in the bases of `into` of the k leading right singular vectors of B A_i, zero for
    an A of zeros.

    B (d_out, r) enters through the triangle of its QR decomposition alone. The draws depend on a run's name and the
    module, so that those of a pair stay as they are when runs are added.
    """
    width = into.gram.shape[-1]
    found = np.zeros((len(names), DRAWS, width, k))
    for i, name in enumerate(names):
        rng = np.random.default_rng([SEED, crc32(module.encode()), crc32(name.encode())])
        triangle = into.triangles[i]
        size = np.linalg.norm(triangle)
        if size == 0:
            continue
        product = wishart_root(rng, d_out, triangle.shape[1], DRAWS) @ (triangle / size).T
        vectors = np.linalg.eigh(product.transpose(0, 2, 1) @ product)[1][:, :, ::-1][:, :, :k]
        found[i, :, : triangle.shape[0], : vectors.shape[2]] = into.coefficients[i] @ vectors
    return found


def products(into: Side, vectors: Array, a: Indices, b: Indices) -> Array:
    """(pairs, DRAWS^2, k, k): the cross products of the random leading vectors of runs a and b, (pairs,) each."""
    moved = into.gram[a, b][:, None] @ vectors[b]
    found: Array = vectors[a].transpose(0, 1, 3, 2)[:, :, None] @ moved[:, None]
    return found.reshape(len(a), -1, *found.shape[-2:])
